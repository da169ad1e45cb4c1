"""The page's modules with a stand-in for gradio where it is not installed; these tests show no page."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Component:
    """A component as far as the sub-tabs build it: it takes any argument, holds others, and has every event."""

    def __init__(self, *_values: Any, **_properties: Any) -> None:
        self.events: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Component:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Component]:
        if name.startswith("_"):
            raise AttributeError(name)

        def connect(**options: Any) -> Component:
            self.events[name] = options
            return Component()

        return connect


@pytest.fixture
def gradio_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """``celeb_basis.webui.ui.components`` with the real gradio, or with one whose components do nothing."""
    if importlib.util.find_spec("gradio") is None:
        stand_in = types.ModuleType("gradio")
        stand_in.__version__ = "3.41.2"  # type: ignore[attr-defined]
        stand_in.update = lambda **changes: {"__type__": "update", **changes}  # type: ignore[attr-defined]
        stand_in.__getattr__ = lambda _name: Component  # type: ignore[method-assign]
        monkeypatch.setitem(sys.modules, "gradio", stand_in)
    known = set(sys.modules)
    yield importlib.import_module("celeb_basis.webui.ui.components")
    for name in set(sys.modules) - known:
        if name.startswith("celeb_basis.webui.ui"):
            del sys.modules[name]


@pytest.fixture
def build(gradio_module: types.ModuleType) -> Callable[..., Any]:
    """Build a sub-tab, such as ``build("learn", service)``."""

    def built(name: str, service: Any) -> Any:
        module = importlib.import_module(f"celeb_basis.webui.ui.{name}")
        sub_tab = getattr(module, f"{name.capitalize()}Tab")(service)
        with gradio_module.gradio.Blocks(), gradio_module.gradio.Tab() as tab:
            sub_tab.build(tab)
        return sub_tab

    return built
