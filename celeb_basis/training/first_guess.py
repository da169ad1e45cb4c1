"""A first guess of a person's coefficients from their face, without any training (this project's own addition).

The model generates pictures of the celebrities, a face network embeds them
(:mod:`celeb_basis.training.celebrity_faces`), and a ridge regression learns which coefficients belong to which face. It is
fitted in a second, and then predicts the coefficients of a stranger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.errors import TrainingError
from celeb_basis.events import Event, PresetChosen
from celeb_basis.faces.network import FaceNetwork, Portrait
from celeb_basis.files import cache_folder
from celeb_basis.method import Basis
from celeb_basis.settings import TrainingSettings, automatic_preset
from celeb_basis.training.celebrity_faces import CelebrityFaces, generate_celebrity_faces, stored_celebrity_faces

STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""Ridge penalties to choose from."""

LEAST_EXPLAINED = 0.01
"""A regression that explains no more of the variance than this explains nothing.

With faces that have nothing to do with the coefficients, the best of :data:`STRENGTHS` explains a little more than zero in
every second trial: up to 0.00001 of 640 names' coefficients, and up to 0.02 of 40 names'.
"""


@dataclass(frozen=True)
class FirstGuess:
    """An affine map from face vectors to the coefficients of one text encoder."""

    weight: torch.Tensor
    """``(512, E*K)``."""
    face_mean: torch.Tensor
    """``(512,)``."""
    mean: torch.Tensor
    """``(E*K,)`` coefficients of the mean face."""
    shape: tuple[int, ...]
    """``(E, K)``."""
    strength: float
    """The ridge penalty."""
    explained: float
    """Share of the coefficients' variance that is explained (leave-one-out R2); below 0 is worse than the mean."""

    @property
    def informative(self) -> bool:
        """Whether it predicts a left-out celebrity better than the mean of the others does, by more than chance."""
        return self.explained > LEAST_EXPLAINED

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """``(..., E, K)`` coefficients of ``(..., 512)`` face vectors."""
        flat = self.mean + (vector.float() - self.face_mean) @ self.weight
        return flat.reshape(*vector.shape[:-1], *self.shape)


def first_guesses(bases: Sequence[Basis], faces: CelebrityFaces) -> tuple[FirstGuess, ...]:
    """Fit one regression per text encoder, on the names of its basis.

    Raises:
        TrainingError: If fewer than three names have a face.
    """
    guesses = []
    for basis in bases:
        rows = {name: row for row, name in enumerate(basis.names)}
        known = [index for index, name in enumerate(faces.names) if name in rows]
        coefficients = basis.name_coefficients[[rows[faces.names[index]] for index in known]]
        guesses.append(fit_first_guess(faces.vectors[known], coefficients))
    return tuple(guesses)


def celebrity_faces_for(
    model: DiffusionModel,
    bases: Sequence[Basis],
    faces: FaceNetwork,
    settings: TrainingSettings,
    known: Sequence[Path],
) -> Generator[Event, None, CelebrityFaces]:
    """The faces that the regressions are fitted on, from the cache or generated now as the settings say.

    Args:
        model: The model that generates.
        bases: One per text encoder.
        faces: The face network.
        settings: How many celebrities, and how large their pictures are.
        known: Folders with files of faces that come with a model.
    """
    return generate_celebrity_faces(
        model,
        bases[0].names,
        faces,
        faces_folder(),
        known=known,
        most=settings.celebrities,
        size=settings.celebrity_size,
        precision=settings.precision,
        explained=partial(explained_share, bases),
    )


def choose_preset(
    model: DiffusionModel,
    bases: Sequence[Basis],
    faces: FaceNetwork,
    choice: tuple[TrainingSettings, TrainingSettings],
    known: Sequence[Path],
) -> tuple[TrainingSettings, PresetChosen]:
    """Choose settings by whether the checkpoint is prepared, for a user who has left that open.

    It is prepared if :func:`celebrity_faces_for` would generate nothing. If the guess from its faces says nothing, the
    settings are those where it is not.

    Args:
        model: The model that generates.
        bases: One per text encoder.
        faces: The face network.
        choice: The settings where it is not prepared, and those where it is.
        known: Folders with files of faces that come with a model.
    """
    settings, usable = choice[1], False
    stored, enough = stored_celebrity_faces(
        model,
        bases[0].names,
        faces.name,
        faces_folder(),
        known=known,
        most=settings.celebrities,
        size=settings.celebrity_size,
    )
    if enough and stored is not None:
        with contextlib.suppress(TrainingError):  # too few of the faces belong to the bases
            usable = any(one.informative for one in first_guesses(bases, stored))
    return choice[usable], PresetChosen(automatic_preset(prepared=usable), enough)


def faces_folder() -> Path:
    """Where the celebrities' faces are kept, as checkpoints render them."""
    return cache_folder() / "name-faces"


