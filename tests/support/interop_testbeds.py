"""A testbed without learning: two random identities on the miniature, for the tests of the tools."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.interop.testbed import InteropTestbed, miniature
from benchmarks.interop.tools import NAMES
from celeb_basis.basis import BasisOptions, build_basis
from celeb_basis.hosts.diffusers import load_host
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import save_identity
from celeb_basis.miniature import shipped_model, shipped_model_names


def random_testbed(folder: Path) -> InteropTestbed:
    """Identities with random coefficients, saved and loaded as by ``--identity``."""
    model = load_host(shipped_model(), device="cpu")
    basis = build_basis(model.text_encoders[0], shipped_model_names(), BasisOptions(components=16)).basis
    generator = torch.Generator().manual_seed(0)
    files = []
    for name in NAMES:
        random = torch.nn.functional.normalize(torch.randn(2, 16, generator=generator), dim=-1)
        files.append(folder / f"{name}.safetensors")
        save_identity(new_identity(name, [random], [basis], model.info), files[-1])
    return miniature(folder / "miniature", steps=1, identities=files)
