"""Ordinary tensors in the place of those that were made in torch's inference mode, in which some hosts load and draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def made_in_inference_mode(modules: Iterable[torch.nn.Module]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Parameters and buffers that no gradient may pass: what holds each, under which name, and the tensor.

    They may be exchanged while this goes on.
    """
    for part in (part for module in modules for part in module.modules()):
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_inference():
                    yield held, name, tensor


def of_the_kind(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values``, as a parameter if ``tensor`` is one."""
    import torch

    return torch.nn.Parameter(values, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else values


def make_ordinary(modules: Iterable[torch.nn.Module]) -> None:
    """What was made in inference mode is exchanged for ordinary copies, one after the other.

    The values are the same; a tensor that several modules share stays shared.
    """
    import torch

    made: dict[int, torch.Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():
        for held, name, tensor in made_in_inference_mode(modules):
            if id(tensor) not in made:
                made[id(tensor)] = of_the_kind(tensor, tensor.clone())
            held[name] = made[id(tensor)]


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """What is read and kept meanwhile is for other uses than drawing as well."""
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield
