"""Unknown ``<name>`` in prompts: whether it is likely to be a mistake, or other syntax that is nobody's name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

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
