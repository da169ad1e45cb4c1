"""Small bases for toy models, and pools of views that need no photo."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image

from celeb_basis.basis import BasisOptions, build_basis
from celeb_basis.diffusion_model import DiffusionModel, LatentDistribution
from celeb_basis.method import Basis
from celeb_basis.names.lists import NameList
from celeb_basis.names.lists import name_list as names_of
from celeb_basis.training.dataset import PersonViews, ViewPool


def name_list(count: int) -> NameList:
    return names_of([f"first{i} last{i}" for i in range(count)], "a test's list")


def toy_bases(model: DiffusionModel, components: int = 8, names: int = 60) -> tuple[Basis, ...]:
    options = BasisOptions(components=components)
    return tuple(build_basis(encoder, name_list(names), options).basis for encoder in model.text_encoders)


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def toy_pool(people: Sequence[str] = ("ann",), views: int = 6, seed: int = 0, side: int = 8) -> ViewPool:
    generator = torch.Generator().manual_seed(seed)

    def person(name: str) -> PersonViews:
        base = torch.randn(1, 4, side, side, generator=generator)
        center = torch.randn(512, generator=generator)
        vectors = center + 0.3 * torch.randn(views, 512, generator=generator)
        return PersonViews(
            name=name,
            thumbnail=_png(),
            latents=LatentDistribution(base.repeat(views, 1, 1, 1), torch.full((views, 4, side, side), 0.05)),
            vectors=torch.nn.functional.normalize(vectors, dim=-1),
            descriptions=tuple("" if i % 2 else "small, on a plain grey background" for i in range(views)),
        )

    return ViewPool(tuple(person(name) for name in people), "toy face model")
