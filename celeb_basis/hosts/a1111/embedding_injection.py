"""Vectors in place of placeholder tokens in prompts that the host's own code encodes.

A placeholder token becomes one character that nobody types, and that character one token id that is in no vocabulary.
AUTOMATIC1111's text encoders and those of its forks ask for an embedding at each id, as they would find one of their own
database, and put its vectors into the token embeddings. So the conditioning is bit for bit what the host makes of the same
vectors in its database, wherever the token stands, and it is differentiable in the vectors. Neither the host's syntax nor
another extension ever sees the placeholder token itself.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from celeb_basis.diffusion_model import PlaceholderTokens, TokenVectors, split_at_placeholders
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import replaced

# Ids of placeholder tokens count down from here, far from any id of a tokenizer.
_FIRST_ID = -1_000_000
# The first character of Unicode's last private plane.
_FIRST_CHARACTER = 0x100000
# The token id that the host writes where an embedding will stand.
_EMBEDDING_ID = 0


class EncoderSlot(NamedTuple):
    """What a placeholder token's vectors must fit in one text encoder."""

    name: str
    key: str
    """The name by which the host looks the vectors up, in a model of several text encoders."""
    width: int
    """The width of a token embedding."""
    device: torch.device


@dataclass(frozen=True, eq=False)
class InjectedEmbedding:
    """What the host reads of an embedding while it encodes a prompt."""

    name: str
    vec: torch.Tensor | dict[str, torch.Tensor]
    vectors: int
    shorthash: str | None = None


@contextmanager
def inject_embeddings(
    placeholder_tokens: PlaceholderTokens,
    slots: Sequence[EncoderSlot],
    text_encoders: Sequence[Any],
    databases: Sequence[Any],
) -> Iterator[Callable[[str], str]]:
    """Have the host's text encoders find the vectors of placeholder tokens in its databases of embeddings.

    Args:
        placeholder_tokens: The tokens and their vectors.
        slots: One for each of ``text_encoders``.
        text_encoders: The host's wrappers of the text encoders.
        databases: The host's databases of embeddings, which they search.

    Yields:
        A function that rewrites a prompt for the host's own code.

    Raises:
        HostError: For vectors that do not fit ``slots``.
    """
    if not placeholder_tokens:
        yield str
        return
    injection = EmbeddingInjection(placeholder_tokens, slots)
    with ExitStack() as stack:
        for database in databases:
            find = injection.wrap_find(database.find_embedding_at_position)
            stack.enter_context(replaced(database, find_embedding_at_position=find))
        for encoder in text_encoders:
            stack.enter_context(replaced(encoder, tokenize=injection.wrap_tokenize(encoder.tokenize)))
            tokenize_line = injection.wrap_tokenize_line(encoder.tokenize_line)
            stack.enter_context(replaced(encoder, tokenize_line=tokenize_line))
        yield injection.rewrite


class EmbeddingInjection:
    """The characters, token ids and embeddings of some placeholder tokens.

    Args:
        placeholder_tokens: The tokens and their vectors.
        slots: The checkpoint's text encoders, in order.

    Raises:
        HostError: For vectors that do not fit them.
    """

    def __init__(self, placeholder_tokens: PlaceholderTokens, slots: Sequence[EncoderSlot]) -> None:
        self._tokens = list(placeholder_tokens)
        self._characters = {token: chr(_FIRST_CHARACTER + number) for number, token in enumerate(self._tokens)}
        self._ids = {character: _FIRST_ID - number for number, character in enumerate(self._characters.values())}
        self._embeddings = {
            self._ids[self._characters[token]]: _embedding(token, vectors, slots)
            for token, vectors in placeholder_tokens.items()
        }

    def rewrite(self, prompt: str) -> str:
        """``prompt`` with every placeholder token as its character."""
        return "".join(self._characters.get(piece, piece) for piece in split_at_placeholders(prompt, self._tokens))

    def wrap_find(self, find: Callable[[Sequence[int], int], Any]) -> Callable[[Sequence[int], int], Any]:
        """The host's ``find_embedding_at_position``, which finds the injected embeddings as well."""

        def find_injected(tokens: Sequence[int], offset: int) -> Any:
            embedding = self._embeddings.get(tokens[offset])
            return find(tokens, offset) if embedding is None else (embedding, 1)

        return find_injected

    def wrap_tokenize(self, tokenize: Callable[[list[str]], Any]) -> Callable[[list[str]], list[list[int]]]:
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

    def wrap_tokenize_line(self, tokenize_line: Callable[[str], Any]) -> Callable[[str], Any]:
        """The host's ``tokenize_line``, which keeps the injected embeddings at their tokens."""
        injected: Container[InjectedEmbedding] = set(self._embeddings.values())

        def tokenize_line_and_fix_offsets(line: str) -> Any:
            chunks, count = tokenize_line(line)
            fix_embedding_offsets(chunks, injected.__contains__)
            return chunks, count

        return tokenize_line_and_fix_offsets


def fix_embedding_offsets(chunks: Sequence[Any], ours: Callable[[Any], bool]) -> None:
    """Keep embedding offsets aligned when the host moves tokens into the next 75-token chunk.

    When 75 tokens are full, the host moves what follows a nearby comma into the next chunk: the tokens, but not the fixes
    that say where embeddings stand. An embedding after that comma would be put behind the end of the first chunk's text.

    Args:
        chunks: The host's chunks, changed in place. A chunk's ``tokens`` begin and end with one special token; its
            ``fixes`` are named tuples of ``offset`` (not counting the first special token) and ``embedding``.
        ours: Whether an embedding is one of ours. Fixes of other embeddings stay where the host has them.
    """
    for chunk, following in pairwise(chunks):
        moved = [fix for fix in chunk.fixes if chunk.tokens[1 + fix.offset] != _EMBEDDING_ID and ours(fix.embedding)]
        if moved:
            length = _text_length(chunk.tokens)
            chunk.fixes = [fix for fix in chunk.fixes if fix not in moved]
            following.fixes = [*(fix._replace(offset=fix.offset - length) for fix in moved), *following.fixes]


def _text_length(tokens: Sequence[int]) -> int:
    """Tokens of a chunk's text, without the special one before it and the run of special ones that fills the chunk up."""
    end = len(tokens) - 1
    while end > 1 and tokens[end - 1] == tokens[-1]:
        end -= 1
    return end - 1


def _embedding(token: str, vectors: TokenVectors, slots: Sequence[EncoderSlot]) -> InjectedEmbedding:
    if not token:
        raise HostError("A placeholder token is empty: give it a name such as <person1>.")
    if len(vectors) != len(slots):
        raise HostError(
            f"The placeholder token {token} has vectors for {len(vectors)} text encoders, but the checkpoint has "
            f"{len(slots)}: train it on a checkpoint of this family."
        )
    of_encoders = {}
    for slot, of_encoder in zip(slots, vectors, strict=True):
        if (
            of_encoder.ndim != 2
            or of_encoder.shape[1] != slot.width
            or len(of_encoder) != len(vectors[0])
            or not len(of_encoder)
        ):
            raise HostError(
                f"The vectors of the placeholder token {token} have the shape {tuple(of_encoder.shape)}, but the text "
                f"encoder {slot.name} takes {max(1, len(vectors[0]))} rows of {slot.width} numbers: use vectors made for "
                "this checkpoint."
            )
        of_encoders[slot.key] = of_encoder.to(slot.device)
    first = next(iter(of_encoders.values()))
    return InjectedEmbedding(token, of_encoders if len(slots) > 1 else first, len(first))
