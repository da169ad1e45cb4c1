"""``<name>`` in Forge's prompts: its text engines cut prompts into tokens as the WebUI's text encoders do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from celeb_basis.hosts.forge.model import loaded_model_or_none
from celeb_basis.hosts.forge.shim import backend_module
from celeb_basis.hosts.webui.shim import host_module
from celeb_basis.webui.adapters.forge.loaded import LoadedInForge
from celeb_basis.webui.tokens.fitting import Checkpoint
from celeb_basis.webui.tokens.host import HostTokens, Place
from celeb_basis.webui.tokens.registry import Registry, Unavailable, Word
from celeb_basis.webui.tokens.view import EngineView

_NOT_YET = "no checkpoint is loaded yet: Forge loads it with the first picture."


class ForgeTokens(HostTokens):
    """The people of one registry as words of Forge's prompts."""

    supported = "a Forge of August 2024 or later"

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        registry.without_checkpoint = _NOT_YET

    def mentioned(self, *prompts: str) -> tuple[Word | Unavailable, ...]:
        with _ordinary_tensors():
            return super().mentioned(*prompts)

    @classmethod
    def tokenizing_class(cls) -> Any:
        return backend_module("text_processing.classic_engine").ClassicTextProcessingEngine

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        return LoadedInForge()

    def places(self) -> list[Place]:
        return [(self.tokenizing_class(), "tokenize_line", self._tokenize_line), *self.prompt_places()]

    def view_of(self, encoder: Any, find: Callable[[str], Any]) -> Any:
        def find_ordinary(text: str) -> Any:
            with _ordinary_tensors():
                return find(text)

        return EngineView(encoder, find_ordinary)

    def made(self, word: Word) -> Any:
        vectors = dict(zip(word.encoders, word.vectors, strict=True))
        # SDXL's engines look for theirs by name, the one engine of the others takes what there is.
        vec = vectors if len(vectors) > 1 else next(iter(vectors.values()))
        embedding = backend_module("text_processing.textual_inversion").Embedding(vec, f"<{word.name}>")
        embedding.vectors = word.positions
        embedding.shape = sum(int(tensor.shape[-1]) for tensor in word.vectors)
        embedding.filename = str(word.path)
        return embedding

    def has_emphasis(self) -> bool:
        return bool(host_module("shared").opts.emphasis != "None")

    def comments(self) -> list[str]:
        comments: list[str] = getattr(loaded_model_or_none(), "comments", [])
        return comments


def _ordinary_tensors() -> ExitStack:
    """Forge draws in torch's inference mode; what is read and kept meanwhile is for other uses as well."""
    import torch

    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())
    return stack
