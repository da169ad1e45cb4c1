"""Access to the modules that only Forge has: its package ``backend`` and some of ``modules_forge``.

Its ``modules.*`` are reached as in the WebUI that it comes from. No other module of this package imports Forge's.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import replaced

ForgeModule = Literal[
    "backend.attention",
    "backend.memory_management",
    "backend.modules.k_prediction",
    "backend.nn.unet",
    "backend.text_processing.classic_engine",
    "backend.text_processing.textual_inversion",
    "modules_forge.main_entry",
]
"""Forge's own modules that this package uses. It touches nothing else of Forge."""


def forge_module(name: ForgeModule) -> Any:
    """Import a module of Forge's own.

    Raises:
        HostError: Outside of Forge, or in one too old to have it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise HostError(
            f"The module {error.name} of Forge was not found: use this from inside a Forge of August 2024 or later, as "
            "its extension."
        ) from error


def embeddings_page() -> Any | None:
    """The module of Forge's page of embeddings, which reads their folder by itself; ``None`` before it is loaded."""
    return sys.modules.get("modules.ui_extra_networks_textual_inversion")


@contextmanager
def no_model_moves() -> Iterator[None]:
    """Keep everything where it is inside the context; Forge moves a model to the device whenever it is about to use it."""
    memory = forge_module("backend.memory_management")
    with replaced(memory, load_model_gpu=lambda *_: None, load_models_gpu=lambda *_, **__: None):
        yield
