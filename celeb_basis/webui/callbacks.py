"""Registering callbacks with the host."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def add_callback(category: str, callback: Callable[..., Any], file: str) -> None:
    """Have the host call ``callback`` for ``category`` (``"ui_tabs"``, ``"app_started"``), as a part of the extension that
    ``file`` belongs to.

    Told the file, the host does not look for it in the stack, which takes it 50 ms for each callback.
    """
    callbacks: Any = importlib.import_module("modules.script_callbacks")
    try:
        known = callbacks.callback_map[f"callbacks_{category}"]
        callbacks.add_callback(known, callback, category=category, filename=file)
    except (AttributeError, KeyError, TypeError):  # a fork, or an older host
        name = {"on_reload": "on_before_reload"}.get(category, f"on_{category}")
        register = getattr(callbacks, name, None)
        if register is not None:  # SD.Next has no Train tab
            register(callback)
