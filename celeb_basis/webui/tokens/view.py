"""The host's text encoder as its own ``tokenize_line`` is shown it: with people's names tokenized as one word each.

The host's code stays in charge of emphasis, chunks and counts. It asks its encoder for a text's tokens and its embedding
database for what stands at a token; both questions are answered here where they concern a person, and by the host elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from celeb_basis.webui.tokens.words import cut


class PlacedWord(int):
    """A person's place in a list of token ids. Equal to no id of any vocabulary; never reaches the text encoder."""

    embedding: Any

    def __new__(cls, embedding: Any) -> PlacedWord:
        word = super().__new__(cls, -1)
        word.embedding = embedding
        return word


class _Delegate:
    """Everything that a subclass does not say itself is the original's, asked for once: a view lives for one prompt."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._original, name)
        self.__dict__[name] = value
        return value


class _View(_Delegate):
    """What a host's ``tokenize_line`` is shown in the place of a text encoder; people are known in its texts.

    Parameters: ``find`` answers the host's embedding for what stands between angle brackets, or ``None``.
    """

    def __init__(self, encoder: Any, find: Callable[[str], Any]) -> None:
        super().__init__(encoder)
        self._find = find
        self.placed: set[Any] = set()
        """The embeddings that were put in anybody's place."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, a :class:`PlacedWord` for each person; the text between is tokenized by the host."""
        cuts = [cut(text, lambda name: self._placed(name)) for text in texts]
        plain = [piece for pieces in cuts for piece in pieces if isinstance(piece, str)]
        ids = iter(self._original.tokenize(plain) if plain else ())
        return [
            [token for piece in pieces for token in (next(ids) if isinstance(piece, str) else [piece])]
            for pieces in cuts
        ]

    def _placed(self, name: str) -> PlacedWord | None:
        if (embedding := self._find(name)) is None:
            return None
        self.placed.add(embedding)
        return PlacedWord(embedding)


class EncoderView(_View):
    """A text encoder of the WebUI's, whose embeddings belong to all of them."""

    def __init__(self, encoder: Any, find: Callable[[str], Any]) -> None:
        super().__init__(encoder, find)
        self.hijack = _HijackView(encoder.hijack)


class EngineView(_View):
    """A text engine of Forge's, which has embeddings of its own."""

    def __init__(self, engine: Any, find: Callable[[str], Any]) -> None:
        super().__init__(engine, find)
        self.embeddings = _DatabaseView(engine.embeddings)


class _HijackView(_Delegate):
    def __init__(self, hijack: Any) -> None:
        super().__init__(hijack)
        self.embedding_db = _DatabaseView(hijack.embedding_db)


class _DatabaseView(_Delegate):
    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self._find = database.find_embedding_at_position

    def find_embedding_at_position(self, tokens: Sequence[int], offset: int) -> Any:
        """The embedding at ``offset`` and the number of tokens it takes the place of; ``None`` twice where there is none."""
        token = tokens[offset]
        if token.__class__ is PlacedWord:
            return token.embedding, 1
        return self._find(tokens, offset)
