"""With each neighbour and with all: the page stands with both, names are completed, and a plain prompt means the person."""

from __future__ import annotations

from typing import Any

import pytest
from support.neighbours import (
    ADETAILER,
    CONTROLNET,
    DYNAMIC_PROMPTS,
    EMBEDDING_MERGE,
    NEIGHBOURS,
    REGIONAL_PROMPTER,
    TAG_COMPLETE,
    World,
    beside,
    told,
)
from support.webui_browser import generate, opened, part, tab

THEIRS = {
    CONTROLNET: "#txt2img_controlnet",
    ADETAILER: "#script_txt2img_adetailer_ad_main_accordion",
    DYNAMIC_PROMPTS: "#sddp-dynamic-prompting",
    TAG_COMPLETE: ".autocompleteParent",
    REGIONAL_PROMPTER: "[id^=RP_divide_ratio]",
    EMBEDDING_MERGE: "#tab_embedding_merge_extension",
}
LIST, THEIR_LIST = ".celeb-basis-completion li", ".autocompleteParent .autocompleteResults li"


def typed(page: Any, text: str, field: str = "#txt2img_prompt textarea") -> Any:
    prompt = page.locator(field).first
    prompt.fill("")
    prompt.press_sequentially(text, delay=40)
    return prompt


@beside(*NEIGHBOURS)
def test_a_plain_prompt_means_the_person(world: World) -> None:
    _, info = world.understood({"prompt": "a photo of <ada>, smiling", "negative_prompt": "(<ben:0.9>)"})
    assert told(info["infotexts"][0]) == {"ada", "ben"}


@beside(*NEIGHBOURS)
def test_the_page_stands_with_both(browser: Any, world: World) -> None:
    page = opened(browser, world.server)
    part(page, "People")
    page.locator(".celeb-basis-cards .card", has_text="ben").wait_for()
    tab(page, "txt2img")
    prompt = typed(page, "a photo of <a")
    page.locator(LIST, has_text="<ada>").wait_for()
    page.wait_for_timeout(500)
    prompt.press("Enter")
    assert prompt.input_value() == "a photo of <ada>"
    page.wait_for_timeout(1500)
    assert page.locator(f"{LIST}:visible, {THEIR_LIST}:visible").count() == 0
    for name in world.neighbours:
        assert page.locator(THEIRS[name]).count(), f"{name} shows nothing"
    assert told(generate(page, "a photo of <ada>", "192").inner_text().replace("\n", " ")) == {"ada"}
    assert page.errors == []
    page.close()


@beside(TAG_COMPLETE)
def test_both_lists_are_open_and_each_takes_its_own_word(browser: Any, world: World) -> None:
    page = opened(browser, world.server)
    tab(page, "txt2img")
    page.wait_for_function("allTags.length > 0")
    prompt = typed(page, "1gir")
    page.locator(f"{THEIR_LIST}:visible", has_text="1girl").first.wait_for()
    prompt.press("Tab")
    page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value.startsWith('1girl')")
    for key in ("Tab", "Enter"):
        prompt = typed(page, "1girl, <a")
        page.locator(f"{THEIR_LIST}:visible").first.wait_for()
        page.locator(LIST, has_text="<ada>").wait_for()
        page.wait_for_timeout(300)
        ours, theirs = page.locator(LIST).first.bounding_box(), page.locator(THEIR_LIST).first.bounding_box()
        assert ours["x"] >= theirs["x"] + theirs["width"], "neither hides the other"
        prompt.press(key)
        assert prompt.input_value() == "1girl, <ada>"
    assert page.errors == []
    page.close()


@beside(TAG_COMPLETE)
def test_their_list_does_not_stay_behind_a_taken_name(browser: Any, world: World) -> None:
    page = opened(browser, world.server)
    tab(page, "txt2img")
    page.wait_for_function("allTags.length > 0")
    prompt = typed(page, "a photo of <a")
    page.locator(LIST, has_text="<ada>").wait_for()
    page.wait_for_timeout(500)
    page.evaluate("() => { previousTags = []; }")  # as if it saw this prompt for the first time: it was pasted
    prompt.press("Enter")
    page.wait_for_timeout(1500)
    assert prompt.input_value() == "a photo of <ada>"
    assert page.locator(f"{THEIR_LIST}:visible").count() == 0
    page.close()


@beside(ADETAILER)
@pytest.mark.parametrize("field", ["ad_prompt", "ad_negative_prompt_2nd"])
def test_names_are_completed_in_adetailers_prompts(browser: Any, world: World, field: str) -> None:
    page = opened(browser, world.server)
    tab(page, "txt2img")
    page.locator("#script_txt2img_adetailer_ad_main_accordion .label-wrap").first.click()
    if field.endswith("_2nd"):
        page.locator("#script_txt2img_adetailer_ad_main_accordion button", has_text="2nd").first.click()
    prompt = typed(page, "a face, <b", f"#script_txt2img_adetailer_{field} textarea")
    page.locator(LIST, has_text="<ben>").wait_for()
    page.wait_for_timeout(300)
    prompt.press("Enter")
    assert prompt.input_value() == "a face, <ben>"
    page.close()
