"""Weights of words in prompts, ``(word:1.2)`` and ``[word]``, and prompts of any length in chunks, as the WebUI reads them.

The diffusers host uses both; in the WebUI and its forks the program's own code does the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from celeb_basis.errors import HostError

_ATTENTION = re.compile(
    r"\\\(|\\\)|\\\[|\\]|\\\\|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|]|[^\\()\[\]:]+|:",
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_ROUND, _SQUARE = 1.1, 1 / 1.1

COMMA_BACKTRACK = 20
"""How many tokens behind a comma move to the next chunk together, rather than being separated from each other."""

BREAK = ("BREAK", -1.0)
"""The piece of :func:`parse_emphasis` at which a new chunk begins."""


def parse_emphasis(prompt: str) -> list[tuple[str, float]]:
    r"""Cut a prompt into pieces of one weight each.

    ``(word)`` multiplies by 1.1, ``[word]`` divides by it, ``(word:1.3)`` multiplies by 1.3, and all of them nest. A
    backslash makes a bracket a plain character. :data:`BREAK` stands between the chunks that the word BREAK separates.

    Args:
        prompt: Any text. Brackets that are never closed count to its end.

    Raises:
        HostError: A weight is not a number that a text encoder can be multiplied by.

    Example:
        >>> parse_emphasis("a (red:1.5) [hat]")
        [('a ', 1.0), ('red', 1.5), (' ', 1.0), ('hat', 0.9090909090909091)]
    """
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        weights[start:] = [weight * factor for weight in weights[start:]]

    for match in _ATTENTION.finditer(prompt):
        text, number = match.group(), match.group(1)
        if text.startswith("\\"):
            texts.append(text[1:])
            weights.append(1.0)
        elif text in opened:
            opened[text].append(len(texts))
        elif number is not None and opened["("]:
            multiply(opened["("].pop(), _number(number))
        elif text == ")" and opened["("]:
            multiply(opened["("].pop(), _ROUND)
        elif text == "]" and opened["["]:
            multiply(opened["["].pop(), _SQUARE)
        else:
            for index, part in enumerate(_BREAK.split(text)):
                if index:
                    texts.append(BREAK[0])
                    weights.append(BREAK[1])
                texts.append(part)
                weights.append(1.0)
    for start in opened["("]:
        multiply(start, _ROUND)
    for start in opened["["]:
        multiply(start, _SQUARE)
    if not all(map(math.isfinite, weights)):
        raise HostError(
            "The weights in the prompt multiply to a number without end: use smaller ones, such as (word:1.2)."
        )
    pieces: list[tuple[str, float]] = []
    for text, weight in zip(texts, weights, strict=True):
        if pieces and pieces[-1][1] == weight:
            pieces[-1] = (pieces[-1][0] + text, weight)
        else:
            pieces.append((text, weight))
    return pieces or [("", 1.0)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise HostError(f"The weight {text[:40]} in the prompt is not a number: write one, as in (word:1.2).") from None


# Chunks


@dataclass(frozen=True)
class Token:
    """One position of a text encoder's input: a token, or one of the vectors of a placeholder token."""

    id: int
    weight: float = 1.0
    placeholder: str = ""
    """The placeholder token whose vector goes here; empty for a token of the vocabulary."""
    vector: int = 0
    """Which of its vectors."""


@dataclass
class _Chunks:
    """Chunks under construction."""

    room: int
    done: list[list[Token]] = field(default_factory=list)
    open: list[Token] = field(default_factory=list)
    last_comma: int = -1

    def close(self) -> None:
        self.done.append(self.open)
        self.open, self.last_comma = [], -1


def split_into_chunks(
    pieces: Sequence[tuple[Sequence[int | str], float] | None],
    vectors: Mapping[str, int],
    *,
    room: int,
    comma: int | None,
) -> list[list[Token]]:
    """Distribute tokens over chunks as the WebUI does.

    Where a chunk is full and its last comma is close, what follows the comma moves to the next chunk. The vectors of one
    placeholder token are never separated.

    Args:
        pieces: Ids of tokens and placeholder tokens, with their weight; ``None`` where a new chunk begins.
        vectors: The number of vectors of each placeholder token.
        room: Tokens in a chunk, without start and end.
        comma: The id of a comma; ``None`` if the vocabulary has none.

    Returns:
        At least one chunk, each with at most ``room`` tokens.

    Raises:
        HostError: A placeholder token has more vectors than a chunk has room for.
    """
    chunks = _Chunks(room)
    for piece in pieces:
        if piece is None:
            chunks.close()
            continue
        for token, weight in ((token, piece[1]) for token in piece[0]):
            if token == comma:
                chunks.last_comma = len(chunks.open)
            elif (
                len(chunks.open) == room and 0 <= room - chunks.last_comma <= COMMA_BACKTRACK and chunks.last_comma >= 0
            ):
                place = chunks.last_comma + 1
                moved = chunks.open[place:]
                chunks.open = chunks.open[:place]
                chunks.close()
                chunks.open = moved
            if len(chunks.open) == room:
                chunks.close()
            added = list(_positions(token, weight, vectors))
            if len(added) > room:
                raise HostError(f"{token} has {len(added)} vectors, but the text encoder takes {room} tokens at once.")
            if len(chunks.open) + len(added) > room:
                chunks.close()
            chunks.open += added
    if chunks.open or not chunks.done:
        chunks.close()
    return chunks.done


def _positions(token: int | str, weight: float, vectors: Mapping[str, int]) -> Iterator[Token]:
    if isinstance(token, int):
        yield Token(token, weight)
        return
    for number in range(vectors[token]):
        yield Token(0, weight, token, number)


# What the WebUI reads in prompts, and the command line does not

_OTHERWISE = (
    (
        re.compile(r"(?<!\\)\[[^\[\]]*(?<!\\):\s*[+-]?[.\d]+\s*]"),
        "changes the prompt between steps in the WebUI, which the command line does not do",
    ),
    (re.compile(r"(?<!\\)\[[^\[\]]*\|[^\[\]]*(?<!\\)]"), "alternates in the WebUI, which the command line does not do"),
    (
        re.compile(r"\bAND\b(?!_PERP|_SALT|_TOPK)"),
        "joins two prompts in the WebUI, which the command line does not do",
    ),
    (re.compile(r"#[^\n]*"), "is a comment in the WebUI, which the command line does not have"),
)


def read_otherwise(prompt: str) -> list[str]:
    """Sentences on each part of ``prompt`` that the WebUI understands in a way of its own, and the command line as text."""
    return [
        f"{match.group()[:60]!r} is read as plain text: it {what}."
        for pattern, what in _OTHERWISE
        if (match := pattern.search(prompt))
    ]
