"""What the celebrities know: from a face vector straight to coefficients, by a regression that is fitted in a second.

The model draws every name; the recognition network looks at the pictures; a ridge regression says which coefficients
belong to which face. A stranger's coefficients are then known before any training.
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
from torch.nn import functional

from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest
from celeb_basis.errors import FileError, TrainingError
from celeb_basis.events import DrawingNames
from celeb_basis.faces.types import FaceNetwork, Portrait
from celeb_basis.files import write_bytes
from celeb_basis.method import Basis

# FOLDED: How the model draws the celebrities: a face vector for every name, drawn once for each checkpoint and
# FOLDED: kept on the disk.

_log = logging.getLogger(__name__)

PROMPT = "a photo of {}"
PICTURES, STEPS, GUIDANCE = 2, 20, 5.0
"""Of each name: one picture alone says less of how the model sees somebody."""
MOST = 640
"""Names that are drawn of a longer list, evenly spread: a regression needs no more, and every picture takes time."""
_WIDTH = 512
_KEEP_EVERY = 20


@dataclass(frozen=True)
class CelebrityFaces:
    """Who the model believes that its celebrities are."""

    names: tuple[str, ...]
    vectors: torch.Tensor
    """``(N, 512)`` float32, of length 1; NaN where no picture of a name shows a face."""


def generate_celebrity_faces(
    model: DiffusionModel, names: tuple[str, ...], faces: FaceNetwork, folder: Path, *, known: Sequence[Path] = ()
) -> Generator[DrawingNames, None, CelebrityFaces]:
    """Draw two pictures of every name and look at their largest faces; yields after each name. Of more than
    :data:`MOST` names some are chosen.

    What was drawn before is read from ``folder``, and kept there on the way: whoever stops loses a few pictures at most.
    A folder that cannot be written costs the time again, nothing else. ``known`` are folders that are looked into first,
    and never written: what comes with a model need not be drawn.
    """
    names = chosen(names)
    path = folder / file_name(model, names, faces)
    found = next((file for place in known if (file := place / path.name).is_file()), path)
    vectors, drawn = _kept(found, len(names))
    missing = (~drawn).nonzero()[:, 0].tolist()
    try:
        for number, row in enumerate(missing, 1):
            vectors[row] = _look(model, names[row], row, faces)
            drawn[row] = True
            if number % _KEEP_EVERY == 0:
                _keep(path, vectors, drawn)
            yield DrawingNames(len(names) - len(missing) + number, len(names))
    finally:
        if missing:
            _keep(path, vectors, drawn)
    return CelebrityFaces(names, vectors)


def chosen(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that are drawn of a list: :data:`MOST` at most, evenly spread."""
    return tuple(names[row] for row in np.linspace(0, len(names) - 1, min(len(names), MOST)).round().astype(int))


def file_name(model: DiffusionModel, names: tuple[str, ...], faces: FaceNetwork) -> str:
    """What the file is called that keeps the faces of :func:`chosen` names."""
    parts = [model.info.sha256, model.info.resolution, faces.name, PROMPT, PICTURES, STEPS, GUIDANCE, *names]
    return f"faces-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.safetensors"


def _look(model: DiffusionModel, name: str, seed: int, faces: FaceNetwork) -> torch.Tensor:
    request = GenerationRequest(
        PROMPT.replace("{}", name), count=PICTURES, seed=PICTURES * seed, steps=STEPS, guidance=GUIDANCE
    )
    pictures = [np.asarray(picture.convert("RGB")) for picture in model.generate(request)]
    if len(pictures) < PICTURES:
        raise TrainingError("Drawing the celebrities was interrupted; what was drawn is kept: start again to go on.")
    aligned = [faces.align(picture, found[0].landmarks) for picture in pictures if (found := faces.detect(picture))]
    if not aligned:
        return torch.full((_WIDTH,), torch.nan)
    return functional.normalize(torch.from_numpy(faces.embed(aligned).mean(0)).float(), dim=0)


