"""Gradient checkpointing in a diffusers model for a while, and everything as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def checkpointed(model: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing switched on or off in every block of a diffusers model that knows it."""
    keys = ("gradient_checkpointing", "_gradient_checkpointing_func")
    blocks = [part for part in model.modules() if hasattr(part, keys[0]) or hasattr(part, keys[1])]
    before = [{key: vars(part)[key] for key in keys if key in vars(part)} for part in blocks]
    try:
        if wanted:
            model.enable_gradient_checkpointing()
        elif model.is_gradient_checkpointing:
            model.disable_gradient_checkpointing()
        yield
    finally:
        for part, kept in zip(blocks, before, strict=True):
            for key in keys:
                vars(part).pop(key, None)
            vars(part).update(kept)
