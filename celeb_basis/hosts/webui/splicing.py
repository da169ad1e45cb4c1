"""Words as single tokens that are nobody's, for whoever cuts a prompt into tokens and looks embeddings up by them.

A word becomes one character that nobody types, and that character one token id that is in no vocabulary. AUTOMATIC1111's
text encoders and those of its forks ask for an embedding at each id, and put its vectors into the token embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from celeb_basis.errors import HostError
from celeb_basis.hosts.webui.chunks import marks_follow_tokens
from celeb_basis.hosts.webui.shim import replaced
from celeb_basis.hosts.words import split_at_words

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import TokenVectors, Words

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

    def __init__(self, words: Words, slots: Sequence[Slot]) -> None:
        self._words = list(words)
        self._characters = {word: chr(_FIRST_CHARACTER + number) for number, word in enumerate(words)}
        self._ids = {character: _FIRST_ID - number for number, character in enumerate(self._characters.values())}
        self._embeddings = {
            self._ids[self._characters[word]]: _spliced(word, vectors, slots) for word, vectors in words.items()
        }

    def written(self, prompt: str) -> str:
        """``prompt`` with every word as its character."""
        return "".join(self._characters.get(piece, piece) for piece in split_at_words(prompt, self._words))

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
                for piece in split_at_words(text, list(ids)):
                    tokens += [ids[piece]] if piece in ids else tokenize([piece])[0]
                result.append(tokens)
            return result

        return split_and_tokenize

    def marks_following(self, tokenize_line: Callable[[str], Any]) -> Callable[[str], Any]:
        """The host's ``tokenize_line``, which keeps our words with their places."""
        ours: Container[Spliced] = set(self._embeddings.values())

        def tokenize_line_and_move_marks(line: str) -> Any:
            chunks, count = tokenize_line(line)
            marks_follow_tokens(chunks, ours.__contains__)
            return chunks, count

        return tokenize_line_and_move_marks


@contextmanager
def words_spliced(
    words: Words, slots: Sequence[Slot], embedders: Sequence[Any], databases: Sequence[Any]
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
