"""Synthetic bases and identities of any width, made with numpy's and torch's random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Identity
from celeb_basis.method import Basis

WIDTHS = {"sd1": {"clip_l": 768}, "sd2": {"clip_h": 1024}, "sdxl": {"clip_l": 768, "clip_g": 1280}}
PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
    b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
)
CELEBRITIES = ("Tom Hanks", "Audrey Tautou", "Zoë Saldaña", "Lionel Messi", "Tom Hardy")


def model_info(family: str = "sd1", name: str = "a-model", seed: int = 0) -> ModelInfo:
    return ModelInfo(name, family, hashlib.sha256(f"{name} {seed}".encode()).hexdigest(), 512)


def random_basis(
    encoder: str = "clip_l",
    width: int = 24,
    components: int = 6,
    seed: int = 0,
    names: Sequence[str] = CELEBRITIES,
    listed: str = "a list",
) -> Basis:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.linalg.qr(torch.randn(width, components, generator=generator))[0].T for _ in range(2)]
    return Basis(
        encoder=encoder,
        mean=0.02 * torch.randn(2, width, generator=generator),
        components=torch.stack(rows).contiguous(),
        variance=torch.rand(2, components, generator=generator).sort(dim=1, descending=True).values,
        total_variance=torch.full((2,), float(components)),
        names=tuple(names),
        name_coefficients=0.3 * torch.randn(len(names), 2, components, generator=generator),
        names_sha256=hashlib.sha256(listed.encode()).hexdigest(),
        sha256=hashlib.sha256(f"{encoder} {width} {components} {seed}".encode()).hexdigest(),
    )


def family_bases(family: str = "sd1", seed: int = 0, components: int = 6, **options: Any) -> tuple[Basis, ...]:
    """Bases of the true widths of a family's text encoders."""
    return tuple(
        random_basis(encoder, width, components, seed + i, **options)
        for i, (encoder, width) in enumerate(WIDTHS[family].items())
    )


def unit_coefficients(bases: Sequence[Basis], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    drawn = [torch.randn(basis.positions, basis.size, generator=generator) for basis in bases]
    return [torch.nn.functional.normalize(rows, dim=-1) for rows in drawn]


def person(
    name: str = "ada", family: str = "sd1", seed: int = 0, bases: Sequence[Basis] | None = None, **details: Any
) -> Identity:
    bases = bases or family_bases(family)
    return new_identity(name, unit_coefficients(bases, seed), bases, model_info(family), **details)
