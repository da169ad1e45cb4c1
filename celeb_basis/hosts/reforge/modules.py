"""The door to what reForge has beside the WebUI's own modules."""

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
"""Modules of reForge's that this adapter uses, beside those of the WebUI that it keeps."""


def reforge_module(name: ReForgeModule) -> Any:
    """The module called ``name``.

    Raises: :class:`HostError` outside reForge.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise HostError(
            f"The module {error.name} of reForge was not found: update reForge, or the extension."
        ) from error
