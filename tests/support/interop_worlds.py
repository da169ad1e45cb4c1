"""A world without learning: two people by chance on the miniature, for the tests of what tools make of them."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.interop.cases import PEOPLE
from benchmarks.interop.people import World, miniature
from celeb_basis.basis import BasisOptions, build_basis
from celeb_basis.hosts.diffusers import load_host
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import save_identity
from celeb_basis.miniature import shipped_model, shipped_model_names


def world_by_chance(folder: Path) -> World:
    """People with coefficients by chance, written down and taken from there, as ``--identity`` does it."""
    model = load_host(shipped_model(), device="cpu")
    basis = build_basis(model.text_encoders[0], shipped_model_names(), BasisOptions(components=16)).basis
    generator = torch.Generator().manual_seed(0)
    files = []
    for name in PEOPLE:
        drawn = torch.nn.functional.normalize(torch.randn(2, 16, generator=generator), dim=-1)
        files.append(folder / f"{name}.safetensors")
        save_identity(new_identity(name, [drawn], [basis], model.info), files[-1])
    return miniature(folder / "miniature", steps=1, identities=files)
