"""People of any name for the checkpoint that a WebUI has loaded, with vectors from a small basis of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import Library
from celeb_basis.names.lists import shipped_names
from celeb_basis.prompts.registry import Checkpoint

COMPONENTS = 32


def add_people(folder: Path, names: Sequence[str], checkpoint: Checkpoint, seed: int = 0) -> list[Identity]:
    """Put random people into the library ``folder``."""
    built = build_bases(checkpoint.encoders(), shipped_names(), BasisOptions(components=COMPONENTS))
    bases = [one.basis for one in built]
    people = []
    for number, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed + number)
        drawn = [torch.randn(2, COMPONENTS, generator=generator) for _ in bases]
        coefficients = [torch.nn.functional.normalize(rows, dim=-1) for rows in drawn]
        people.append(new_identity(name, coefficients, bases, checkpoint.info))
        Library(folder).add(people[-1], replace=True)
    return people
