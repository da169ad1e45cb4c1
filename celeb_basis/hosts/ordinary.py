"""Ordinary tensors in the place of those that were made in torch's inference mode, in which some hosts load and draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def make_ordinary(modules: Iterable[torch.nn.Module]) -> None:
    """Parameters and buffers that no gradient may pass are exchanged for ordinary copies, one after the other.

    The values are the same; a tensor that several modules share stays shared.
    """
    import torch

    made: dict[int, Any] = {}
    with torch.inference_mode(False), torch.no_grad():
        for part in (part for module in modules for part in module.modules()):
            for held in (part._parameters, part._buffers):
                for name, tensor in held.items():
                    if tensor is None or not tensor.is_inference():
                        continue
                    if id(tensor) not in made:
                        copy = tensor.clone()
                        if isinstance(tensor, torch.nn.Parameter):
                            copy = torch.nn.Parameter(copy, requires_grad=False)
                        made[id(tensor)] = copy
                    held[name] = made[id(tensor)]


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """What is read and kept meanwhile is for other uses than drawing as well."""
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield
