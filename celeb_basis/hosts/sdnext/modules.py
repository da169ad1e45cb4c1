"""Access to SD.Next's own modules (``modules.*``), which exist only inside a running SD.Next.

No other module of this package imports them.
"""

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
"""SD.Next's modules that this package uses. It touches nothing else of SD.Next."""


def sdnext_module(name: SDNextModule) -> Any:
    """Import SD.Next's ``modules.<name>``.

    Raises:
        HostError: Outside of SD.Next.
    """
    try:
        return importlib.import_module(f"modules.{name}")
    except ModuleNotFoundError as error:
        raise HostError(
            f"The module {error.name} of SD.Next was not found: update SD.Next, or the extension."
        ) from error


def loaded_pipeline_or_none() -> Any | None:
    """SD.Next's pipeline as it is now, without loading one. Never keep it: SD.Next makes a new one for each task."""
    pipeline = sdnext_module("modeldata").model_data.sd_model
    return getattr(pipeline, "pipe", pipeline)
