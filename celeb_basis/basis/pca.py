"""Principal components of one column of token vectors, with fixed signs and a checked rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from celeb_basis.errors import BasisError

# A direction whose spread is below this share of the largest one's is rounding noise of float32 tables, not a component.
_RANK_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PrincipalComponents:
    """``N`` vectors of width ``D``, described by their ``K`` directions of largest variance. All float64."""

    mean: torch.Tensor
    """``(D,)``."""
    components: torch.Tensor
    """``(K, D)`` orthonormal rows by falling variance, the entry of largest magnitude positive."""
    variance: torch.Tensor
    """``(K,)`` variance along each component (divided by ``N - 1``)."""
    total_variance: float
    """Variance summed over all ``D`` dimensions."""


def principal_components(vectors: torch.Tensor, count: int, repeats: torch.Tensor | None = None) -> PrincipalComponents:
    """The first ``count`` principal components of ``(N, D)`` vectors, computed in float64 on the CPU.

    The eigenvectors of the ``D x D`` covariance are the right singular vectors of the centred vectors, and cost the same
    for a thousand names as for a hundred thousand.

    Parameters: ``repeats`` ``(N,)`` says how often each vector counts; once each if ``None``.

    Raises: :class:`BasisError` if the centred vectors span fewer than ``count`` dimensions.
    """
    data = vectors.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(data).all()):
        raise BasisError("The model's token embeddings hold NaN or infinite numbers: load an undamaged checkpoint.")
    weights = torch.ones(len(data), 1, dtype=torch.float64) if repeats is None else repeats.double()[:, None]
    names = int(weights.sum())
    mean = (weights * data).sum(dim=0) / names
    centred = data - mean
    covariance = (weights * centred).T @ centred / max(1, names - 1)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    variance = eigenvalues.flip(0).clamp(min=0.0)
    largest = float(variance[0])
    rank = int((variance > _RANK_TOLERANCE**2 * largest).sum()) if largest > 0 else 0
    if rank < count:
        raise BasisError(
            f"The {names} usable names span only {rank} dimensions, fewer than the {count} components asked for: "
            f"give a longer list of names or set components to {rank} or less."
        )
    components = eigenvectors.flip(1).T[:count]
    return PrincipalComponents(
        mean=mean,
        components=components * _signs(components),
        variance=variance[:count],
        total_variance=float(torch.trace(covariance)),
    )


def _signs(components: torch.Tensor) -> torch.Tensor:
    """``(K, 1)`` of +1 and -1 that make each row's entry of largest magnitude positive (the first one, if several are)."""
    largest = components.abs().argmax(dim=1, keepdim=True)
    return torch.where(components.gather(1, largest) < 0, -1.0, 1.0).to(components.dtype)
