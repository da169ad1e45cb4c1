"""Two people for tests of prompts, as the command line would have learned them."""

from __future__ import annotations

from pathlib import Path

import torch

from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import save_identity
from celeb_basis.miniature import shipped_model_names


def save_people(model: DiffusionModel, folder: Path) -> None:
    """Write ``people/ada.safetensors`` and ``eve.safetensors``, both called ada, of the basis of ``model``."""
    built = build_bases(model.text_encoders, shipped_model_names(), BasisOptions(components=128))
    bases = [one.basis for one in built]
    for seed, file in enumerate(("people/ada.safetensors", "eve.safetensors")):
        drawn = torch.randn(2, 128, generator=torch.Generator().manual_seed(seed))
        coefficients = torch.nn.functional.normalize(drawn, dim=-1)
        save_identity(new_identity("ada", [coefficients], bases, model.info), folder / file)
