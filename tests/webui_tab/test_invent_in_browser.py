"""A newcomer without a photo, on a real page in headless Chromium: from the tab to an invented person in four clicks.

Needs what ``test_page_in_browser.py`` needs. The tests depend on one another, as a user's steps do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from support.forge import need_forge
from support.forge_server import serving_forge
from support.webui import need_webui
from support.webui_browser import cards, fill, note, opened, part, status
from support.webui_server import Server, serving

from celeb_basis.identities.library import Library

PATIENCE = 240_000


@pytest.fixture(scope="module", params=["webui", "forge"])
def program(request: pytest.FixtureRequest) -> str:
    """Gradio 3 and gradio 4."""
    return str(request.param)


@pytest.fixture(scope="module")
def server(
    browser: Any, program: str, tmp_path_factory: pytest.TempPathFactory, miniature_folder: Any
) -> Iterator[Server]:
    assert browser
    data = tmp_path_factory.mktemp("data")
    started = (
        serving(need_webui("sd1"), data, miniature_folder, page=True)
        if program == "webui"
        else serving_forge(need_forge(), data, miniature_folder, page=True)
    )
    with started as running:
        yield running


@pytest.fixture(scope="module")
def page(browser: Any, server: Server) -> Any:
    return opened(browser, server)


def sheet_ended(page: Any) -> None:
    page.locator("#celeb_basis_invent_poll_status .state.done").wait_for(timeout=PATIENCE)
    page.locator(".celeb-basis-sheet .marks").nth(8).wait_for()


def saved(server: Server) -> list[str]:
    return [person["name"] for person in server.ours("GET", "/people")["people"]]


def test_four_clicks_lead_from_the_tab_to_an_invented_person(page: Any, server: Server) -> None:
    part(page, "Invent")
    page.locator("#celeb_basis_invent_steps input").first.wait_for(state="attached")
    page.evaluate("document.querySelector('#celeb_basis_invent_more .label-wrap').click()")
    fill(page, "celeb_basis_invent_steps", "1")  # the test's own: a small step count for a machine without a GPU
    page.locator("#celeb_basis_invent_start").click()
    page.locator(".celeb-basis-sheet .tile").nth(8).wait_for(timeout=PATIENCE)
    sheet_ended(page)
    page.locator(".celeb-basis-sheet .face").nth(3).click()
    name = page.locator("#celeb_basis_invent_name textarea, #celeb_basis_invent_name input").first
    name.wait_for()
    suggested = name.input_value()
    assert suggested == page.locator(".celeb-basis-sheet .caption").nth(3).inner_text().split(" no face")[0].strip()
    page.locator("#celeb_basis_invent_save").click()
    note(page, "invent_save").get_by_text("is saved").wait_for()
    assert saved(server) == [suggested]
    cards(page, suggested)
    assert server.ours("GET", f"/people/{quote(suggested)}")["source"] == "invented"
    assert page.errors == []


def test_the_saved_person_goes_into_a_prompt(page: Any, server: Server) -> None:
    page.locator("#celeb_basis_invent_save_note [data-word]").first.click()
    prompt = page.locator("#txt2img_prompt textarea")
    page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value.includes('<')")
    assert f"<{saved(server)[0]}>" in prompt.input_value()
    page.locator("#tabs > .tab-nav > button", has_text="Celeb Basis").click()


def test_the_sheet_says_how_many_faces_there_are(page: Any) -> None:
    """The small checkpoint of tests knows nobody."""
    page.locator("#celeb_basis_invent_poll_pictures").get_by_text("of 9 images").wait_for()


def test_marks_make_the_next_sheet(page: Any, server: Server) -> None:
    before = page.locator(".celeb-basis-sheet .caption").all_inner_texts()
    tiles = page.locator(".celeb-basis-sheet .tile")
    tiles.nth(0).get_by_text("Keep", exact=True).click()
    tiles.nth(3).get_by_text("More", exact=True).click()
    tiles.nth(7).get_by_text("Less", exact=True).click()
    first = server.ours("GET", "/jobs")["jobs"][0]
    page.locator("#celeb_basis_invent_start").click()
    page.wait_for_function(
        "(before) => document.querySelectorAll('.celeb-basis-sheet .caption')[1]?.innerText !== before", arg=before[1]
    )
    sheet_ended(page)
    second = server.ours("GET", "/jobs")["jobs"][0]
    assert second["id"] != first["id"]
    hashes = [[one["hash"] for one in job["result"]["people"]] for job in (first, second)]
    assert hashes[0][0] == hashes[1][0]
    assert not set(hashes[0][1:]) & set(hashes[1])
    assert page.locator("#celeb_basis_invent_save").is_visible() is False, "nobody of the new sheet is chosen"


def test_contradicting_marks_and_a_taken_name_are_sentences(page: Any, server: Server) -> None:
    tiles = page.locator(".celeb-basis-sheet .tile")
    for mark in ("More", "Less"):
        tiles.nth(5).get_by_text(mark, exact=True).click()
    page.locator("#celeb_basis_invent_start").click()
    note(page, "invent").get_by_text("marked both more and less").wait_for()
    tiles.nth(5).get_by_text("Less", exact=True).click()
    page.locator(".celeb-basis-sheet .face").nth(5).click()
    page.locator("#celeb_basis_invent_save").wait_for()
    fill(page, "celeb_basis_invent_name", saved(server)[0])
    page.locator("#celeb_basis_invent_save").click()
    note(page, "invent_save").get_by_text("already a person").wait_for()
    assert len(saved(server)) == 1


def test_a_sheet_is_interrupted(page: Any) -> None:
    fill(page, "celeb_basis_invent_steps", "150")
    page.locator("#celeb_basis_invent_start").click()
    status(page, "invent").get_by_text("Generating").wait_for(timeout=PATIENCE)
    page.locator("#celeb_basis_invent_stop").click()
    page.locator("#celeb_basis_invent_poll_status .state.interrupted").wait_for(timeout=PATIENCE)
    assert page.errors == []


def test_the_library_holds_an_intact_file(server: Server) -> None:
    library = Library(server.data / "celeb-basis" / "people")
    (name,) = library.names()
    assert library.load(name).metadata.thumbnail is not None
