"""In a real WebUI: names on SDXL with a refiner, an SSD, an SD2 that predicts noise, and an inpainting checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
from support.webui import need_webui

FAMILIES = {"sdxl": "sdxl", "ssd": "sdxl", "sd2eps": "sd2", "sd2inpaint": "sd2"}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    webui = need_webui("sdxl", "sd2v", "sd2inpaint")
    report: dict[str, Any] = webui.answer_of(
        "support.webui_models", data=tmp_path_factory.mktemp("webui"), timeout=1200
    )
    return report


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_are_those_of_vectors_placed_by_hand(seen: dict[str, Any], name: str) -> None:
    found = seen[name]
    assert (found["family"], found["ssd"], found["people"]) == (FAMILIES[name], name == "ssd", True)
    assert found["other_conditionings"] == found["other_pictures"] == []
    assert found["same_as_text"] == []
    assert found["cases"] >= 3


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_read_as_plain_text_on_the_way(seen: dict[str, Any], name: str) -> None:
    assert seen[name]["comments"] == []
