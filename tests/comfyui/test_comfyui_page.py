"""The workflows that ship in ComfyUI's page, in headless Chromium. Run with ``CELEB_BASIS_COMFYUI`` set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.comfyui import need_comfyui, with_models
from support.comfyui_server import WORKFLOWS, Server, serving_comfyui
from support.webui_browser import browser  # noqa: F401 a fixture

from celeb_basis.miniature import PHOTOS

NAMES = sorted(path.name.removesuffix(".api.json") for path in WORKFLOWS.glob("*.api.json"))

SET = """(changes) => {
    for (const [id, values] of Object.entries(changes))
        for (const [name, value] of Object.entries(values))
            app.graph.getNodeById(Number(id)).widgets.find((widget) => widget.name === name).value = value;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI with the miniature and a photo of the name that the workflow expects."""
    comfyui = need_comfyui()
    base = with_models(tmp_path_factory.mktemp("page"), "miniature")
    (base / "input" / "photo.png").write_bytes((PHOTOS / "stranger1.png").read_bytes())
    with serving_comfyui(comfyui, base) as running:
        yield running


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:  # noqa: F811
    """The page without its dialog for newcomers; errors of scripts from then on are in ``page.errors``."""
    opened = browser.new_page(viewport={"width": 1900, "height": 1000})
    opened.errors = []
    opened.set_default_timeout(120_000)
    opened.goto(server.address)
    opened.wait_for_function("window.app && app.graph && app.canvas && app.extensionManager")
    opened.wait_for_timeout(2000)
    opened.keyboard.press("Escape")
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    yield opened
    opened.close()


def load(page: Any, name: str) -> None:
    page.evaluate("(workflow) => app.loadGraphData(workflow)", json.loads((WORKFLOWS / f"{name}.json").read_text()))
    page.wait_for_timeout(500)


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_and_is_what_the_api_gets(page: Any, name: str) -> None:
    load(page, name)
    made = page.evaluate("async () => (await app.graphToPrompt()).output")
    shipped = json.loads((WORKFLOWS / f"{name}.api.json").read_text("utf-8"))
    assert {key: node["inputs"] for key, node in made.items()} == {key: node["inputs"] for key, node in shipped.items()}
    assert {key: node["class_type"] for key, node in made.items()} == {
        key: node["class_type"] for key, node in shipped.items()
    }
    wrong = page.evaluate(
        "() => app.graph._nodes.filter((node) => node.has_errors || !node.comfyClass && !node.type).map((node) => node.type)"
    )
    # Newer pages say at once that the checkpoint of the workflow is not here.
    assert set(wrong) <= {"CheckpointLoaderSimple"}
    # Every node of ours stands with its widgets inside of its frame, and above no other one.
    boxes = page.evaluate("() => app.graph._nodes.map((node) => [...node.pos, ...node.size, node.computeSize()[1]])")
    assert all(height >= needed - 60 for _, _, _, height, needed in boxes), boxes
    for number, (x, y, width, height, _) in enumerate(boxes):
        for x2, y2, width2, height2, _ in boxes[number + 1 :]:
            assert x + width <= x2 or x2 + width2 <= x or y + height <= y2 - 30 or y2 + height2 <= y - 30
    assert not page.errors


def test_a_person_is_learned_from_the_page(page: Any, server: Server) -> None:
    load(page, "learn_person")
    changes: dict[str, dict[str, Any]] = {
        "1": {"ckpt_name": "miniature.safetensors"},
        "3": {"faces": "miniature", "steps": 4, "size": 64},
        "6": {"width": 64, "height": 64},
        "7": {"steps": 2},
    }
    page.evaluate(SET, changes)
    page.evaluate("() => app.queuePrompt(0)")
    said, behind = (
        page.get_by_text("switch consent on if everyone in the photo has agreed"),
        page.get_by_text("See Errors"),
    )
    said.or_(behind).first.wait_for()
    if behind.count():  # newer pages
        behind.first.click()
        said.first.wait_for()
    page.keyboard.press("Escape")
    page.evaluate(SET, {"3": {"consent": True}})
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_function(
        """() => (app.graph.getNodeById(3).widgets || []).some(
            (widget) => String(widget.value).startsWith("<ada> was learned in 4 steps."))"""
    )
    page.wait_for_function("() => (app.graph.getNodeById(9).imgs || []).length === 1")
    assert (server.base / "models" / "celeb_basis" / "ada.safetensors").is_file()
    assert not page.errors
