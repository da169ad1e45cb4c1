"""Prompts with words in them, encoded by Forge's own code, with gradients to the words' vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.forge.model import text_engines, token_embedding
from celeb_basis.hosts.forge.shim import backend_module
from celeb_basis.hosts.forge.weights import ordinary
from celeb_basis.hosts.webui.shim import host_module, replaced
from celeb_basis.hosts.webui.splicing import Slot, Splice

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import Words


class ForgeTextEncoder:
    """One of the loaded checkpoint's text encoders, looked up anew each time."""

    def __init__(self, name: str, engine: Callable[[], Any]) -> None:
        self._name = name
        self._engine = engine

    @property
    def name(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        return int(self.token_table().shape[1])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self._engine().tokenize(list(texts))] if texts else []

    def token_table(self) -> torch.Tensor:
        return ordinary(token_embedding(self._engine()).wrapped.weight.detach())


@contextmanager
def words_in_place(model: Any, words: Words, encoder_names: Sequence[str]) -> Iterator[Callable[[str], str]]:
    """Yields what turns a prompt into one in which Forge, while this lasts, reads every word as its vectors.

    Raises: :class:`HostError` for vectors that do not fit the text encoders.
    """
    if not words:
        yield str
        return
    engines = text_engines(model)
    splice = Splice(words, [_slot(name, engine) for name, engine in zip(encoder_names, engines, strict=True)])
    with ExitStack() as stack:
        for engine in engines:
            find = splice.finding(engine.embeddings.find_embedding_at_position)
            stack.enter_context(replaced(engine.embeddings, find_embedding_at_position=find))
            stack.enter_context(replaced(engine, tokenize=splice.splitting(engine.tokenize)))
            stack.enter_context(replaced(engine, tokenize_line=splice.marks_following(engine.tokenize_line)))
        yield splice.written


def encode(model: Any, prompts: Sequence[str], width: int, height: int) -> dict[str, torch.Tensor]:
    """Forge's conditioning: ``crossattn`` ``(N, 77 n, width)`` and, for SDXL, ``vector`` for pictures of that size."""
    model.set_clip_skip(int(host_module("shared").opts.CLIP_stop_at_last_layers))
    batch = host_module("prompt_parser").SdConditioning(list(prompts), width=width, height=height)
    engines = backend_module("text_processing.classic_engine")
    # Forge prints a line for every embedding in every prompt, and would write them into the next picture's parameters.
    with replaced(engines, print=lambda *_: None, last_extra_generation_params={}):
        conditioning = _without_inference_mode(model.get_learned_conditioning)(batch)
    return conditioning if isinstance(conditioning, dict) else {"crossattn": conditioning}


def size_vector(model: Any, count: int, width: int, height: int) -> torch.Tensor:
    """SDXL's part of ``vector`` that tells a picture's size, ``(count, S)``: original size, crop and target size."""
    import torch

    opts = host_module("shared").opts
    sizes = [height, width, opts.sdxl_crop_top, opts.sdxl_crop_left, height, width]
    parts = [model.embedder(torch.Tensor([size])) for size in sizes]
    return torch.cat(parts).flatten()[None].repeat(count, 1)


def _slot(name: str, engine: Any) -> Slot:
    device = backend_module("memory_management").text_encoder_device()
    return Slot(name, engine.embedding_key, int(token_embedding(engine).wrapped.weight.shape[1]), device)


def _without_inference_mode(method: Any) -> Callable[..., Any]:
    """A method as it was before ``torch.inference_mode`` decorated it."""
    plain = getattr(method.__func__, "__wrapped__", None)
    return method if plain is None else plain.__get__(method.__self__)  # type: ignore[no-any-return]
