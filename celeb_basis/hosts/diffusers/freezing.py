"""Frozen weights in the right precision for a while, and everything as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def frozen(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """No parameter asks for gradients, every module is in evaluation mode."""
    modules = list(modules)
    parameters = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for parameter, required in parameters:
            parameter.requires_grad_(required)
        for part, training in modes:
            part.training = training


@contextmanager
def widened(modules: Iterable[torch.nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Hold half-precision weights in the wider ``dtype``. Rounding back on leaving is exact."""
    narrower = [
        (tensor, tensor.dtype)
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.is_floating_point() and tensor.dtype.itemsize < dtype.itemsize
    ]
    try:
        for tensor, _ in narrower:
            tensor.data = tensor.data.to(dtype)
        yield
    finally:
        for tensor, before in narrower:
            tensor.data = tensor.data.to(before)


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
