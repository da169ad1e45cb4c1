"""The page's modules with a stand-in for gradio where it is not installed; nothing of it is drawn in these tests."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator

import pytest


@pytest.fixture
def gradio_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """``celeb_basis.webui.ui.components`` with the real gradio, or with one that only has ``update``."""
    if importlib.util.find_spec("gradio") is None:
        stand_in = types.ModuleType("gradio")
        stand_in.__version__ = "3.41.2"  # type: ignore[attr-defined]
        stand_in.update = lambda **changes: {"__type__": "update", **changes}  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "gradio", stand_in)
    known = set(sys.modules)
    yield importlib.import_module("celeb_basis.webui.ui.components")
    for name in set(sys.modules) - known:
        if name.startswith("celeb_basis.webui.ui"):
            del sys.modules[name]
