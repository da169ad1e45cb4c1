"""Prompts with words in them, encoded by the host's own code: its syntax, its chunks, its emphasis, its clip skip.

A word becomes one character that nobody types, and that character one token id that is nobody's; the host finds an
embedding for that id, as it would find one of its own database, and puts the vectors into the token embeddings. So the
outcome is bit for bit what the host makes of the same vectors in its database, wherever the word stands, and it is
differentiable in the vectors. Neither the host's syntax nor another extension ever sees the word itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.webui.model import text_embedders, token_embedding
from celeb_basis.hosts.webui.shim import host_module, replaced
from celeb_basis.hosts.webui.splicing import Slot, words_spliced
from celeb_basis.hosts.webui_family.text import FamilyTextEncoder

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import Words


class WebUITextEncoder(FamilyTextEncoder):
    """One of the WebUI's, or of a fork that kept them."""

    def token_table(self) -> torch.Tensor:
        table: torch.Tensor = token_embedding(self._embedder()).wrapped.weight.detach()
        return table


def words_in_place(
    model: Any, words: Words, encoder_names: Sequence[str]
) -> AbstractContextManager[Callable[[str], str]]:
    """Yields what turns a prompt into one in which the host, while this lasts, reads every word as its vectors.

    Raises: :class:`HostError` for vectors that do not fit the text encoders.
    """
    embedders = text_embedders(model)
    slots = [_slot(name, embedder) for name, embedder in zip(encoder_names, embedders, strict=True)]
    return words_spliced(words, slots, embedders, [host_module("sd_hijack").model_hijack.embedding_db])


def check_emphasis(whose: str) -> None:
    """Raise :class:`HostError` if the settings, ``whose`` as in a sentence, ask for prompts as they were read long ago."""
    if host_module("shared").opts.use_old_emphasis_implementation:
        raise HostError(f'Switch off "Use old emphasis implementation" in {whose} settings to learn.')


def encode(model: Any, prompts: Sequence[str], width: int, height: int) -> dict[str, torch.Tensor]:
    """The host's conditioning: ``crossattn`` ``(N, 77 n, width)`` and, for SDXL, ``vector`` for pictures of that size."""
    if not model.is_sdxl:
        return {"crossattn": model.get_learned_conditioning(list(prompts))}
    batch = host_module("prompt_parser").SdConditioning(list(prompts), width=width, height=height)
    with _gradients_through(text_embedders(model)):
        conditioning: dict[str, torch.Tensor] = model.get_learned_conditioning(batch)
    return conditioning


def size_vector(model: Any, count: int, width: int, height: int) -> torch.Tensor:
    """SDXL's part of ``vector`` that tells a picture's size, ``(count, S)``: original size, crop and target size."""
    import torch

    devices, opts = host_module("devices"), host_module("shared").opts
    sizes = {
        "original_size_as_tuple": [height, width],
        "crop_coords_top_left": [opts.sdxl_crop_top, opts.sdxl_crop_left],
        "target_size_as_tuple": [height, width],
    }
    encoders = set(map(id, text_embedders(model)))
    parts = []
    with torch.no_grad():
        for embedder in model.conditioner.embedders:
            if id(embedder) not in encoders:
                given = torch.tensor(sizes[embedder.input_key], device=devices.device, dtype=devices.dtype)
                parts.append(embedder(given.repeat(count, 1)))
    return torch.cat(parts, dim=1)


def _slot(name: str, embedder: Any) -> Slot:
    layer = token_embedding(embedder)
    return Slot(name, layer.textual_inversion_key, int(layer.wrapped.weight.shape[1]), host_module("devices").device)


@contextmanager
def _gradients_through(embedders: list[Any]) -> Iterator[None]:
    """SDXL's conditioner computes without gradients what is not marked as trainable."""
    import torch

    with ExitStack() as stack:
        if torch.is_grad_enabled():
            for embedder in embedders:
                stack.enter_context(replaced(embedder, is_trainable=True))
        yield
