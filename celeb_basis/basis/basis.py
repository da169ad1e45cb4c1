"""The basis of one text encoder: from coefficients to token vectors and back (paper section 3.2, equations 3 to 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from celeb_basis.errors import BasisError


@dataclass(frozen=True)
class Basis:
    """The space that celebrities' names span in one text encoder's token embeddings. Float32 on the CPU.

    ``E`` token positions ("first name", "last name"), ``K`` components each, of width ``D``; made from ``N`` names.
    """

    encoder: str
    """The text encoder's name, e.g. ``"clip_l"``."""
    mean: torch.Tensor
    """``(E, D)`` mean token vector of each position."""
    components: torch.Tensor
    """``(E, K, D)`` orthonormal rows for each position."""
    variance: torch.Tensor
    """``(E, K)`` the names' variance along each component."""
    total_variance: torch.Tensor
    """``(E,)`` the names' variance over all ``D`` dimensions."""
    names: tuple[str, ...]
    """The ``N`` names used."""
    name_coefficients: torch.Tensor
    """``(N, E, K)`` the names' own coefficients."""
    names_sha256: str
    """Hash of the list of names that was given."""
    sha256: str
    """Hash of all that the basis was made from: the used names' token vectors, ``K``, and the algorithm's version."""

    @property
    def positions(self) -> int:
        """``E``."""
        return int(self.components.shape[0])

    @property
    def size(self) -> int:
        """``K``."""
        return int(self.components.shape[1])

    @property
    def width(self) -> int:
        """``D``."""
        return int(self.components.shape[2])

    @property
    def spread(self) -> torch.Tensor:
        """``(E,)`` the names' root-mean-square distance to the mean: the unit of :meth:`distance`."""
        return self.total_variance.sqrt()

    @property
    def radius(self) -> torch.Tensor:
        """``(E,)``: how long the names' coefficients are, root-mean-square, in each position."""
        return self.name_coefficients.pow(2).sum(dim=-1).mean(dim=0).sqrt()

    @property
    def deviations(self) -> torch.Tensor:
        """``(E, K)``: root-mean-square of the names' coefficients along each component."""
        return self.name_coefficients.pow(2).mean(dim=0).sqrt()

    def expand(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Token vectors ``z_e = m_e + sum_k c[e, k] B_e[k]``: ``(..., E, K)`` to ``(..., E, D)``. Differentiable.

        Computed in float32 on the coefficients' device.

        Raises: :class:`BasisError` if the last two dimensions are not ``(E, K)``.
        """
        self._check(coefficients, self.size, "coefficients")
        values = coefficients.float()
        components = self.components.to(values.device)
        return self.mean.to(values.device) + torch.einsum("...ek,ekd->...ed", values, components)

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """Coefficients of the point of the space nearest to ``(..., E, D)`` vectors: ``(..., E, K)``."""
        self._check(vectors, self.width, "token vectors")
        values = vectors.float()
        return torch.einsum("...ed,ekd->...ek", values - self.mean.to(values.device), self.components.to(values.device))

    def distance(self, coefficients: torch.Tensor) -> float:
        """How far ``(E, K)`` coefficients lie from the mean, in units of the names' own spread, averaged over positions.

        The unit sphere of the paper is about three times as far out as any celebrity in Stable Diffusion 1.
        """
        self._check(coefficients, self.size, "coefficients")
        return float((coefficients.detach().cpu().float().norm(dim=-1) / self.spread).mean())

    def nearest(self, coefficients: torch.Tensor, count: int = 5) -> tuple[tuple[str, float], ...]:
        """The ``count`` names nearest to ``(E, K)`` coefficients by cosine in coefficient space, best first."""
        cosines = name_cosines(self, coefficients)
        best = cosines.topk(min(count, len(self.names)))
        return tuple(
            (self.names[i], float(c)) for c, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )

    def coefficients_of(self, name: str) -> torch.Tensor:
        """``(E, K)`` coefficients of one of the names.

        Raises: :class:`BasisError` for a name that the basis was not made from.
        """
        try:
            return self.name_coefficients[self.names.index(name)]
        except ValueError:
            raise BasisError(
                f"The basis holds no celebrity {name!r}: choose one of the names it was made from."
            ) from None

    def _check(self, tensor: torch.Tensor, last: int, what: str) -> None:
        if tensor.shape[-2:] != (self.positions, last):
            raise BasisError(
                f"The {what} have the shape {tuple(tensor.shape)}, but the basis of {self.encoder} needs "
                f"{self.positions} x {last}: use the model and the number of components they were learned with."
            )


def name_cosines(basis: Basis, coefficients: torch.Tensor) -> torch.Tensor:
    """``(N,)`` cosine between ``(E, K)`` coefficients and every name's, all positions taken as one vector."""
    wanted = coefficients.detach().to("cpu", torch.float32).reshape(-1)
    known = basis.name_coefficients.reshape(len(basis.names), -1)
    norms = known.norm(dim=1) * wanted.norm()
    cosines: torch.Tensor = (known @ wanted) / norms.clamp(min=torch.finfo(torch.float32).tiny)
    return cosines
