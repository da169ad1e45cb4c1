"""Prompts with words in them, encoded by the host's own code: its syntax, its chunks, its emphasis, its clip skip.

A word becomes one character that nobody types, and that character one token id that is nobody's; the host finds an
embedding for that id, as it would find one of its own database, and puts the vectors into the token embeddings. So the
outcome is bit for bit what the host makes of the same vectors in its database, wherever the word stands, and it is
differentiable in the vectors. Neither the host's syntax nor another extension ever sees the word itself.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from celeb_basis.diffusion_model import split_at_placeholders
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import FamilyTextEncoder
from celeb_basis.hosts.a1111.model import text_embedders, token_embedding
from celeb_basis.hosts.a1111.modules import host_module, replaced

if TYPE_CHECKING:
    import torch

    from celeb_basis.diffusion_model import PlaceholderTokens, TokenVectors


# FOLDED: Keeping a person with their place when the host moves it into the next chunk.
# FOLDED:
# FOLDED: When 75 tokens are full, the host moves what follows a nearby comma into the next chunk: the tokens, but
# FOLDED: not the marks that
# FOLDED: say where embeddings stand. A person after that comma would be put behind the end of the first chunk's
# FOLDED: text.

_PLACEHOLDER = 0
"""The token id that the host writes where an embedding will stand."""


def fix_embedding_offsets(chunks: Sequence[Any], ours: Callable[[Any], bool]) -> None:
    """Move every mark whose tokens were moved into the next of the host's ``chunks``, in place.

    A chunk's ``tokens`` begin and end with one special token; its ``fixes`` are named tuples of ``offset`` (not counting
    the first special token) and ``embedding``. Marks of embeddings that are not ``ours`` stay where the host has them.
    """
    for chunk, following in pairwise(chunks):
        lost = [mark for mark in chunk.fixes if chunk.tokens[1 + mark.offset] != _PLACEHOLDER and ours(mark.embedding)]
        if lost:
            left = _length(chunk.tokens)
            chunk.fixes = [mark for mark in chunk.fixes if mark not in lost]
            following.fixes = [*(mark._replace(offset=mark.offset - left) for mark in lost), *following.fixes]


def _length(tokens: Sequence[int]) -> int:
    """Tokens of a chunk's text: without the special one before it, and the run of special ones that fills the chunk up."""
    end = len(tokens) - 1
    while end > 1 and tokens[end - 1] == tokens[-1]:
        end -= 1
    return end - 1


# FOLDED: Words as single tokens that are nobody's, for whoever cuts a prompt into tokens and looks embeddings up
# FOLDED: by them.
# FOLDED:
# FOLDED: A word becomes one character that nobody types, and that character one token id that is in no vocabulary.
# FOLDED: AUTOMATIC1111's
# FOLDED: text encoders and those of its forks ask for an embedding at each id, and put its vectors into the token
# FOLDED: embeddings.

# Ids of words count down from here, far from any id of a tokenizer.
_FIRST_ID = -1_000_000
# The first character of Unicode's last private plane.
_FIRST_CHARACTER = 0x100000


class Slot(NamedTuple):
    """One text encoder, as far as a word's vectors for it go."""

    name: str
    key: str
    """What the host looks the vectors up by, in a model of several text encoders."""
    width: int
    device: torch.device


@dataclass(frozen=True, eq=False)
class Spliced:
    """What the host reads of an embedding while it encodes a prompt."""

    name: str
    vec: torch.Tensor | dict[str, torch.Tensor]
    vectors: int
    shorthash: str | None = None


