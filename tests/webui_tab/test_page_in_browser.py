"""The end-to-end test of the page: a real WebUI with a small checkpoint, and a real Forge and Forge Neo, in headless Chromium.

Needs ``CELEB_BASIS_WEBUI``, ``CELEB_BASIS_FORGE`` or ``CELEB_BASIS_FORGE_NEO``, the package ``playwright`` and Chromium (see
``support/webui_browser.py``); skipped where one is missing. The tests depend on one another, as a user's steps do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.forge import need_forge, need_forge_neo
from support.forge_server import serving_forge
from support.people import person
from support.sample_photos import sample_photos
from support.webui import need_webui
from support.webui_browser import (
    begin,
    cards,
    choose,
    fill,
    generate,
    learn,
    note,
    opened,
    part,
    status,
    steps_done,
    tab,
    without_likeness,
)
from support.webui_server import Server, serving

from celeb_basis.identities.identity import identity_to_bytes
from celeb_basis.identities.library import Library

PATIENCE = 240_000
"""Milliseconds for a step of a run: a busy machine needs them. A test that hangs ends, too."""


@pytest.fixture(scope="module", params=["webui", "forge", "forge_neo"])
def program(request: pytest.FixtureRequest) -> str:
    """Gradio 3 and gradio 4."""
    return str(request.param)


@pytest.fixture(scope="module")
def server(
    browser: Any, program: str, tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path
) -> Iterator[Server]:
    assert browser
    data = tmp_path_factory.mktemp("data")
    without_likeness(data)
    needed = {"forge": need_forge, "forge_neo": need_forge_neo}
    started = (
        serving(need_webui("sd1"), data, miniature_folder, page=True)
        if program == "webui"
        else serving_forge(needed[program](), data, miniature_folder, page=True)
    )
    with started as running:
        yield running


@pytest.fixture(scope="module")
def page(browser: Any, server: Server) -> Any:
    return opened(browser, server)


def test_the_train_tab_leads_to_the_page(page: Any, program: str) -> None:
    if program != "webui":
        pytest.skip("Forge has no Train tab")
    tab(page, "Train")
    page.locator("#train_tabs > .tab-nav > button", has_text="Celeb Basis").click()
    page.get_by_role("button", name="Open Celeb Basis").click()
    assert page.locator("#celeb_basis_start").is_visible()


def test_the_name_is_checked_while_it_is_typed(page: Any) -> None:
    field = page.get_by_label("Name", exact=True).locator("visible=true")
    field.press_sequentially("a/b")
    page.locator("#celeb_basis_name_note .error", has_text="contains '/'").first.wait_for()
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


def test_nothing_is_learned_without_consent(page: Any, server: Server) -> None:
    page.locator("#celeb_basis_start").click()
    note(page, "learn").wait_for()
    assert "Consent is missing" in note(page, "learn").inner_text()
    assert server.ours("GET", "/jobs") in ([], {"jobs": []})
    page.get_by_role("button", name="Remove this photo").click()
    page.locator(".celeb-basis-photo").wait_for(state="detached")


def test_an_error_of_a_photo_stands_under_the_drop_zone(page: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    page.locator("#celeb_basis_photos input[type=file]").set_input_files(str(broken))
    note(page, "photo").get_by_text("broken.jpg").wait_for()
    zone, error = page.locator("#celeb_basis_photos").bounding_box(), note(page, "photo").bounding_box()
    assert 0 <= error["y"] - (zone["y"] + zone["height"]) < 60
    assert note(page, "learn").count() == 0 or "broken.jpg" not in note(page, "learn").inner_text()


def test_a_fresh_page_says_how_much_memory_a_run_takes(page: Any, program: str) -> None:
    if program != "webui":  # which loads no checkpoint before it generates
        page.locator("#celeb_basis_memory .quiet").get_by_text("as soon as a checkpoint is loaded").wait_for()
    else:
        page.locator("#celeb_basis_memory .quiet", has_text=re.compile(r"\d [MG]B")).wait_for()
        page.locator("#celeb_basis_memory .quiet", has_text="is not prepared").wait_for()


@pytest.mark.parametrize("other", ["", "celeb_basis_check_name"])
def test_a_photo_on_a_slow_connection_is_not_lost(page: Any, other: str) -> None:
    """Gradio 3 forgets an upload when any other response comes first: ours wait, and after others' the upload is repeated."""

    def slowly(route: Any) -> None:
        time.sleep(6)  # longer than the time between two requests for progress
        route.continue_()

    page.route("**/upload*", slowly)
    if other:
        page.evaluate("(id) => { setTimeout(() => gradioApp().getElementById(id).click(), 2000) }", other)
    page.locator("#celeb_basis_photos input[type=file]").set_input_files(str(sample_photos()["six"]))
    page.locator(".celeb-basis-photo").wait_for()
    page.unroute("**/upload*")
    page.get_by_role("button", name="Remove this photo").click()
    page.locator(".celeb-basis-photo").wait_for(state="detached")


