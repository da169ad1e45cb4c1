"""The public Python API: what it exports, its examples, and what importing it costs."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import celeb_basis
from celeb_basis import python_api as api

EXAMPLES = (
    *("load_model", "learn_person", "save_person", "open_person", "token_vectors", "people_in_prompt"),
    *("measure_likeness", "invent_people", "steer_person"),
)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"celeb_basis": celeb_basis}
    for name in EXAMPLES:
        (test,) = [one for one in doctest.DocTestFinder().find(getattr(api, name), name, globs={}) if one.examples]
        test.globs = names
        results = doctest.DocTestRunner().run(test, clear_globs=False)
        assert results.failed == 0, name
        assert results.attempted > 0


def test_every_public_function_has_an_example_or_needs_a_webui() -> None:
    functions = {name for name, module in celeb_basis._EXPORTS.items() if module == "python_api"}
    assert functions == {*EXAMPLES, "loaded_model"}


@pytest.mark.parametrize("name", sorted(celeb_basis._EXPORTS))
def test_every_name_is_there(name: str) -> None:
    assert name in dir(celeb_basis)
    assert getattr(celeb_basis, name).__doc__


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'learn'"):
        celeb_basis.learn  # noqa: B018


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import celeb_basis, sys; print([m for m in ('torch', 'numpy', 'PIL', 'insightface') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_canceled_before_the_first_step() -> None:
    import threading

    from celeb_basis.errors import StoppedError
    from celeb_basis.miniature import PHOTOS

    model = celeb_basis.load_model("miniature", device="cpu")
    cancel = threading.Event()
    cancel.set()
    few = celeb_basis.TrainingSettings(steps=3, views=4)
    with pytest.raises(StoppedError, match="ada was canceled"):
        celeb_basis.learn_person(
            "ada", [PHOTOS / "stranger1.png"], model, settings=few, faces="miniature", cancel=cancel
        )


def test_the_snippets_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from celeb_basis.miniature import PHOTOS

    Image.open(PHOTOS / "stranger1.png").save(tmp_path / "ada.jpg")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    generate, likeness, invent, steer, name = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(generate, {})
    assert Image.open(tmp_path / "ada-0.png").size == (192, 192)
    measured: dict[str, Any] = {}
    exec(likeness, measured)
    assert measured["found"].pictures == 4
    assert measured["found"].sentences
    exec(invent, {})
    assert celeb_basis.open_person(tmp_path / "mira.safetensors").metadata.source == "invented"
    exec(steer, {})
    before = celeb_basis.open_person(tmp_path / "mira.safetensors").name
    assert celeb_basis.open_person(tmp_path / "eve.safetensors").metadata.settings["person"] == before
    known: dict[str, Any] = {}
    exec(name, known)
    assert known["people"]("<ada> and <ben>", tmp_path) == ("ada",)