def _kept(path: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(N, 512)`` vectors and ``(N,)`` which of them were drawn."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.is_file():
        try:
            stored = load_file(str(path))
            # Copies: what is mapped from the file holds it, and Windows would then refuse to write over it.
            vectors, drawn = stored["vectors"].float().clone(), stored["drawn"].bool().clone()
            if vectors.shape == (count, _WIDTH) and drawn.shape == (count,):
                return vectors, drawn
        except (SafetensorError, OSError, KeyError) as error:
            _log.warning("The faces of the names in %s are not readable and are drawn anew: %s", path, error)
    return torch.full((count, _WIDTH), torch.nan), torch.zeros(count, dtype=torch.bool)


def _keep(path: Path, vectors: torch.Tensor, drawn: torch.Tensor) -> None:
    from safetensors.torch import save

    try:
        write_bytes(path, save({"vectors": vectors, "drawn": drawn}))
    except FileError as error:
        _log.warning("The faces of the names are not kept. %s", error)


STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""Ridge penalties that are tried."""


@dataclass(frozen=True)
class FirstGuess:
    """An affine map from face vectors to coefficients."""

    weight: torch.Tensor
    """``(512, E*K)``."""
    face_mean: torch.Tensor
    """``(512,)``."""
    mean: torch.Tensor
    """``(E*K,)`` coefficients of the mean face."""
    shape: tuple[int, ...]
    """``(E, K)``."""
    strength: float
    """The penalty."""
    explained: float
    """Share of the variance of coefficients that is told, of names left out one at a time; below 0: worse than the mean."""

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """``(..., E, K)`` coefficients of ``(..., 512)`` face vectors."""
        flat = self.mean + (vector.float() - self.face_mean) @ self.weight
        return flat.reshape(*vector.shape[:-1], *self.shape)


def first_guesses(bases: Sequence[Basis], faces: CelebrityFaces) -> tuple[FirstGuess, ...]:
    """One regression a text encoder, on the names of its basis.

    Raises: :class:`TrainingError` as :func:`fit_first_guess` does.
    """
    guesses = []
    for basis in bases:
        rows = {name: row for row, name in enumerate(basis.names)}
        known = [place for place, name in enumerate(faces.names) if name in rows]
        coefficients = basis.name_coefficients[[rows[faces.names[place]] for place in known]]
        guesses.append(fit_first_guess(faces.vectors[known], coefficients))
    return tuple(guesses)


def guess_coefficients(
    bases: Sequence[Basis], guesses: Sequence[FirstGuess], vector: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The coefficients that the regressions predict for a face.

    They are scaled to the celebrities' root-mean-square distance to the mean: a regression always predicts less.

    Args:
        bases: One per text encoder.
        guesses: One per text encoder.
        vector: ``(512,)`` face vector.

    Returns:
        One ``(E, K)`` tensor per text encoder.
    """
    return tuple(
        functional.normalize(guess(vector), dim=-1) * basis.radius[:, None]
        for basis, guess in zip(bases, guesses, strict=True)
    )


def guess_for_portraits(
    bases: Sequence[Basis], guesses: Sequence[FirstGuess], portraits: Sequence[Portrait], *, shared: bool
) -> torch.Tensor:
    """``(G, E, K)`` coefficients at which training starts for a person: the guess for the mean face of the portraits.

    Args:
        bases: One per text encoder.
        guesses: One per text encoder.
        portraits: The person's portraits, at least one.
        shared: Whether one group of coefficients, the mean of the text encoders', serves all of them.
    """
    vector = torch.from_numpy(np.mean([portrait.vector for portrait in portraits], axis=0))
    coefficients = torch.stack(guess_coefficients(bases, guesses, functional.normalize(vector, dim=0)))
    return coefficients.mean(dim=0, keepdim=True) if shared else coefficients


def fit_first_guess(
    vectors: torch.Tensor, coefficients: torch.Tensor, strengths: Sequence[float] = STRENGTHS
) -> FirstGuess:
    """Fit ridge regression of ``(N, E, K)`` coefficients on ``(N, 512)`` face vectors.

    The penalty is the one of ``strengths`` with the least error on names left out, one at a time, in closed form.
    Names whose vector is not finite (no face was found) are left away.

    Raises: :class:`TrainingError` for fewer than three names with a face.
    """
    seen = torch.isfinite(vectors).all(dim=1)
    if int(seen.sum()) < 3:
        raise TrainingError("Fewer than three names have a face: draw more names, or use a better trained model.")
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
        explained=1.0 - errors[best] / float(total),
    )
