"""What the celebrities know: from a face vector straight to coefficients, by a regression that is fitted in a second.

The model draws every name; the recognition network looks at the pictures; a ridge regression says which coefficients
belong to which face. A stranger's coefficients are then known before any training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from celeb_basis.basis.basis import Basis
from celeb_basis.errors import LearningError
from celeb_basis.learning.name_faces import NameFaces

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


def first_guesses(bases: Sequence[Basis], faces: NameFaces) -> tuple[FirstGuess, ...]:
    """One regression a text encoder, on the names of its basis.

    Raises: :class:`LearningError` as :func:`fit_first_guess` does.
    """
    guesses = []
    for basis in bases:
        rows = {name: row for row, name in enumerate(basis.names)}
        known = [place for place, name in enumerate(faces.names) if name in rows]
        coefficients = basis.name_coefficients[[rows[faces.names[place]] for place in known]]
        guesses.append(fit_first_guess(faces.vectors[known], coefficients))
    return tuple(guesses)


def guessed(bases: Sequence[Basis], guesses: Sequence[FirstGuess], vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """``(E, K)`` coefficients of a ``(512,)`` face vector, one a text encoder, put as far from the mean as celebrities
    are: a regression's answer is always nearer."""
    return tuple(
        torch.nn.functional.normalize(guess(vector), dim=-1) * basis.radius[:, None]
        for basis, guess in zip(bases, guesses, strict=True)
    )


def fit_first_guess(
    vectors: torch.Tensor, coefficients: torch.Tensor, strengths: Sequence[float] = STRENGTHS
) -> FirstGuess:
    """Fit ridge regression of ``(N, E, K)`` coefficients on ``(N, 512)`` face vectors.

    The penalty is the one of ``strengths`` with the least error on names left out, one at a time, in closed form.
    Names whose vector is not finite (no face was found) are left away.

    Raises: :class:`LearningError` for fewer than three names with a face.
    """
    seen = torch.isfinite(vectors).all(dim=1)
    if int(seen.sum()) < 3:
        raise LearningError("Fewer than three names have a face: draw more names, or use a better trained model.")
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
