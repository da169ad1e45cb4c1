"""A text encoder as the programs of the family wrap it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class FamilyTextEncoder(ABC):
    """One of the loaded checkpoint's text encoders, looked up anew each time."""

    def __init__(self, name: str, embedder: Callable[[], Any]) -> None:
        self._name = name
        self._embedder = embedder

    @property
    def name(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        return int(self.token_table().shape[1])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self._embedder().tokenize(list(texts))] if texts else []

    @abstractmethod
    def token_table(self) -> torch.Tensor: ...
