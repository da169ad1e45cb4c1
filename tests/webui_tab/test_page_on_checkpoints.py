"""The page on checkpoints with two text encoders and with v-prediction, end to end: photo, Learn, txt2img, card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.webui import need_webui
from support.webui_browser import generate, learn, opened, part, status, tab, without_likeness
from support.webui_server import Server, serving

from celeb_basis.identities.identity import load_identity


@pytest.fixture(scope="module", params=["sdxl", "sd2v"])
def server(
    browser: Any, tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path, request: pytest.FixtureRequest
) -> Iterator[Server]:
    assert browser
    webui, data = need_webui(request.param), tmp_path_factory.mktemp("data")
    # The default live preview of SDXL downloads a decoder from a model hub.
    without_likeness(data, show_progress_type="Approx cheap")
    with serving(webui, data, miniature_folder, checkpoint=request.param, page=True) as running:
        running.checkpoint = request.param  # type: ignore[attr-defined]
        yield running


def test_a_person_is_learned_and_used(browser: Any, server: Server) -> None:
    page = opened(browser, server)
    learn(page, "ada")
    assert page.locator("#celeb_basis_learn_poll_pictures img").count() == 4
    identity = load_identity(server.data / "celeb-basis" / "people" / "ada.safetensors")
    assert identity.metadata.family == {"sdxl": "sdxl", "sd2v": "sd2"}[server.checkpoint]  # type: ignore[attr-defined]
    page.get_by_role("button", name="Send <ada> to txt2img").first.click()
    assert page.locator("#txt2img_prompt textarea").input_value() == "<ada>"
    parameters = generate(page, "<ada>, smiling").inner_text()
    assert "<ada>, smiling" in parameters
    assert identity.content_hash[:10] in parameters, "which identity made the picture"
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Celeb Basis").click()
    card = page.locator("#txt2img_celeb_basis_cards .card", has_text="ada")
    card.wait_for()
    page.locator("#txt2img_prompt textarea").fill("")
    card.click()
    page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value.includes('<ada>')")
    tab(page, "Celeb Basis")
    part(page, "Basis")
    page.locator("#celeb_basis_basis_show").click()
    status(page, "basis").get_by_text("Done", exact=True).wait_for()
    encoders = {"sdxl": 2, "sd2v": 1}[server.checkpoint]  # type: ignore[attr-defined]
    assert page.locator("#celeb_basis_basis_poll_pictures svg.chart").count() == encoders
    assert not page.errors
    page.close()