def test_a_person_is_learned_and_sent_to_the_prompt(page: Any, server: Server) -> None:
    learn(page, "ada")
    assert not page.locator("#celeb_basis_consent input").is_checked(), "consent is asked for again"
    assert "12 of 12" in status(page).inner_text()
    page.locator("#celeb_basis_learn_poll_details .label-wrap").click()
    page.locator("#celeb_basis_learn_poll_curve svg").first.wait_for()
    assert status(page).locator(".faces img").count() == 1
    cards(page, "ada")
    titles = page.locator("#celeb_basis_learn_poll_pictures figcaption").all_inner_texts()
    assert titles == [f"<ada> after {step} steps" for step in (3, 6, 9, 12)]
    assert Library(server.data / "celeb-basis" / "people").names() == ("ada",)
    page.get_by_role("button", name="Send <ada> to txt2img").first.click()
    assert page.locator("#txt2img_prompt textarea").input_value() == "a photo of <ada>"
    assert page.locator("#txt2img_generate").is_visible()


def test_the_token_is_completed_and_generated(page: Any) -> None:
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
    assert "a photo of <ada>, smiling" in generate(page, "a photo of <ada>, smiling").inner_text()


def test_another_completion_keeps_its_place_and_its_keys(page: Any) -> None:
    """With a list such as the tag-autocomplete extension puts under the prompt."""
    prompt = page.locator("#txt2img_prompt textarea")
    page.evaluate(
        """() => {
            const box = document.createElement("div");
            box.className = "autocompleteParent p";
            box.style = "position: absolute; left: 60px; top: 30px; width: 200px; height: 90px; z-index: 999";
            const field = document.querySelector("#txt2img_prompt textarea");
            field.parentNode.insertBefore(box, field.nextSibling);
            window.others = [];
            field.addEventListener("keydown", (event) => window.others.push(event.key));
            field.addEventListener("input", (event) => window.others.push(event.inputType));
        }"""
    )
    prompt.fill("")
    prompt.press_sequentially("<a", delay=20)
    ours = page.locator(".celeb-basis-completion")
    ours.wait_for()
    page.wait_for_timeout(300)
    other, mine = page.locator(".autocompleteParent.p").bounding_box(), ours.bounding_box()
    assert mine["x"] >= other["x"] + other["width"] or mine["y"] >= other["y"] + other["height"]
    page.evaluate("() => { window.others = [] }")
    prompt.press("ArrowDown")  # there is one name only
    assert ours.count() == 0
    assert page.evaluate("window.others") == ["ArrowDown"]
    prompt.press("Backspace")
    ours.wait_for()
    page.evaluate("() => { window.others = [] }")
    prompt.press("Enter")
    assert prompt.input_value() == "<ada>"
    assert set(page.evaluate("window.others")) == {"insertReplacementText"}, "the other list checks the text again"
    page.evaluate("() => document.querySelector('.autocompleteParent.p').remove()")
    assert not page.errors


def test_a_run_goes_on_without_the_page_and_can_be_resumed(page: Any, browser: Any, server: Server) -> None:
    tab(page, "Celeb Basis")
    begin(page, "bob", steps="4000")
    page.locator("[data-active='1']").first.wait_for()
    page.close()
    other = opened(browser, server)
    other.set_default_timeout(PATIENCE)
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


