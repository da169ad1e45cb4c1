"""Access to the modules that reForge has beside the WebUI's. No other module of this package imports them."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from celeb_basis.errors import HostError

ReForgeModule = Literal[
    "ldm_patched.ldm.modules.attention",
    "ldm_patched.modules.model_management",
    "modules.sd_models_xl",
    "modules_forge.forge_clip",
    "modules_forge.forge_util",
]
"""Modules of reForge that this package uses, beside those of the WebUI that reForge has too."""


def reforge_module(name: ReForgeModule) -> Any:
    """Import a module of reForge.

    Raises:
        HostError: Outside reForge.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise HostError(
            f"The module {error.name} of reForge was not found: update reForge, or the extension."
        ) from error
