"""Stand-ins of a fork's modules, for tests without the fork."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest


def stand_in(monkeypatch: pytest.MonkeyPatch, **contents: dict[str, Any]) -> dict[str, Any]:
    """The modules ``modules.NAME`` with these contents; ``__`` in a name stands for a dot."""
    made = {}
    for name, content in {"": {}, **contents}.items():
        full = f"modules.{name.replace('__', '.')}".rstrip(".")
        made[name] = types.ModuleType(full)
        vars(made[name]).update(content)
        monkeypatch.setitem(sys.modules, full, made[name])
    return made
