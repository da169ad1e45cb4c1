"""Spaces to learn in: the celeb basis, and what it is compared with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.method import Basis
from celeb_basis.names.lists import NameList, name_list

SpaceKind = Literal["celebrities", "random", "free"]


@dataclass(frozen=True)
class Space:
    """Which space coefficients live in."""

    kind: SpaceKind = "celebrities"
    """``random``: orthonormal rows without the names' directions, around their mean; ``free``: all token vectors."""
    names: int = 0
    """How many names the basis is made from, evenly spread over the list; 0 is all of them."""
    distinct: bool = False
    """Every token counts once."""


def make_bases(host: DiffusionModel, names: NameList, space: Space, components: int) -> tuple[Basis, ...]:
    """One basis a text encoder. ``components`` beyond what the names' tokens span are lowered to it."""
    used = _some(names, space.names)
    most = _rank(host, used)
    # Other spaces start from all that the names span, so that the names' own vectors are kept whole.
    wanted = min(components, most) if space.kind == "celebrities" else most
    options = BasisOptions(components=wanted, distinct_tokens=space.distinct)
    bases = [one.basis for one in build_bases(host.text_encoders, used, options)]
    if space.kind == "random":
        bases = [_random(basis, min(components, basis.size)) for basis in bases]
    if space.kind == "free":
        bases = [_free(basis) for basis in bases]
    return tuple(bases)


def _some(names: NameList, count: int) -> NameList:
    if not count or count >= len(names.names):
        return names
    rows = torch.linspace(0, len(names.names) - 1, count).round().long().tolist()
    return name_list([names.names[row] for row in rows], f"{count} of {names.source}")


def _rank(host: DiffusionModel, names: NameList) -> int:
    """Dimensions that the names' tokens span in every column: one fewer than they are, and no more than are there."""
    built = build_bases(host.text_encoders, names, BasisOptions(components=1))
    columns = [len(np.unique(column)) - 1 for one in built for column in one.filtered.token_ids.T]
    return min(*columns, *(encoder.width for encoder in host.text_encoders))


def _random(basis: Basis, size: int) -> Basis:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(basis.positions, basis.width, size, generator=generator, dtype=torch.float64)
    components = torch.linalg.qr(rows)[0].transpose(1, 2).float().contiguous()
    return _changed(basis, "random", basis.mean, components)


def _free(basis: Basis) -> Basis:
    components = torch.eye(basis.width).expand(basis.positions, -1, -1).contiguous()
    return _changed(basis, "free", torch.zeros_like(basis.mean), components)


def _changed(basis: Basis, what: str, mean: torch.Tensor, components: torch.Tensor) -> Basis:
    vectors = basis.expand(basis.name_coefficients)
    coefficients = torch.einsum("ned,ekd->nek", vectors - mean, components)
    return replace(
        basis,
        mean=mean,
        components=components,
        variance=coefficients.var(dim=0, unbiased=False),
        name_coefficients=coefficients,
        sha256=hashlib.sha256(f"{basis.sha256} {what}".encode()).hexdigest(),
    )