class Splice:
    """The characters, ids and embeddings of some words.

    Parameters: ``slots`` are the checkpoint's text encoders, in order.

    Raises: :class:`HostError` for vectors that do not fit them.
    """

    def __init__(self, words: PlaceholderTokens, slots: Sequence[Slot]) -> None:
        self._words = list(words)
        self._characters = {word: chr(_FIRST_CHARACTER + number) for number, word in enumerate(words)}
        self._ids = {character: _FIRST_ID - number for number, character in enumerate(self._characters.values())}
        self._embeddings = {
            self._ids[self._characters[word]]: _spliced(word, vectors, slots) for word, vectors in words.items()
        }

    def written(self, prompt: str) -> str:
        """``prompt`` with every word as its character."""
        return "".join(self._characters.get(piece, piece) for piece in split_at_placeholders(prompt, self._words))

    def finding(self, find: Callable[[Sequence[int], int], Any]) -> Callable[[Sequence[int], int], Any]:
        """The host's ``find_embedding_at_position``, which finds our words as well."""

        def find_spliced(tokens: Sequence[int], offset: int) -> Any:
            embedding = self._embeddings.get(tokens[offset])
            return find(tokens, offset) if embedding is None else (embedding, 1)

        return find_spliced

    def splitting(self, tokenize: Callable[[list[str]], Any]) -> Callable[[list[str]], list[list[int]]]:
        """The host's ``tokenize``, which makes one id of each of our characters."""
        ids: Mapping[str, int] = self._ids

        def split_and_tokenize(texts: list[str]) -> list[list[int]]:
            result = []
            for text in texts:
                tokens: list[int] = []
                for piece in split_at_placeholders(text, list(ids)):
                    tokens += [ids[piece]] if piece in ids else tokenize([piece])[0]
                result.append(tokens)
            return result

        return split_and_tokenize

    def marks_following(self, tokenize_line: Callable[[str], Any]) -> Callable[[str], Any]:
        """The host's ``tokenize_line``, which keeps our words with their places."""
        ours: Container[Spliced] = set(self._embeddings.values())

        def tokenize_line_and_move_marks(line: str) -> Any:
            chunks, count = tokenize_line(line)
            fix_embedding_offsets(chunks, ours.__contains__)
            return chunks, count

        return tokenize_line_and_move_marks


@contextmanager
def words_spliced(
    words: PlaceholderTokens, slots: Sequence[Slot], embedders: Sequence[Any], databases: Sequence[Any]
) -> Iterator[Callable[[str], str]]:
    """Yields what writes a prompt so that, while this lasts, ``embedders`` find every word's vectors in ``databases``.

    Raises: :class:`HostError` for vectors that do not fit ``slots``, the embedders' own.
    """
    if not words:
        yield str
        return
    splice = Splice(words, slots)
    with ExitStack() as stack:
        for database in databases:
            find = splice.finding(database.find_embedding_at_position)
            stack.enter_context(replaced(database, find_embedding_at_position=find))
        for embedder in embedders:
            stack.enter_context(replaced(embedder, tokenize=splice.splitting(embedder.tokenize)))
            stack.enter_context(replaced(embedder, tokenize_line=splice.marks_following(embedder.tokenize_line)))
        yield splice.written


def _spliced(word: str, vectors: TokenVectors, slots: Sequence[Slot]) -> Spliced:
    if not word:
        raise HostError("A word is empty: give it a name such as <person1>.")
    if len(vectors) != len(slots):
        raise HostError(
            f"The word {word} has vectors for {len(vectors)} text encoders, the checkpoint {len(slots)}: learn it on "
            "a checkpoint of this family."
        )
    ready = {}
    for slot, of_encoder in zip(slots, vectors, strict=True):
        if (
            of_encoder.ndim != 2
            or of_encoder.shape[1] != slot.width
            or len(of_encoder) != len(vectors[0])
            or not len(of_encoder)
        ):
            raise HostError(
                f"The vectors of the word {word} have the shape {tuple(of_encoder.shape)}, but the text encoder "
                f"{slot.name} takes {max(1, len(vectors[0]))} rows of {slot.width} numbers: use vectors made for this "
                "checkpoint."
            )
        ready[slot.key] = of_encoder.to(slot.device)
    single = next(iter(ready.values()))
    return Spliced(word, ready if len(slots) > 1 else single, len(single))


class A1111TextEncoder(FamilyTextEncoder):
    """One of the WebUI's, or of a fork that kept them."""

    def token_table(self) -> torch.Tensor:
        table: torch.Tensor = token_embedding(self._embedder()).wrapped.weight.detach()
        return table


def words_in_place(
    model: Any, words: PlaceholderTokens, encoder_names: Sequence[str]
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
