"""Access to the WebUI's own modules (``modules.*``), which exist only inside a running WebUI.

No other module of the package imports them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
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
