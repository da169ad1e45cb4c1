"""A first guess of a person's coefficients from their face, without any training (this project's own addition).

The model generates pictures of the celebrities, a face network embeds them, and a ridge regression learns which
coefficients belong to which face. It is fitted in a second, and then predicts the coefficients of a stranger.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.nn import functional

from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest
from celeb_basis.errors import CelebBasisError, FileError, TrainingError
from celeb_basis.events import DrawingNames
from celeb_basis.faces.network import FaceNetwork, Portrait
from celeb_basis.files import write_bytes
from celeb_basis.method import FACE_WIDTH, Basis
from celeb_basis.reading import UnreadableError, check_safetensors

_log = logging.getLogger(__name__)

PROMPT = "a photo of {}"
PICTURES, STEPS, GUIDANCE = 2, 20, 5.0
"""For each name. One picture alone says less about how the model renders a person."""

MOST = 640
"""Names that are used of a longer list, evenly spread: a regression needs no more, and every picture takes time."""

STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""Ridge penalties to choose from."""

LEAST_EXPLAINED = 0.01
"""A regression that explains no more of the variance than this explains nothing.

With faces that have nothing to do with the coefficients, the best of :data:`STRENGTHS` explains a little more than zero in
every second trial: up to 0.00001 of 640 names' coefficients, and up to 0.02 of 40 names'.
"""

_SAVE_EVERY = 20


@dataclass(frozen=True)
class CelebrityFaces:
    """Face embeddings of the celebrities as this checkpoint renders them."""

    names: tuple[str, ...]
    vectors: torch.Tensor
    """``(N, 512)`` float32, L2-normalized; NaN if no picture of a name shows a face."""


def generate_celebrity_faces(
    model: DiffusionModel, names: tuple[str, ...], faces: FaceNetwork, folder: Path, *, known: Sequence[Path] = ()
) -> Generator[DrawingNames, None, CelebrityFaces]:
    """Generate two pictures of every name and embed their largest faces, yielding after each name.

    Finished names are saved on the way, so that an interruption costs a few pictures at most.

    Args:
        model: The model that generates.
        names: The names of the basis; of more than :data:`MOST`, an even selection is used.
        faces: Detects, aligns and embeds the faces.
        folder: Where results are read from and saved to. If it cannot be written, only the time is lost.
        known: Folders that are searched first and never written: faces that come with a model need not be generated.

    Raises:
        TrainingError: If the host was interrupted while it generated.
    """
    names = chosen(names)
    path = folder / file_name(model, names, faces)
    source = next((file for place in known if (file := place / path.name).is_file()), path)
    vectors, done = _load(source, len(names))
    missing = (~done).nonzero()[:, 0].tolist()
    try:
        for number, row in enumerate(missing, 1):
            vectors[row] = _generate_face(model, names[row], row, faces)
            done[row] = True
            if number % _SAVE_EVERY == 0:
                _save(path, vectors, done)
            yield DrawingNames(len(names) - len(missing) + number, len(names))
    finally:
        if missing:
            _save(path, vectors, done)
    return CelebrityFaces(names, vectors)


def chosen(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a list that are used: :data:`MOST` at most, evenly spread."""
    return tuple(names[row] for row in np.linspace(0, len(names) - 1, min(len(names), MOST)).round().astype(int))


def file_name(model: DiffusionModel, names: tuple[str, ...], faces: FaceNetwork) -> str:
    """Name of the file with the faces of :func:`chosen` names; it changes with everything that the faces depend on."""
    parts = [model.info.sha256, model.info.resolution, faces.name, PROMPT, PICTURES, STEPS, GUIDANCE, *names]
    return f"faces-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.safetensors"


def _generate_face(model: DiffusionModel, name: str, row: int, faces: FaceNetwork) -> torch.Tensor:
    """``(512,)`` normalized mean of the face vectors in a name's pictures; NaN if none of them shows a face."""
    request = GenerationRequest(
        PROMPT.replace("{}", name), count=PICTURES, seed=PICTURES * row, steps=STEPS, guidance=GUIDANCE
    )
    pictures = [np.asarray(picture.convert("RGB")) for picture in model.generate(request)]
    if len(pictures) < PICTURES:
        raise TrainingError(
            "Generating the celebrities was interrupted. The finished ones are saved: start again to continue."
        )
    aligned = [faces.align(picture, found[0].landmarks) for picture in pictures if (found := faces.detect(picture))]
    if not aligned:
        return torch.full((FACE_WIDTH,), torch.nan)
    return functional.normalize(torch.from_numpy(faces.embed(aligned).mean(0)).float(), dim=0)


def _load(path: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(N, 512)`` vectors and ``(N,)`` flags of those that are done; none are if there is no readable file."""
    if path.is_file():
        try:
            check_safetensors(path)
            stored = load_file(str(path))
            # Copies: mapped tensors keep the file open, and Windows would then refuse to overwrite it.
            vectors, done = stored["vectors"].float().clone(), stored["drawn"].bool().clone()
            if vectors.shape == (count, FACE_WIDTH) and done.shape == (count,):
                return vectors, done
        except (CelebBasisError, UnreadableError, SafetensorError, OSError, KeyError) as error:
            _log.warning("The celebrities' faces in %s cannot be read and are generated again: %s", path, error)
    return torch.full((count, FACE_WIDTH), torch.nan), torch.zeros(count, dtype=torch.bool)


def _save(path: Path, vectors: torch.Tensor, done: torch.Tensor) -> None:
    try:
        write_bytes(path, save({"vectors": vectors, "drawn": done}))
    except FileError as error:
        _log.warning("The celebrities' faces are not saved. %s", error)


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
            f"{found}, so learning starts at the mean of the celebrities instead of a guess from the photo: the preset "
            "balanced, which takes more steps from there, gives a better likeness."
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
