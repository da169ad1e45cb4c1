"""Which program the extension runs in, recognized by its folders. Nothing of the program is imported."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeb_basis.hosts.a1111.app import Adapter

# What only this program has in its folder, and the class of its adapter. Checked in this order.
_FORKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("modules_forge/presets.py", "backend/diffusion_engine"), "celeb_basis.hosts.forge.app:ForgeNeo"),
    (("modules_forge", "backend/diffusion_engine"), "celeb_basis.hosts.forge.app:Forge"),
    (("modules_forge", "ldm_patched"), "celeb_basis.hosts.reforge.app:ReForge"),
    (("installer.py", "modules/processing_diffusers.py"), "celeb_basis.hosts.sdnext.app:SDNext"),
)
_OTHERWISE = "celeb_basis.hosts.a1111.app:Automatic1111"


def adapter() -> Adapter:
    """The adapter for the running program; AUTOMATIC1111's where there is none, or one that is not known."""
    return adapter_for(program_folder())


def adapter_for(folder: Path | None) -> Adapter:
    """The adapter for the program in ``folder``."""
    module, _, kind = _adapter_class(folder).partition(":")
    made: Adapter = getattr(importlib.import_module(module), kind)()
    return made


def program_folder() -> Path | None:
    """The folder of the running program: the one that its package ``modules`` lies in."""
    try:
        found = importlib.util.find_spec("modules")
    except (ImportError, ValueError):
        return None
    places = list(found.submodule_search_locations or ()) if found is not None else []
    return Path(places[0]).parent if places else None


def _adapter_class(folder: Path | None) -> str:
    if folder is not None:
        for marks, place in _FORKS:
            if all((folder / mark).exists() for mark in marks):
                return place
    return _OTHERWISE
