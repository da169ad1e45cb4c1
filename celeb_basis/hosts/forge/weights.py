"""Forge's weights under gradients: it loads them in torch's inference mode, whose tensors no gradient may pass.

They are not copied. Each gets a second name, an ordinary tensor over the same memory, which stands in its place meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.ordinary import made_in_inference_mode, of_the_kind

if TYPE_CHECKING:
    import torch


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` itself, or an ordinary tensor over the same memory if it was made in inference mode."""
    import torch

    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False), torch.no_grad():
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


class OrdinaryWeights:
    """Parameters and buffers of some modules, between :meth:`switch_on` and :meth:`put_back` as ordinary tensors."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._modules = list(modules)
        self._exchanged: list[tuple[dict[str, Any], str, Any]] = []

    def switch_on(self) -> None:
        """Exchange what is not ordinary yet."""
        import torch

        with torch.inference_mode(False):
            for held, name, tensor in made_in_inference_mode(self._modules):
                self._exchanged.append((held, name, tensor))
                held[name] = of_the_kind(tensor, ordinary(tensor.data))

    def put_back(self) -> None:
        """Everything that was exchanged as it was."""
        while self._exchanged:
            held, name, tensor = self._exchanged.pop()
            held[name] = tensor
