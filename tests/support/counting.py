"""Counting the bytes that autograd saves between the forward and the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class Kept:
    """The saved storages, each counted once."""

    def __init__(self) -> None:
        self.storages: dict[int, torch.Tensor] = {}

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.storages.values())


@contextmanager
def counting_kept(weights: Iterable[torch.Tensor]) -> Iterator[Kept]:
    """Count what is saved, except for the weights."""
    own = {weight.untyped_storage()._cdata for weight in weights}
    kept = Kept()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (key := tensor.untyped_storage()._cdata) not in own:
            kept.storages[key] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
