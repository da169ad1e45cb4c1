"""The box *Paint faces again with*: its names are those of the moment it is opened, and the chosen stay."""

from __future__ import annotations

import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.people import person

from celeb_basis.identities.library import Library
from celeb_basis.prompts.registry import Registry
from celeb_basis.webui.adetailer import create_choice


def test_the_box_lists_everyone_when_it_is_opened(gradio_module: types.ModuleType, tmp_path: Path) -> None:
    library = Library(tmp_path)
    tokens: Any = SimpleNamespace(registry=Registry(tmp_path))
    with gradio_module.gradio.Blocks():
        box = create_choice("people", lambda: tokens)
    (focus,) = (options for name, options in box.events.items() if name == "focus")
    assert focus["inputs"] == focus["outputs"] == [box]
    assert focus["fn"]([])[box]["choices"] == []
    library.add(person("Ben"))
    library.add(person("ada", seed=1))
    assert focus["fn"]([])[box]["choices"] == ["ada", "Ben"]
    assert focus["fn"](["gone", "ada"])[box]["choices"] == ["ada", "Ben", "gone"], "what is chosen can be taken away"


def test_without_names_in_prompts_it_is_empty(gradio_module: types.ModuleType) -> None:
    with gradio_module.gradio.Blocks():
        box = create_choice("people", lambda: None)
    assert box.events["focus"]["fn"](None)[box]["choices"] == []
    assert box.do_not_save_to_config is True