def test_an_interrupted_run_is_listed_resumed_and_discarded(browser: Any, server: Server) -> None:
    page = opened(browser, server)
    page.set_default_timeout(PATIENCE)
    run = page.locator("#celeb_basis_runs li", has_text="<bob>")
    run.wait_for()
    assert re.search(r"\d of 4,000 steps", run.inner_text())
    run.get_by_role("button", name="Resume").click()
    status(page).get_by_text("Learning", exact=True).wait_for()
    run.wait_for(state="detached")
    page.locator("#celeb_basis_interrupt").click()
    status(page).get_by_text("Interrupted", exact=True).wait_for()
    run.get_by_role("button", name="Discard").click()
    run.get_by_role("button", name="Keep").click()
    run.get_by_role("button", name="Discard").click()
    assert len(server.ours("GET", "/runs")["runs"]) == 1, "a question first"
    run.get_by_role("button", name="Delete").click()
    note(page, "learn").get_by_text("The run of bob is deleted.").wait_for()
    assert page.locator("#celeb_basis_runs li").count() == 0
    assert server.ours("GET", "/runs")["runs"] == []
    assert not page.errors
    page.close()


def test_people_are_renamed_and_deleted_after_confirmation(browser: Any, server: Server) -> None:
    page = opened(browser, server)
    people = Library(server.data / "celeb-basis" / "people")
    part(page, "People")
    page.locator(".celeb-basis-cards .card").first.click()
    page.locator("#celeb_basis_person h3", has_text="<ada>").first.wait_for()
    fill(page, "celeb_basis_new_name", "Ada Byron")
    page.locator("#celeb_basis_rename").click()
    page.locator("#celeb_basis_person h3", has_text="<Ada Byron>").first.wait_for()
    assert people.names() == ("Ada Byron",)
    cards(page, "Ada Byron")
    fill(page, "celeb_basis_notes", "met at sea")
    fill(page, "celeb_basis_consent_kept", "by letter, for postcards")
    page.locator("#celeb_basis_save_notes").click()
    page.locator("#celeb_basis_person").get_by_text("by letter, for postcards").wait_for()
    kept = people.load("Ada Byron").metadata
    assert (kept.notes, kept.consent) == ("met at sea", "by letter, for postcards")
    page.locator("#celeb_basis_export").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download Ada Byron.safetensors").first.click()
    assert download.value.path().read_bytes() == people.path_of("Ada Byron").read_bytes()
    page.locator("#celeb_basis_delete").click()
    page.locator("#celeb_basis_delete_yes").wait_for()
    assert people.names() == ("Ada Byron",), "confirmation first"
    page.locator("#celeb_basis_delete_yes").click()
    note(page, "people").get_by_text("is deleted").wait_for()
    assert people.names() == ()
    cards(page)
    assert not page.errors
    page.close()


def test_people_who_came_while_no_page_was_open_have_cards(browser: Any, server: Server) -> None:
    people = Library(server.data / "celeb-basis" / "people")
    before = people.names()
    opened(browser, server).close()  # the host makes its cards now, and gives them to every page from then on
    (people.folder / "zoe.safetensors").write_bytes(identity_to_bytes(person("zoe")))
    page = opened(browser, server)
    cards(page, *before, "zoe")
    page.close()
    (people.folder / "zoe.safetensors").unlink()
    page = opened(browser, server)
    cards(page, *before)
    assert not page.errors
    page.close()


