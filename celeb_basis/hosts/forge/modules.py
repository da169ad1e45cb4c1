"""The door to what only Forge has: its package ``backend``. Its ``modules.*`` are reached as in the WebUI it comes from."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import replaced

BackendModule = Literal[
    "attention",
    "memory_management",
    "modules.k_prediction",
    "nn.unet",
    "text_processing.classic_engine",
    "text_processing.textual_inversion",
]
"""The modules of Forge's backend that this adapter uses; nothing else of it is touched."""


def backend_module(name: BackendModule) -> Any:
    """Forge's ``backend.<name>``.

    Raises: :class:`HostError` outside of Forge, or in one too old to have it.
    """
    try:
        return importlib.import_module(f"backend.{name}")
    except ModuleNotFoundError as error:
        raise HostError(
            f"The module {error.name} of Forge was not found: use this from inside a Forge of August 2024 or later, as "
            "its extension."
        ) from error


@contextmanager
def nothing_moves() -> Iterator[None]:
    """Forge brings a model to the device whenever it is about to use it; meanwhile everything stays where it is."""
    memory = backend_module("memory_management")
    with replaced(memory, load_model_gpu=lambda *_: None, load_models_gpu=lambda *_, **__: None):
        yield
