"""Access to the WebUI's own modules (``modules.*``), which exist only inside a running WebUI.

No other module of the package imports them.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from celeb_basis.errors import HostError

HostModule = Literal[
    "call_queue",
    "devices",
    "extra_networks",
    "lowvram",
    "paths",
    "paths_internal",
    "processing",
    "progress",
    "prompt_parser",
    "script_callbacks",
    "scripts",
    "sd_hijack",
    "sd_hijack_clip",
    "sd_hijack_clip_old",
    "sd_models",
    "sd_samplers_cfg_denoiser",
    "sd_unet",
    "shared",
    "shared_cmd_options",
    "textual_inversion.textual_inversion",
    "ui_extra_networks",
]
"""The WebUI's modules that this package uses. It touches nothing else of the WebUI."""


def host_module(name: HostModule) -> Any:
    """Import ``modules.<name>`` of the WebUI or fork that is running.

    Args:
        name: The module's name inside the package ``modules``.

    Returns:
        The imported module. It is the host's own, so a change to its attributes changes the host.

    Raises:
        HostError: Outside a WebUI, or in one without this module.
    """
    try:
        return importlib.import_module(f"modules.{name}")
    except ModuleNotFoundError as error:
        raise HostError(
            f"The module {error.name} of AUTOMATIC1111's WebUI was not found: use this from inside a WebUI 1.10, as "
            "its extension."
        ) from error


def embedding_names(*databases: Any) -> frozenset[str]:
    """Names in the host's databases of embeddings, whether or not they fit the checkpoint: casefolded, without brackets."""
    known = (name for one in databases if one is not None for name in (*one.word_embeddings, *one.skipped_embeddings))
    return frozenset(name.casefold().strip("<>") for name in known)


def lora_module() -> Any | None:
    """The module ``networks`` of the WebUI's built-in Lora extension, or ``None`` if it is disabled."""
    module = sys.modules.get("networks")
    needed = ("loaded_networks", "network_apply_weights")
    return module if all(hasattr(module, name) for name in needed) else None


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Give attributes of a host's object other values inside the context.

    Args:
        owner: The object, class or module.
        values: The attributes. Those that are not the object's own are removed again afterwards.
    """
    own = vars(owner)
    before = {name: own[name] for name in values if name in own}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name in values:
            if name in before:
                setattr(owner, name, before[name])
            elif name in own:
                delattr(owner, name)


@contextmanager
def replaced_options(**values: Any) -> Iterator[None]:
    """Give settings other values inside the context, without the callbacks that a user's change would run."""
    data = host_module("shared").opts.data
    before = {name: data[name] for name in values if name in data}
    try:
        data.update(values)
        yield
    finally:
        for name in values:
            data.pop(name, None)
        data.update(before)


_MARK = "celeb_basis_patches"


class FunctionPatches:
    """Wrappers around functions of the host's modules and classes, which can be undone and are never put in twice.

    Where another extension has wrapped the wrapper in the meantime, it cannot be removed; it then only passes calls through.

    Args:
        owner: The object that the patches belong to; :func:`owner_of` finds it again.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._active = False
        self._wrapped: list[tuple[Any, str, Any, Any]] = []

    def wrap(self, place: Any, name: str, around: Callable[..., Any]) -> None:
        """Put ``around(original, *args, **kwargs)`` in place of the function ``name`` of a module or class."""
        original = vars(place)[name]

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs) if self._active else original(*args, **kwargs)

        setattr(wrapper, _MARK, self._owner)
        setattr(place, name, wrapper)
        self._wrapped.append((place, name, original, wrapper))
        self._active = True

    def undo(self) -> None:
        """Put the originals back. A second call does nothing."""
        self._active = False
        for place, name, original, wrapper in reversed(self._wrapped):
            if vars(place).get(name) is wrapper:
                setattr(place, name, original)
        self._wrapped.clear()


def owner_of(place: Any, name: str) -> Any | None:
    """The owner of the :class:`FunctionPatches` around the function ``name`` of ``place``, under other wrappers too."""
    function = vars(place).get(name)
    while function is not None:
        if (owner := vars(function).get(_MARK)) is not None and vars(owner).get("installed"):
            return owner
        function = getattr(function, "__wrapped__", None)
    return None