def test_a_blend_is_previewed_before_it_is_saved(browser: Any, server: Server, program: str) -> None:
    page = opened(browser, server)
    people = Library(server.data / "celeb-basis" / "people")
    learn(page, "eve")
    runs = [job for job in server.ours("GET", "/jobs")["jobs"] if job["people"] == ["eve"]]
    celebrity = runs[0]["result"]["people"][0]["nearest"][0][0]  # one of the basis, which depends on the checkpoint
    part(page, "Blend")
    page.locator("#celeb_basis_blend_preview").click()
    note(page, "blend").get_by_text("nobody to blend").wait_for()
    choose(page, "celeb_basis_blend_people", "eve")
    page.locator("#celeb_basis_shares").get_by_text("100%").wait_for()
    page.locator("#celeb_basis_blend_drawing .label-wrap").click()
    fill(page, "celeb_basis_blend_steps", "2")
    page.locator("#celeb_basis_steer .label-wrap").click()
    fill(page, "celeb_basis_steer_celebrity_0", f"{celebrity}x")
    page.locator("#celeb_basis_blend_preview").click()
    status(page, "blend").get_by_text(f"did you mean {celebrity}").wait_for()
    fill(page, "celeb_basis_steer_celebrity_0", celebrity)
    if program == "webui":  # the other programs have a list of names without groups here
        choose(page, "celeb_basis_steer_group", "women")
    fill(page, "celeb_basis_blend_prompt", "{} at sea")
    page.locator("#celeb_basis_blend_preview").click()
    page.locator("#celeb_basis_blend_poll_pictures img").wait_for()
    status(page, "blend").get_by_text("Done", exact=True).wait_for()
    assert page.locator("#celeb_basis_blend_poll_pictures figcaption").inner_text() == "<mixture>"
    assert people.names() == ("eve",), "a preview saves nothing"
    fill(page, "celeb_basis_blend_name", "both")
    page.locator("#celeb_basis_blend_save").click()
    page.get_by_role("button", name="Send <both> to txt2img").wait_for()
    cards(page, "both", "eve")
    assert people.names() == ("both", "eve")
    saved = people.load("both").metadata.settings
    assert (saved["celebrities"], saved["groups"]) == (
        [[celebrity, 0.5]],
        [["women", 0.2]] if program == "webui" else [],
    )
    choose(page, "celeb_basis_blend_people", "both")
    assert not page.errors
    page.close()


def test_a_long_preview_is_interrupted(browser: Any, server: Server) -> None:
    page = opened(browser, server)
    part(page, "Blend")
    choose(page, "celeb_basis_blend_people", "eve")
    page.locator("#celeb_basis_blend_drawing .label-wrap").click()
    fill(page, "celeb_basis_blend_steps", "150")
    page.locator("#celeb_basis_blend_preview").click()
    status(page, "blend").get_by_text("Generating image 1 of 1").wait_for()
    page.locator("#celeb_basis_blend_stop").click()
    status(page, "blend").get_by_text("Interrupted", exact=True).wait_for(timeout=120_000)
    assert page.locator("#celeb_basis_blend_poll_pictures img").count() == 0
    assert not page.errors
    page.close()


def test_the_basis_is_shown(browser: Any, server: Server) -> None:
    page = opened(browser, server)
    part(page, "Basis")
    page.locator("#celeb_basis_basis_show").click()
    shown = page.locator("#celeb_basis_basis_poll_pictures")
    shown.locator("svg.chart").first.wait_for()
    assert "Names used" in shown.first.inner_text()
    assert not page.errors
    page.close()


def test_on_a_phone_the_photo_is_above_the_name_and_the_run_comes_into_view(browser: Any, server: Server) -> None:
    page = opened(browser, server, 390, 844)
    page.locator("#celeb_basis_photos input[type=file]").set_input_files(str(sample_photos()["six"]))
    page.locator(".celeb-basis-photo").wait_for()
    places = [
        page.locator(one).bounding_box()["y"]
        for one in (".celeb-basis-photo", "#celeb_basis_remove_photo", "#celeb_basis_name", "#celeb_basis_start")
    ]
    assert places == sorted(places)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#celeb_basis_remove_photo").click()
    page.locator(".celeb-basis-photo").wait_for(state="detached")
    begin(page, "gil", steps="4000")
    page.wait_for_function(
        """() => {
            const run = document.querySelector("[data-poll=celeb_basis_learn_poll][data-active='1']")?.getBoundingClientRect();
            return run && run.top >= 0 && run.top < window.innerHeight - 60;
        }"""
    )
    page.locator("#celeb_basis_interrupt").click()
    status(page).get_by_text("Interrupted", exact=True).wait_for(timeout=PATIENCE)
    page.locator("#celeb_basis_interrupt").wait_for(state="hidden")
    assert not page.errors
    page.close()


def test_reload_ui_interrupts_a_run_and_says_so(browser: Any, server: Server) -> None:
    page = opened(browser, server)
    begin(page, "fay", steps="4000")
    status(page).get_by_text("Learning", exact=True).wait_for()
    with page.expect_navigation(timeout=120_000):
        page.locator("a", has_text="Reload UI").click()
    page.wait_for_timeout(2000)
    page.close()
    other = opened(browser, server)
    status(other).get_by_text("Interrupted", exact=True).wait_for()
    message = status(other).inner_text()
    assert "Reload UI" in message
    assert "button" not in message
    assert "Press Resume" in message
    other.close()
