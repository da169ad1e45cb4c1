"""The box *Paint faces again with*: its names follow the library when the page's script asks, and the chosen stay."""

from __future__ import annotations

import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.people import person

from celeb_basis.identities.library import Library
from celeb_basis.prompts.registry import Registry
from celeb_basis.webui.adetailer import create_choice


@pytest.fixture
def clicked(gradio_module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is connected to a click of a hidden button: the handler, its inputs and its outputs."""
    connected: list[Any] = []
    monkeypatch.setattr(
        gradio_module, "on", lambda _event, handler, inputs, outputs, **_: connected.append((handler, inputs, outputs))
    )
    return connected


def test_the_box_lists_everyone(gradio_module: types.ModuleType, clicked: list[Any], tmp_path: Path) -> None:
    library = Library(tmp_path)
    tokens: Any = SimpleNamespace(registry=Registry(tmp_path))
    with gradio_module.gradio.Blocks():
        box = create_choice("script_{}".format, lambda: tokens)
    ((show, inputs, outputs),) = clicked
    assert inputs == outputs == [box]
    assert show([])[box]["choices"] == []
    library.add(person("Ben"))
    library.add(person("ada", seed=1))
    assert show([])[box]["choices"] == ["ada", "Ben"]
    assert show(["gone", "ada"])[box]["choices"] == ["ada", "Ben", "gone"], "what is chosen can be taken away"


def test_without_names_in_prompts_it_is_empty(gradio_module: types.ModuleType, clicked: list[Any]) -> None:
    with gradio_module.gradio.Blocks():
        box = create_choice("script_{}".format, lambda: None)
    assert clicked[0][0](None)[box]["choices"] == []
    assert box.do_not_save_to_config is True
