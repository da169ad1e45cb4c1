"""The one door to SD.Next's own modules, which are called ``modules.*`` and are there only inside a running SD.Next."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from celeb_basis.errors import HostError

SDNextModule = Literal[
    "call_queue",
    "devices",
    "extra_networks",
    "lora.lora_common",
    "modeldata",
    "processing_args",
    "progress",
    "sd_models",
    "shared",
    "textual_inversion",
]
"""SD.Next's modules that this adapter uses; nothing else of it is touched."""


def sdnext_module(name: SDNextModule) -> Any:
    """SD.Next's ``modules.<name>``.

    Raises: :class:`HostError` outside of SD.Next.
    """
    try:
        return importlib.import_module(f"modules.{name}")
    except ModuleNotFoundError as error:
        raise HostError(
            f"The module {error.name} of SD.Next was not found: update SD.Next, or the extension."
        ) from error
