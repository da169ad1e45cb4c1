"""From face vectors to coefficients: the paper's one-layer head, and the mode without one (paper section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

FACE_WIDTH = 512
"""Length of a face vector."""

_NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class CoefficientShape:
    """``G`` groups of coefficients (one a text encoder, or one for all), each ``E x K``."""

    groups: int
    positions: int
    components: int

    @property
    def size(self) -> int:
        """``G * E * K``: numbers learned for one person."""
        return self.groups * self.positions * self.components


def unit_rows(raw: torch.Tensor, shape: CoefficientShape) -> torch.Tensor:
    """``(B, G*E*K)`` to ``(B, G, E, K)`` with every row of K on the unit sphere, the best choice of the paper's ablation."""
    rows = raw.reshape(-1, shape.groups, shape.positions, shape.components)
    return functional.normalize(rows, dim=-1)


class CoefficientHead(nn.Module):
    """``x = LeakyReLU_0.2(W v + b)``, then rows to the unit sphere. Shared by all people learned together.

    ``W`` starts standard normal (the authors' "equalised" layer with multiplier 1), ``b`` zero.
    """

    def __init__(self, shape: CoefficientShape, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.randn(shape.size, FACE_WIDTH, generator=generator))
        self.bias = nn.Parameter(torch.zeros(shape.size))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Coefficients ``(B, G, E, K)`` for ``(B, 512)`` face vectors; who they belong to does not matter here."""
        return unit_rows(
            functional.leaky_relu(functional.linear(vectors, self.weight, self.bias), _NEGATIVE_SLOPE), self.shape
        )


class SpreadCoefficients(nn.Module):
    """Coefficients of any length as parameters, each in units of the celebrities' own spread along its component.

    A step of the optimizer then means as much in every component: the first ones spread several times as far as the last.
    """

    spread: torch.Tensor

    def __init__(self, shape: CoefficientShape, people: int, spread: torch.Tensor) -> None:
        """``spread`` ``(G, E, K)``: root-mean-square coefficients of the names. Starts at the mean, all zeros."""
        super().__init__()
        self.shape = shape
        self.raw = nn.Parameter(torch.zeros(people, shape.size))
        self.register_buffer("spread", spread.clamp_min(1e-8), persistent=False)

    def begin_at(self, coefficients: torch.Tensor) -> None:
        """Start from ``(P, G, E, K)`` coefficients."""
        with torch.no_grad():
            self.raw.copy_((coefficients.to(self.spread) / self.spread).reshape(self.raw.shape))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Coefficients ``(B, G, E, K)`` of the ``(B,)`` people; face vectors do not matter here."""
        rows = self.raw[people].reshape(-1, self.shape.groups, self.shape.positions, self.shape.components)
        return rows * self.spread


class DirectCoefficients(nn.Module):
    """The coefficients themselves as parameters, one row for each of ``P`` people (the paper's ablation "w/o face network")."""

    def __init__(self, shape: CoefficientShape, people: int, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.raw = nn.Parameter(torch.randn(people, shape.size, generator=generator))

    def begin_at(self, coefficients: torch.Tensor) -> None:
        """Start from ``(P, G, E, K)`` coefficients instead of random ones."""
        with torch.no_grad():
            self.raw.copy_(coefficients.reshape(self.raw.shape))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Coefficients ``(B, G, E, K)`` of the ``(B,)`` people; face vectors do not matter here."""
        return unit_rows(self.raw[people], self.shape)
