"""Finding ``<name>`` in a prompt's text. Text only: who is known is asked of a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, TypeVar

Found = TypeVar("Found")

_BRACKETED = re.compile(r"<([^<>]+)>")
_WEIGHT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_PRIVATE_USE = (0xE000, 0xF900)
_HOST_WORDS = re.compile(r"\b(AND|BREAK)\b")


def cut(text: str, find: Callable[[str], Found | None]) -> list[str | Found]:
    """``text`` in pieces: what ``find`` knows in place of each ``<name>``, and the text between, never empty.

    ``find`` is given what stands between the brackets; names hold no bracket, so there is one way to read any text.
    What it does not know stays text.
    """
    pieces: list[str | Found] = []
    position = 0
    if "<" in text:
        for match in _BRACKETED.finditer(text):
            if (found := find(match.group(1))) is not None:
                pieces += [text[position : match.start()], found]
                position = match.end()
    pieces.append(text[position:])
    return [piece for piece in pieces if piece != ""]


def with_emphasis(
    text: str,
    known: Callable[[str], object],
    *,
    reserved: Container[str] = (),
    emphasis: bool = True,
    misread: Callable[[str], None] | None = None,
) -> str:
    """``text`` with every ``<name:0.8>`` written as the emphasis that it means, ``(<name>:0.8)``.

    Other tags in angle brackets (LoRA, unknown names) stay as they are.

    Parameters: ``reserved`` are the host's own kinds of tags, which no name takes over; with ``emphasis`` off the number
    is left out, as the host would print it; ``misread`` is told of every tag with something else than a number, which
    becomes ``<name>``.
    """
    if "<" not in text:
        return text

    def written(match: re.Match[str]) -> str:
        name, colon, rest = match.group(1).partition(":")
        if not colon or name.strip() in reserved or known(name) is None:
            return match.group()
        weight = rest.strip()
        if not _WEIGHT.fullmatch(weight):
            if misread is not None:
                misread(match.group())
            return f"<{name}>"
        return f"(<{name}>:{weight})" if emphasis else f"<{name}>"

    return _BRACKETED.sub(written, text)


def sealed(text: str, known: Callable[[str], object]) -> tuple[str, dict[int, str]]:
    """``text`` with one character that is in no text for each ``<name>`` that is ``known``, and what each stands for.

    So no bracket of a name's can close what another, forgotten bracket has opened. ``str.translate`` puts them back.
    """
    free = (code for code in range(*_PRIVATE_USE) if chr(code) not in text)
    standing: dict[int, str] = {}

    def written(match: re.Match[str]) -> str:
        if known(match.group(1)) is None or (code := next(free, None)) is None:
            return match.group()
        standing[code] = match.group()
        return chr(code)

    return _BRACKETED.sub(written, text), standing


def host_word_in(name: str) -> str | None:
    """The word of the host's own prompt language that ``name``, as it was typed, holds: the host cuts the prompt there."""
    match = _HOST_WORDS.search(name)
    return match.group() if match else None


# FOLDED: Prompts that a picture is drawn from and that other extensions keep beside the job's own, among its
# FOLDED: parameters.
# FOLDED:
# FOLDED: ADetailer paints the faces that it finds anew, from prompts of its own. Embedding Merge writes
# FOLDED: ``<'EM_1'>`` into a prompt
# FOLDED: in the place of each of its expressions, which may hold people.

_ADETAILER = re.compile(r"ADetailer (negative )?prompt( \w+)?")
_MERGES = "EmbeddingMerge"
_MERGE = re.compile(r"([<{]'EM_\d+'[>}])=")


def prompts_beside(prompts: Iterable[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The further prompts of a picture that is drawn from ``prompts``; ``parameters`` are its generation parameters."""
    written = tuple(prompts)
    found = [text for key, text in parameters.items() if isinstance(text, str) and _ADETAILER.fullmatch(key)]
    merges = parameters.get(_MERGES)
    if isinstance(merges, str):
        # "<'EM_1'>=<'a'+'b'>, {'EM_2'}={'c'*2}", of all pictures of the job.
        _, *parts = _MERGE.split(merges)
        found += [
            text for word, text in zip(parts[::2], parts[1::2], strict=True) if any(word in one for one in written)
        ]
    return tuple(found)
