"""Wrapping functions of somebody else's objects, so that it can be undone and is never done twice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MARK = "celeb_basis_patches"


class Patches:
    """Wrappers put around functions of other modules and classes. Undone, everything is as it was.

    Where somebody else has wrapped the wrapper meanwhile, it cannot be taken out; it then only passes calls through.

    Parameters: ``owner`` is whoever answers for the patches; :func:`owner_of` finds it again.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._active = False
        self._wrapped: list[tuple[Any, str, Any, Any]] = []

    def wrap(self, place: Any, name: str, around: Callable[..., Any]) -> None:
        """Put ``around(original, *args, **kwargs)`` in the place of the function ``name`` of a module or class."""
        original = vars(place)[name]

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs) if self._active else original(*args, **kwargs)

        setattr(wrapper, _MARK, self._owner)
        setattr(place, name, wrapper)
        self._wrapped.append((place, name, original, wrapper))
        self._active = True

    def undo(self) -> None:
        """Put the originals back. A second time does nothing."""
        self._active = False
        for place, name, original, wrapper in reversed(self._wrapped):
            if vars(place).get(name) is wrapper:
                setattr(place, name, original)
        self._wrapped.clear()


def owner_of(place: Any, name: str) -> Any | None:
    """Who has wrapped the function ``name`` of ``place`` through :class:`Patches`, under others' wrappers too."""
    function = vars(place).get(name)
    while function is not None:
        if (owner := vars(function).get(_MARK)) is not None and vars(owner).get("installed"):
            return owner
        function = getattr(function, "__wrapped__", None)
    return None
