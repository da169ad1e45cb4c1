"""The journey over the page: a real WebUI with a small checkpoint, driven in headless Chromium.

Needs ``CELEB_BASIS_WEBUI``, the package ``playwright``, and Chromium on the path or named by ``CELEB_BASIS_CHROMIUM``;
skipped where one is missing. The tests follow one another, as a visitor's steps do.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.webui import need_webui
from support.webui_server import Server, serving

from celeb_basis.faces.samples import sample_photos
from celeb_basis.identities.library import Library

SETTINGS = {"steps": "12", "components": "16", "views": "3", "size": "64"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    webui = need_webui("sd1")
    _chromium()
    with serving(webui, tmp_path_factory.mktemp("data"), miniature_folder, page=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Any]:
    assert server
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def page(browser: Any, server: Server) -> Any:
    return opened(browser, server)


def _chromium() -> str:
    pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    paths = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    found = os.environ.get("CELEB_BASIS_CHROMIUM") or next(filter(None, paths), None)
    if not found:
        pytest.skip("needs Chromium: install it, or set CELEB_BASIS_CHROMIUM")
    return found


def opened(browser: Any, server: Server) -> Any:
    """A fresh page with the tab open. A script's error fails the test that looks at ``page.errors``."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto(server.base)
    page.wait_for_function(
        "window.opts && Object.keys(opts).length && document.querySelector('#txt2img_prompt textarea')"
    )
    page.wait_for_timeout(1000)
    tab(page, "Celeb Basis")
    return page


def tab(page: Any, label: str) -> None:
    page.locator("#tabs > .tab-nav > button", has_text=label).click()


def part(page: Any, label: str) -> None:
    page.locator("#celeb_basis_tabs > .tab-nav > button", has_text=label).click()


def note(page: Any, where: str) -> Any:
    return page.locator(f"#celeb_basis_{where}_note .celeb-basis-note").first


def status(page: Any) -> Any:
    return page.locator("[data-poll=celeb_basis_learn_poll]")


def steps_done(page: Any) -> int:
    """Steps that the page shows."""
    found = re.search(r"(\d+) of 4000", status(page).inner_text())
    assert found, status(page).inner_text()
    return int(found[1])


def fill(page: Any, elem_id: str, text: str) -> None:
    page.locator(f"#{elem_id} textarea, #{elem_id} input").first.fill(text)


def begin(page: Any, name: str, **settings: str) -> None:
    """Drop the photo of six people, give a name and press Learn."""
    page.locator("#celeb_basis_photos input[type=file]").set_input_files(str(sample_photos()["six"]))
    page.locator(".celeb-basis-photo").wait_for()
    fill(page, "celeb_basis_name", name)
    if not page.locator("#celeb_basis_set_steps input").is_visible():
        page.locator("#celeb_basis_advanced .label-wrap").click()
    for key, value in (SETTINGS | settings).items():
        fill(page, f"celeb_basis_set_{key}", value)
    page.locator("#celeb_basis_set_early_stop input").uncheck()
    page.locator("#celeb_basis_consent input").check()
    page.locator("#celeb_basis_start").click()


def test_the_train_tab_leads_to_the_page(page: Any) -> None:
    tab(page, "Train")
    page.locator("#train_tabs > .tab-nav > button", has_text="Celeb Basis").click()
    page.get_by_role("button", name="Open Celeb Basis").click()
    assert page.locator("#celeb_basis_start").is_visible()


def test_the_name_is_checked_while_it_is_typed(page: Any) -> None:
    field = page.get_by_label("Name", exact=True).locator("visible=true")
    field.press_sequentially("a/b")
    page.locator("#celeb_basis_name_note .error", has_text="holds '/'").first.wait_for()
    field.fill("ada")
    page.locator("#celeb_basis_name_note .good", has_text="<ada>").first.wait_for()


def test_faces_are_found_and_one_is_chosen(page: Any) -> None:
    page.locator("#celeb_basis_photos input[type=file]").set_input_files(str(sample_photos()["six"]))
    faces = page.locator(".celeb-basis-photo g")
    faces.first.wait_for()
    assert faces.count() == 6
    faces.nth(2).click(force=True)
    page.locator(".celeb-basis-photo g.chosen[data-value='3']").wait_for()
    assert page.get_by_role("radio", name="Face 3").is_checked()
    page.get_by_role("radio", name="Face 5").check()
    page.locator(".celeb-basis-photo g.chosen[data-value='5']").wait_for()
    assert page.get_by_label("Name", exact=True).locator("visible=true").input_value() == "ada", "the name stays"


def test_without_consent_nobody_is_learned(page: Any, server: Server) -> None:
    page.locator("#celeb_basis_start").click()
    note(page, "learn").wait_for()
    assert "Consent is missing" in note(page, "learn").inner_text()
    assert server.ours("GET", "/jobs") in ([], {"jobs": []})
    page.get_by_role("button", name="Remove this photo").click()
    page.locator(".celeb-basis-photo").wait_for(state="detached")


