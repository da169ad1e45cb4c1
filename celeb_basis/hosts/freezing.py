"""Frozen weights in the right precision for a while, and everything as it was afterwards; for every torch model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
