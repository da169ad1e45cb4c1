"""Prompts with words in them, encoded by Forge's own code, with gradients to the words' vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.forge.model import text_engines, token_embedding
from celeb_basis.hosts.forge.shim import backend_module
from celeb_basis.hosts.forge.weights import ordinary
from celeb_basis.hosts.webui.shim import host_module, replaced
from celeb_basis.hosts.webui.splicing import Slot, words_spliced
from celeb_basis.hosts.webui_family.text import FamilyTextEncoder

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import Words


class ForgeTextEncoder(FamilyTextEncoder):
    """One of Forge's."""

    def token_table(self) -> torch.Tensor:
        return ordinary(token_embedding(self._embedder()).wrapped.weight.detach())


def words_in_place(
    model: Any, words: Words, encoder_names: Sequence[str]
) -> AbstractContextManager[Callable[[str], str]]:
    """Yields what turns a prompt into one in which Forge, while this lasts, reads every word as its vectors.

    Raises: :class:`HostError` for vectors that do not fit the text encoders.
    """
    engines = text_engines(model)
    slots = [_slot(name, engine) for name, engine in zip(encoder_names, engines, strict=True)]
    return words_spliced(words, slots, engines, [engine.embeddings for engine in engines])


def encode(model: Any, prompts: Sequence[str], width: int, height: int) -> dict[str, torch.Tensor]:
    """Forge's conditioning: ``crossattn`` ``(N, 77 n, width)`` and, for SDXL, ``vector`` for pictures of that size.

    Both are fit for gradients, whatever mode they were computed in.
    """
    model.set_clip_skip(int(host_module("shared").opts.CLIP_stop_at_last_layers))
    batch = host_module("prompt_parser").SdConditioning(list(prompts), width=width, height=height)
    engines = backend_module("text_processing.classic_engine")
    # Forge prints a line for every embedding in every prompt, and would write them into the next picture's parameters.
    with replaced(engines, print=lambda *_: None, last_extra_generation_params={}):
        conditioning = _without_inference_mode(model.get_learned_conditioning)(batch)
    parts = conditioning if isinstance(conditioning, dict) else {"crossattn": conditioning}
    return {name: ordinary(part) for name, part in parts.items()}


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