def test_a_person_is_learned_and_sent_to_the_prompt(page: Any, server: Server) -> None:
    begin(page, "ada")
    # The first run builds the basis and loads the face networks.
    status(page).get_by_text("Done", exact=True).wait_for(timeout=240_000)
    assert not page.locator("#celeb_basis_consent input").is_checked(), "the next person is asked again"
    assert "12 of 12" in status(page).inner_text()
    assert page.locator("#celeb_basis_learn_poll_curve svg").first.is_visible()
    assert Library(server.data / "celeb-basis" / "people").names() == ("ada",)
    page.get_by_role("button", name="Send <ada> to txt2img").first.click()
    assert page.locator("#txt2img_prompt textarea").input_value() == "<ada>"
    assert page.locator("#txt2img_generate").is_visible()


def test_the_word_is_completed_and_drawn(page: Any) -> None:
    prompt = page.locator("#txt2img_prompt textarea")
    prompt.fill("")
    prompt.press_sequentially("a photo of <", delay=20)
    page.locator(".celeb-basis-completion li", has_text="<ada>").wait_for()
    prompt.press_sequentially("a", delay=20)
    page.wait_for_timeout(400)
    prompt.press("Enter")
    assert prompt.input_value() == "a photo of <ada>"
    prompt.press_sequentially(", <lora:", delay=20)
    page.wait_for_timeout(400)
    assert page.locator(".celeb-basis-completion").count() == 0, "the host's own syntax is left alone"
    prompt.fill("a photo of <ada>, smiling")
    for name, value in (("steps", "1"), ("width", "64"), ("height", "64")):
        page.locator(f"#txt2img_{name} input[type=number]").fill(value)
        page.locator(f"#txt2img_{name} input[type=number]").blur()
    page.locator("#txt2img_generate").click()
    shown = page.locator("#html_info_txt2img", has_text=re.compile("Steps: 1")).first
    shown.wait_for()
    assert "a photo of <ada>, smiling" in shown.inner_text()


def test_a_run_goes_on_without_the_page_and_can_be_resumed(page: Any, browser: Any, server: Server) -> None:
    tab(page, "Celeb Basis")
    begin(page, "bob", steps="4000")
    page.locator("[data-active='1']").first.wait_for()
    page.close()
    other = opened(browser, server)
    status(other).get_by_text("<bob>").wait_for()
    status(other).get_by_text("Learning").wait_for()
    other.locator("#celeb_basis_interrupt").click()
    status(other).get_by_text("Interrupted", exact=True).wait_for()
    kept = steps_done(other)
    other.locator("#celeb_basis_resume").click()
    status(other).get_by_text("Learning", exact=True).wait_for()
    assert steps_done(other) > kept
    other.locator("#celeb_basis_interrupt").click()
    status(other).get_by_text("Interrupted", exact=True).wait_for()
    assert not other.errors
    other.close()


def test_people_are_renamed_and_deleted_after_a_question(browser: Any, server: Server) -> None:
    page = opened(browser, server)
    people = Library(server.data / "celeb-basis" / "people")
    part(page, "People")
    page.locator(".celeb-basis-cards .card").first.click()
    page.locator("#celeb_basis_person h3", has_text="<ada>").first.wait_for()
    fill(page, "celeb_basis_new_name", "Ada Byron")
    page.locator("#celeb_basis_rename").click()
    page.locator("#celeb_basis_person h3", has_text="<Ada Byron>").first.wait_for()
    assert people.names() == ("Ada Byron",)
    page.locator("#celeb_basis_export").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download Ada Byron.safetensors").first.click()
    assert download.value.path().read_bytes() == people.path_of("Ada Byron").read_bytes()
    page.locator("#celeb_basis_delete").click()
    page.locator("#celeb_basis_delete_yes").wait_for()
    assert people.names() == ("Ada Byron",), "asked first"
    page.locator("#celeb_basis_delete_yes").click()
    note(page, "people").get_by_text("is deleted").wait_for()
    assert people.names() == ()
    assert not page.errors
    page.close()


def test_blend_and_basis_answer(browser: Any, server: Server) -> None:
    page = opened(browser, server)
    part(page, "Blend")
    page.locator("#celeb_basis_blend_save").click()
    note(page, "blend").wait_for()
    assert "name" in note(page, "blend").inner_text() or "nobody" in note(page, "blend").inner_text()
    part(page, "Basis")
    page.locator("#celeb_basis_basis_show").click()
    page.locator("#celeb_basis_basis svg.chart").first.wait_for()
    assert "Names used" in page.locator("#celeb_basis_basis").first.inner_text()
    assert not page.errors
    page.close()
