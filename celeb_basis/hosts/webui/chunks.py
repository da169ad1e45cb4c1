"""Keeping a person with their place when the host moves it into the next chunk.

When 75 tokens are full, the host moves what follows a nearby comma into the next chunk: the tokens, but not the marks that
say where embeddings stand. A person after that comma would be put behind the end of the first chunk's text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

_PLACEHOLDER = 0
"""The token id that the host writes where an embedding will stand."""


def marks_follow_tokens(chunks: Sequence[Any], ours: Callable[[Any], bool]) -> None:
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
