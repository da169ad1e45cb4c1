"""A host's text encoders as its own ``tokenize_line`` sees them while ``<name>`` works in prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from celeb_basis.prompts.syntax import cut


class TokenWithEmbedding(int):
    """An identity's place in a list of token ids. Equal to no id of any vocabulary; never reaches the text encoder."""

    embedding: Any

    def __new__(cls, embedding: Any) -> TokenWithEmbedding:
        """A token that is in no vocabulary, and carries ``embedding``."""
        token = super().__new__(cls, -1)
        token.embedding = embedding
        return token


class _Delegate:
    """Delegates whatever a subclass does not define to the original, and caches it: a view lives for one prompt."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._original, name)
        self.__dict__[name] = value
        return value


class TextEncoderView(_Delegate):
    """A host's text encoder as its own ``tokenize_line`` sees it, with every ``<name>`` tokenized as one token.

    The host's code stays in charge of emphasis, chunks and counts. It asks its encoder for a text's tokens and its
    embedding database for what stands at a token. Both are answered here where an identity is concerned, and by the host
    elsewhere.

    Args:
        encoder: The host's wrapper of a text encoder.
        find: Returns the host's embedding for what stands between angle brackets, or ``None``.
    """

    def __init__(self, encoder: Any, find: Callable[[str], Any]) -> None:
        super().__init__(encoder)
        self._find = find
        self.placed: set[Any] = set()
        """The identities' embeddings that were found in the texts."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; the host tokenizes the text between identities."""
        cuts = [cut(text, lambda name: self._placed(name)) for text in texts]
        plain = [piece for pieces in cuts for piece in pieces if isinstance(piece, str)]
        ids = iter(self._original.tokenize(plain) if plain else ())
        return [
            [token for piece in pieces for token in (next(ids) if isinstance(piece, str) else [piece])]
            for pieces in cuts
        ]

    def _placed(self, name: str) -> TokenWithEmbedding | None:
        if (embedding := self._find(name)) is None:
            return None
        self.placed.add(embedding)
        return TokenWithEmbedding(embedding)


class HijackedEncoderView(TextEncoderView):
    """A text encoder of the WebUI, whose embeddings belong to all of them."""

    def __init__(self, encoder: Any, find: Callable[[str], Any]) -> None:
        super().__init__(encoder, find)
        self.hijack = _HijackView(encoder.hijack)


class EngineView(TextEncoderView):
    """A text engine of Forge, which has embeddings of its own."""

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
        """The embedding at ``offset`` and the number of tokens it replaces; ``None`` twice where there is none."""
        token = tokens[offset]
        if token.__class__ is TokenWithEmbedding:
            return token.embedding, 1
        return self._find(tokens, offset)
