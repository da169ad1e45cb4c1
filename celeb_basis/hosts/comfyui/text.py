"""Prompts for ComfyUI's text encoders, with people in the places of ``<name>``.

ComfyUI's own syntax for embeddings does the work: a name becomes ``embedding:`` with a word of ours, and its tokenizer is
given the person's vectors for that word. Chunks, weights and everything else are ComfyUI's, so the result is bit for bit that
of the person's exported file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from celeb_basis.diffusion_model import PlaceholderTokens
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import replaced
from celeb_basis.hosts.comfyui.modules import method_of
from celeb_basis.prompts.syntax import with_emphasis

if TYPE_CHECKING:
    from celeb_basis.hosts.comfyui.model import ComfyClip, ComfyTextEncoder

_WORD = "celeb-basis-person-"
_OURS = re.compile(rf"{_WORD}(\d+)$")
_LOOKUP = "_try_get_embedding"
"""ComfyUI's method that finds an embedding's file."""


@contextmanager
def names_as_vectors(clip: ComfyClip, placeholder_tokens: PlaceholderTokens) -> Iterator[Callable[[str], str]]:
    """Have ComfyUI's tokenizers read placeholder tokens as their vectors inside the context.

    Args:
        clip: The text encoders.
        placeholder_tokens: The tokens with their vectors for each text encoder.

    Yields:
        A function that rewrites a prompt for ComfyUI's tokenizers.

    Raises:
        HostError: For vectors that do not fit the text encoders.
    """
    numbers = {token: number for number, token in enumerate(placeholder_tokens)}
    with ExitStack() as stack:
        for index, encoder in enumerate(clip.encoders):
            vectors = [_checked(token, of_token, index, encoder) for token, of_token in placeholder_tokens.items()]
            tokenizer = encoder.tokenizer
            lookup = _finding(vectors, method_of(tokenizer, _LOOKUP))
            # Without a folder of embeddings ComfyUI would read "embedding:" as text.
            folder = method_of(tokenizer, "__dict__").get("embedding_directory") or []
            stack.enter_context(replaced(tokenizer, **{_LOOKUP: lookup, "embedding_directory": folder}))

        def rewrite(prompt: str) -> str:
            return _with_words(prompt, numbers)

        yield rewrite


def _finding(vectors: Sequence[torch.Tensor], ordinary: Callable[[str], Any]) -> Callable[[str], Any]:
    """ComfyUI's lookup of an embedding, which also knows our words; it answers what follows the word as well."""

    def lookup(name: str) -> Any:
        word, *rest = name.split()
        found = _OURS.match(word)
        return (vectors[int(found[1])], " ".join(rest)) if found else ordinary(name)

    return lookup


def _checked(token: str, of_token: Sequence[torch.Tensor], index: int, encoder: ComfyTextEncoder) -> torch.Tensor:
    if len(of_token) <= index:
        raise HostError(
            f"The placeholder token {token} has no vectors for the text encoder {encoder.name}: learn it on this model."
        )
    vectors = of_token[index]
    if vectors.ndim != 2 or vectors.shape[1] != encoder.width or not len(vectors):
        raise HostError(
            f"The vectors of the placeholder token {token} have the shape {tuple(vectors.shape)}, but the text encoder "
            f"{encoder.name} takes rows of {encoder.width} numbers: use vectors made for this model."
        )
    return vectors


def _with_words(prompt: str, numbers: Mapping[str, int]) -> str:
    """``prompt`` with every placeholder token as ``embedding:`` and our word, between spaces."""
    if not numbers:
        return prompt
    known = {token[1:-1]: token for token in numbers if token.startswith("<") and token.endswith(">")}
    text = with_emphasis(prompt, known.get)
    pattern = "|".join(re.escape(token) for token in sorted(numbers, key=len, reverse=True))
    return re.sub(pattern, lambda found: f" embedding:{_WORD}{numbers[found[0]]} ", text)


def encode(clip: ComfyClip, prompt: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """ComfyUI's conditioning of one prompt, by its own code, as its node *CLIP Text Encode* does it.

    Returns:
        ``(1, 77 n, width)`` and the pooled output ``(1, P)``, on ComfyUI's intermediate device.
    """
    tokens = method_of(clip.clip, "tokenize")(prompt)
    states, pooled = method_of(clip.clip, "encode_from_tokens")(tokens, return_pooled=True)
    return states, pooled


def encode_scheduled(clip: ComfyClip, prompt: str) -> Any:
    """ComfyUI's CONDITIONING of one prompt, exactly as its node *CLIP Text Encode* gives it, hooks and schedules included."""
    tokens = method_of(clip.clip, "tokenize")(prompt)
    return method_of(clip.clip, "encode_from_tokens_scheduled")(tokens)