def explained_share(bases: Sequence[Basis], faces: CelebrityFaces) -> float:
    """The share of the coefficients' variance that the regressions explain (leave-one-out), mean over the text encoders.

    Raises:
        TrainingError: If fewer than three names have a face.
    """
    return float(np.mean([guess.explained for guess in first_guesses(bases, faces)]))


def guess_coefficients(
    bases: Sequence[Basis], guesses: Sequence[FirstGuess], vector: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The coefficients that the regressions predict for a face.

    They are scaled to the celebrities' root-mean-square distance to the mean: a regression always predicts less. One that
    explains nothing (:attr:`FirstGuess.informative`) guesses the mean, whose coefficients are zero.

    Args:
        bases: One per text encoder.
        guesses: One per text encoder.
        vector: ``(512,)`` face vector.

    Returns:
        One ``(E, K)`` tensor per text encoder.
    """
    found = []
    for basis, guess in zip(bases, guesses, strict=True):
        coefficients = functional.normalize(guess(vector), dim=-1) * basis.radius[:, None]
        found.append(coefficients if guess.informative else torch.zeros_like(coefficients))
    return tuple(found)


def guess_for_portraits(
    bases: Sequence[Basis], guesses: Sequence[FirstGuess], portraits: Sequence[Portrait], *, shared: bool
) -> torch.Tensor:
    """``(G, E, K)`` coefficients at which training starts for a person: the guess for the mean face of the portraits.

    Args:
        bases: One per text encoder.
        guesses: One per text encoder.
        portraits: The person's portraits, at least one.
        shared: Whether one group of coefficients, the mean of the text encoders', serves all of them. Those whose
            regression explains nothing do not count.
    """
    vector = torch.from_numpy(np.mean([portrait.vector for portrait in portraits], axis=0))
    coefficients = torch.stack(guess_coefficients(bases, guesses, functional.normalize(vector, dim=0)))
    if not shared:
        return coefficients
    count = max(1, sum(guess.informative for guess in guesses))
    return coefficients.sum(dim=0, keepdim=True) / count


def unexplained(bases: Sequence[Basis], guesses: Sequence[FirstGuess]) -> str:
    """A sentence for the user if a regression explains nothing, so that learning starts at the mean; else empty.

    Args:
        bases: One per text encoder.
        guesses: One per text encoder.
    """
    poor = [(basis.encoder, guess) for basis, guess in zip(bases, guesses, strict=True) if not guess.informative]
    if not poor:
        return ""
    shares = ", ".join(f"{encoder} {guess.explained:.1%}" for encoder, guess in poor)
    found = (
        "On this checkpoint, a face says nothing about the coefficients of its name (variance explained, leave-one-out: "
        f"{shares})"
    )
    if len(poor) == len(guesses):
        return (
            f"{found}, so learning starts at the mean of the celebrities instead of a guess from the photo: after "
            "the preset quick, try balanced, which takes five times as many steps from there."
        )
    return f"{found}, so learning starts at the mean of the celebrities in that text encoder."


def fit_first_guess(
    vectors: torch.Tensor, coefficients: torch.Tensor, strengths: Sequence[float] = STRENGTHS
) -> FirstGuess:
    """Fit a ridge regression from face vectors to coefficients.

    The penalty is the one with the smallest leave-one-out error, which has a closed form.

    Args:
        vectors: ``(N, 512)`` face vectors; names whose vector is not finite (no face was found) are skipped.
        coefficients: ``(N, E, K)``.
        strengths: Ridge penalties to choose from.

    Raises:
        TrainingError: If fewer than three names have a face.
    """
    seen = torch.isfinite(vectors).all(dim=1)
    if int(seen.sum()) < 3:
        raise TrainingError(
            "The model renders fewer than three of the names with a face: use a longer list of names, or a better trained "
            "model."
        )
    x, y = vectors[seen].double(), coefficients[seen].double().flatten(1)
    face_mean, mean = x.mean(dim=0), y.mean(dim=0)
    count = len(x)
    left, singular, right = torch.linalg.svd(x - face_mean, full_matrices=False)
    kept = singular > singular.max() * 1e-10
    left, singular, right = left[:, kept], singular[kept], right[kept]
    turned = left.T @ (y - mean)
    total = (((y - mean) * count / (count - 1)) ** 2).sum()
    errors = []
    for strength in strengths:
        shrunk = singular**2 / (singular**2 + strength)
        residual = (y - mean) - left @ (shrunk[:, None] * turned)
        # The intercept is one more column, orthogonal to the others: it adds 1/N to every leverage.
        leverage = ((left**2) * shrunk).sum(dim=1) + 1.0 / count
        errors.append(float(((residual / (1 - leverage)[:, None]) ** 2).sum()))
    best = min(range(len(errors)), key=errors.__getitem__)
    factor = singular / (singular**2 + strengths[best])
    return FirstGuess(
        weight=(right.T @ (factor[:, None] * turned)).float(),
        face_mean=face_mean.float(),
        mean=mean.float(),
        shape=tuple(coefficients.shape[1:]),
        strength=strengths[best],
        explained=1.0 - errors[best] / float(total) if float(total) > 0 else 0.0,
    )
