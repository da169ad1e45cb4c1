"""Forge's weights under gradients: it loads them in torch's inference mode, whose tensors no gradient may pass.

They are not copied. Each gets a second name, an ordinary tensor over the same memory, which stands in its place meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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
            for module in self._modules:
                for part in module.modules():
                    for held in (part._parameters, part._buffers):
                        for name, tensor in held.items():
                            if tensor is not None and tensor.is_inference():
                                self._exchange(held, name, tensor)

    def put_back(self) -> None:
        """Everything that was exchanged as it was."""
        while self._exchanged:
            held, name, tensor = self._exchanged.pop()
            held[name] = tensor

    def _exchange(self, held: dict[str, Any], name: str, tensor: Any) -> None:
        import torch

        alias = ordinary(tensor.data)
        if isinstance(tensor, torch.nn.Parameter):
            alias = torch.nn.Parameter(alias, requires_grad=False)
        self._exchanged.append((held, name, tensor))
        held[name] = alias
