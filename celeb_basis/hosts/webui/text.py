"""Prompts with words in them, encoded by the host's own code: its syntax, its chunks, its emphasis, its clip skip.

A word becomes one character that nobody types, and that character one token id that is nobody's; the host finds an
embedding for that id, as it would find one of its own database, and puts the vectors into the token embeddings. So the
outcome is bit for bit what the host makes of the same vectors in its database, wherever the word stands, and it is
differentiable in the vectors. Neither the host's syntax nor another extension ever sees the word itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.webui.chunks import marks_follow_tokens
from celeb_basis.hosts.webui.model import text_embedders, token_embedding
from celeb_basis.hosts.webui.shim import host_module, replaced
from celeb_basis.hosts.words import split_at_words

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import TokenVectors, Words

# Ids of words count down from here, far from any id of a tokenizer.
_FIRST_ID = -1_000_000
# The first character of Unicode's last private plane.
_FIRST_CHARACTER = 0x100000


@dataclass(frozen=True, eq=False)
class _Spliced:
    """What the host reads of an embedding while it encodes a prompt."""

    name: str
    vec: torch.Tensor | dict[str, torch.Tensor]
    vectors: int
    shorthash: str | None = None


class WebUITextEncoder:
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

    def token_table(self) -> torch.Tensor:
        table: torch.Tensor = token_embedding(self._embedder()).wrapped.weight.detach()
        return table


@contextmanager
def words_in_place(model: Any, words: Words, encoder_names: Sequence[str]) -> Iterator[Callable[[str], str]]:
    """Yields what turns a prompt into one in which the host, while this lasts, reads every word as its vectors.

    Raises: :class:`HostError` for vectors that do not fit the text encoders.
    """
    if not words:
        yield str
        return
    embedders = text_embedders(model)
    characters = {word: chr(_FIRST_CHARACTER + number) for number, word in enumerate(words)}
    ids = {character: _FIRST_ID - number for number, character in enumerate(characters.values())}
    spliced = {
        ids[characters[word]]: _spliced(word, vectors, embedders, encoder_names) for word, vectors in words.items()
    }
    database = host_module("sd_hijack").model_hijack.embedding_db
    find = database.find_embedding_at_position

    def find_spliced(tokens: Sequence[int], offset: int) -> Any:
        embedding = spliced.get(tokens[offset])
        return find(tokens, offset) if embedding is None else (embedding, 1)

    def with_characters(prompt: str) -> str:
        return "".join(characters.get(piece, piece) for piece in split_at_words(prompt, list(words)))

    with ExitStack() as stack:
        stack.enter_context(replaced(database, find_embedding_at_position=find_spliced))
        for embedder in embedders:
            stack.enter_context(replaced(embedder, tokenize=_splitting(embedder.tokenize, ids)))
            following = _marks_following(embedder.tokenize_line, set(spliced.values()))
            stack.enter_context(replaced(embedder, tokenize_line=following))
        yield with_characters


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


def _splitting(tokenize: Callable[[list[str]], Any], ids: Mapping[str, int]) -> Callable[[list[str]], list[list[int]]]:
    def split_and_tokenize(texts: list[str]) -> list[list[int]]:
        result = []
        for text in texts:
            tokens: list[int] = []
            for piece in split_at_words(text, list(ids)):
                tokens += [ids[piece]] if piece in ids else tokenize([piece])[0]
            result.append(tokens)
        return result

    return split_and_tokenize


def _marks_following(tokenize_line: Callable[[str], Any], ours: set[_Spliced]) -> Callable[[str], Any]:
    def tokenize_line_and_move_marks(line: str) -> Any:
        chunks, count = tokenize_line(line)
        marks_follow_tokens(chunks, ours.__contains__)
        return chunks, count

    return tokenize_line_and_move_marks


def _spliced(word: str, vectors: TokenVectors, embedders: list[Any], names: Sequence[str]) -> _Spliced:
    if not word:
        raise HostError("A word is empty: give it a name such as <person1>.")
    if len(vectors) != len(embedders):
        raise HostError(
            f"The word {word} has vectors for {len(vectors)} text encoders, the checkpoint {len(embedders)}: learn it on "
            "a checkpoint of this family."
        )
    ready = {}
    for embedder, name, of_encoder in zip(embedders, names, vectors, strict=True):
        layer = token_embedding(embedder)
        width = layer.wrapped.weight.shape[1]
        if (
            of_encoder.ndim != 2
            or of_encoder.shape[1] != width
            or len(of_encoder) != len(vectors[0])
            or not len(of_encoder)
        ):
            raise HostError(
                f"The vectors of the word {word} have the shape {tuple(of_encoder.shape)}, but the text encoder {name} "
                f"takes {max(1, len(vectors[0]))} rows of {width} numbers: use vectors made for this checkpoint."
            )
        ready[layer.textual_inversion_key] = of_encoder.to(host_module("devices").device)
    single = next(iter(ready.values()))
    return _Spliced(word, ready if len(embedders) > 1 else single, len(single))


@contextmanager
def _gradients_through(embedders: list[Any]) -> Iterator[None]:
    """SDXL's conditioner computes without gradients what is not marked as trainable."""
    import torch

    with ExitStack() as stack:
        if torch.is_grad_enabled():
            for embedder in embedders:
                stack.enter_context(replaced(embedder, is_trainable=True))
        yield
