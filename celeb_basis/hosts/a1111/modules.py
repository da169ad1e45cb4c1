"""The one door to the WebUI's own modules, which are called ``modules.*`` and are there only inside a running WebUI."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from celeb_basis.errors import HostError

HostModule = Literal[
    "devices",
    "extra_networks",
    "lowvram",
    "processing",
    "prompt_parser",
    "scripts",
    "sd_hijack",
    "sd_hijack_clip",
    "sd_hijack_clip_old",
    "sd_models",
    "sd_unet",
    "shared",
    "textual_inversion.textual_inversion",
]
"""The host's modules that this adapter uses; nothing else of it is touched."""


def host_module(name: HostModule) -> Any:
    """The host's ``modules.<name>``.

    Raises: :class:`HostError` outside a WebUI.
    """
    try:
        return importlib.import_module(f"modules.{name}")
    except ModuleNotFoundError as error:
        raise HostError(
            f"The module {error.name} of AUTOMATIC1111's WebUI was not found: use this from inside a WebUI 1.10, as "
            "its extension."
        ) from error


def lora_module() -> Any | None:
    """The module ``networks`` of the host's built-in Lora extension, or ``None`` if it is switched off."""
    module = sys.modules.get("networks")
    needed = ("loaded_networks", "network_apply_weights")
    return module if all(hasattr(module, name) for name in needed) else None


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes of a host's object with other values for a while; what was not the object's own is taken away again."""
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
    """Settings with other values for a while, without the callbacks that a user's change would run."""
    data = host_module("shared").opts.data
    before = {name: data[name] for name in values if name in data}
    try:
        data.update(values)
        yield
    finally:
        for name in values:
            data.pop(name, None)
        data.update(before)
