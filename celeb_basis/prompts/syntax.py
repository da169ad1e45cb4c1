"""Finding ``<name>`` in the text of prompts. Which names are known is asked of a function."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, TypeVar

from celeb_basis.errors import IdentityError
from celeb_basis.files import checked_name

Found = TypeVar("Found")

_BRACKETED = re.compile(r"<([^<>]+)>")
_WEIGHT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_PRIVATE_USE = (0xE000, 0xF900)
_HOST_WORDS = re.compile(r"\b(AND|BREAK)\b")


COMMENT = "#"
"""What hosts leave out from here on, to the end of the line."""

NETWORKS = frozenset({"lora", "lyco", "hypernet", "hypernetwork", "locon", "loha", "embedding", "wildcard"})
"""Kinds of tags in angle brackets that hosts and widespread extensions take for themselves when a colon follows."""


def bracketed_in(text: str) -> list[str]:
    """All that stands between angle brackets in ``text``, in order."""
    return _BRACKETED.findall(text)


def without_brackets(text: str) -> str:
    """``text`` without what stands between angle brackets."""
    return _BRACKETED.sub("", text)


def cut(text: str, find: Callable[[str], Found | None]) -> list[str | Found]:
    """Cut ``text`` at each ``<name>`` that ``find`` knows.

    Names hold no bracket, so there is only one way to read a text. Unknown names stay text.

    Args:
        text: A prompt.
        find: Answers what a name stands for, given the text between the brackets; ``None`` for an unknown one.

    Returns:
        The pieces in order: what ``find`` answered, and the texts in between, none of them empty.
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
    shadowed: Callable[[str], None] | None = None,
) -> str:
    """Write every ``<name:0.8>`` in ``text`` as the emphasis that it means, ``(<name>:0.8)``.

    Other tags in angle brackets (LoRA, unknown names) stay as they are.

    Args:
        text: A prompt.
        known: Answers ``None`` for an unknown name.
        reserved: The host's own kinds of tags, which no name replaces.
        emphasis: Whether the host reads emphasis; if not, the number is left out, because the host would take it as text.
        misread: Called with every tag that holds something other than a number, which becomes ``<name>``.
        shadowed: Called with every tag of the host's own that could mean a person and a weight.
    """
    if "<" not in text:
        return text

    def written(match: re.Match[str]) -> str:
        name, colon, rest = match.group(1).partition(":")
        weight = rest.strip()
        if not colon or known(name) is None:
            return match.group()
        if name.strip() in reserved:
            if shadowed is not None and _WEIGHT.fullmatch(weight):
                shadowed(match.group())
            return match.group()
        if not _WEIGHT.fullmatch(weight):
            if misread is not None:
                misread(match.group())
            return f"<{name}>"
        return f"(<{name}>:{weight})" if emphasis else f"<{name}>"

    return _BRACKETED.sub(written, text)


def sealed(text: str, known: Callable[[str], object]) -> tuple[str, dict[int, str]]:
    """Replace each known ``<name>`` in ``text`` by one private-use character.

    So the bracket of a name cannot close what another, forgotten bracket has opened.

    Returns:
        The text, and a table for ``str.translate`` that restores the names.
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
    """The word of the host's own prompt language in ``name``, as it was typed: the host cuts the prompt there."""
    match = _HOST_WORDS.search(name)
    return match.group() if match else None


def unusable_in_prompts(name: str) -> str | None:
    """Why a new person should not be called ``name``, as the end of a sentence; ``None`` if there is no reason.

    People who have such a name already keep it: what is wrong with it depends on the program and its settings.
    """
    if COMMENT in name:
        return f"contains {COMMENT}, which begins a comment in the WebUI's prompts: leave it out"
    if "__" in name:
        return "contains __, which means a wildcard in prompts: use a single _ or a space"
    if name.startswith("'"):
        return "begins with ', which means an expression in prompts: leave it out"
    if name.casefold() in NETWORKS:
        return f"is a kind of network, so that <{name}:0.8> would load one: choose another"
    if word := host_word_in(name):
        return f"contains {word}, at which the WebUI cuts prompts: write {word.capitalize()}"
    return None


def check_new_name(name: str) -> str:
    """Return ``name`` trimmed and composed, if a new person can be called so.

    Raises:
        IdentityError: It can be no name, or prompts could not hold it.
    """
    name = checked_name(name)
    if (reason := unusable_in_prompts(name)) is not None:
        raise IdentityError(f"The name {name!a} {reason}.")
    return name


# Prompts that other extensions keep in a picture's parameters. ADetailer repaints the faces that it finds, from prompts of its
# own. Embedding Merge writes ``<'EM_1'>`` into a prompt in place of each of its expressions, which may name people.

_ADETAILER = re.compile(r"ADetailer (negative )?prompt( \w+)?")
_MERGES = "EmbeddingMerge"
_MERGE = re.compile(r"([<{]'EM_\d+'[>}])=")


def prompts_beside(prompts: Iterable[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Prompts of a picture beside ``prompts``, from its generation parameters."""
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


# Unknown names: whether one is likely to be a mistake, or other syntax that is nobody's name.

_SHORTEST = 3
"""Characters of a name below which every other short name would be near."""
_NEAR = 0.75
"""Similarity of two names, as :mod:`difflib` measures it, from which one is a likely mistake for the other."""
_HTML = (
    "a abbr b base big blockquote body br caption center code col dd del div dl dt em embed font form h1 h2 h3 h4 h5 h6 "
    "head header hr html i iframe img input ins kbd label li link main mark meta nav ol option p param pre q s script "
    "section select small span strike strong style sub sup svg table tbody td text tfoot th thead title tr u ul var video"
)
_TAGS = frozenset((*_HTML.split(), "break", "and"))
"""HTML's, which people paste into prompts, and words of other prompt languages."""


def likely_mistake(key: str, names: Mapping[str, str], former: Mapping[str, str]) -> str:
    """Why an unknown name is likely to be a mistake, as the rest of a sentence; empty if it looks like something else.

    Args:
        key: The key of the name, as :func:`celeb_basis.files.name_key` makes it.
        names: The names in the library, by their keys.
        former: The names that were in it, by their keys.
    """
    near = nearest(key, names)
    suggestion = f" Did you mean <{near}>?" if near else ""
    if key in former:
        return f"nobody in your library has this name any more.{suggestion}"
    return f"nobody in your library has this name.{suggestion}" if near else ""


def nearest(key: str, names: Mapping[str, str]) -> str:
    """The name that was probably meant by the unknown one with this ``key``; empty if none is near."""
    if len(key) < _SHORTEST or key in _TAGS:
        return ""
    for other, name in names.items():
        if _is_part(key, other) or (len(key) == len(other) and sorted(key) == sorted(other)):
            return name
    close = difflib.get_close_matches(key, names, n=1, cutoff=_NEAR)
    return names[close[0]] if close else ""


def _is_part(key: str, other: str) -> bool:
    """Whether one name is the other with a further word, such as "jane" and "jane doe"."""
    short, long = sorted((key, other), key=len)
    rest = long[len(short) : len(short) + 1]
    return len(short) >= _SHORTEST and long.startswith(short) and not rest.isalnum()
