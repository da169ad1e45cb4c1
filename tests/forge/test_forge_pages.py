"""Forge's own page beside ours: a pasted picture's people, and everybody's card. Run with ``CELEB_BASIS_FORGE`` set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.forge import need_forge
from support.forge_server import serving_forge
from support.people import person
from support.webui_browser import opened, tab
from support.webui_server import Server

from celeb_basis.identities.identity import identity_to_bytes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    """Forge with an identity in the library that does not fit its checkpoint."""
    forge, data = need_forge(), tmp_path_factory.mktemp("data")
    people = data / "celeb-basis" / "people"
    people.mkdir(parents=True)
    (people / "ada.safetensors").write_bytes(identity_to_bytes(person("ada")))
    with serving_forge(forge, data, miniature_folder, page=True) as running:
        yield running


@pytest.fixture(scope="module")
def page(browser: Any, server: Server) -> Any:
    return opened(browser, server)


def test_before_the_first_picture_people_wait_for_a_checkpoint(server: Server) -> None:
    (ada,) = server.ours("GET", "/people")["people"]
    assert not ada["available"]
    assert ada["reason"] == "No checkpoint is loaded yet: Forge loads it with the first picture."


def test_pasted_parameters_warn_of_who_is_missing(page: Any) -> None:
    tab(page, "Txt2img")
    parameters = 'Steps: 3, Sampler: DDIM, CFG scale: 3, Seed: 1, Size: 64x64, Celeb Basis: "eve: 0123456789ab"'
    page.locator("#txt2img_prompt textarea").fill(f"<eve>\n{parameters}")
    page.locator("#txt2img_tools #paste").click()
    page.locator(".toast-body", has_text="with <eve> (0123456789ab)").first.wait_for()
    assert page.locator("#txt2img_prompt textarea").input_value() == "<eve>"


def test_a_card_writes_the_word(page: Any) -> None:
    tab(page, "Txt2img")
    page.locator("#txt2img_prompt textarea").fill("a photo of")
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Celeb Basis").click()
    page.locator("#txt2img_celeb_basis_cards .card", has_text="ada").first.click()
    page.wait_for_timeout(300)
    assert page.locator("#txt2img_prompt textarea").input_value() == "a photo of <ada>"
    assert not page.errors
