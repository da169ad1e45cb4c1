"""In a real WebUI: parameters of real pictures read by the host's own parser, pasted by its own callback, its own cards."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.webui import need_webui


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    webui = need_webui("sd1")
    report: dict[str, Any] = webui.answer_of("support.webui_cards", data=tmp_path_factory.mktemp("webui"), timeout=900)
    return report


def people(seen: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{name}: {seen['hashes'][name]}" for name in names)


def test_a_saved_picture_tells_who_is_in_it_and_gives_its_prompts_back(seen: dict[str, Any]) -> None:
    parsed = seen["pictures"]["parsed"]
    assert parsed["Celeb Basis"] == people(seen, "person1", "Doe, Jane", "Zoë")
    assert [parsed["Prompt"], parsed["Negative prompt"]] == seen["pictures"]["typed"]
    assert parsed["Size-1"] == "64"
    assert parsed["Steps"] == "1"


def test_styles_and_hires_prompts_count(seen: dict[str, Any]) -> None:
    styled, hires = seen["pictures"]["styled"], seen["pictures"]["hires"]
    assert styled["Celeb Basis"] == people(seen, "person10", "Zoë")
    assert [styled["Prompt"], styled["Negative prompt"], styled["Styles array"]] == ["tree", "", ["a person"]]
    assert hires["Celeb Basis"] == people(seen, "person1")
    assert hires["Hires prompt"] == "<person1>, tree"


def test_nobody_named_nothing_written(seen: dict[str, Any]) -> None:
    assert "Celeb Basis" not in seen["pictures"]["nobody"]


def test_jpeg_too(seen: dict[str, Any]) -> None:
    assert seen["pictures"]["jpeg"]["Celeb Basis"] == people(seen, "Zoë", "Doe, Jane")


def test_each_picture_of_a_job_has_its_own(seen: dict[str, Any]) -> None:
    found = [re.search(r'Celeb Basis: "([^"]*)"', text) for text in seen["pictures"]["batch"]]
    wanted = [people(seen, "person1"), None, people(seen, "Zoë", "a++ & b's")]
    assert [match and match.group(1) for match in found] == wanted


@pytest.mark.parametrize("case", ["same", "another", "missing"])
def test_pasting_gives_the_prompts_back(seen: dict[str, Any], case: str) -> None:
    assert seen["pasted"][case]["prompt"] == "<person1>, (<Doe, Jane>:1.1), <ada:0.8>"
    assert seen["pasted"][case]["negative"] == "<Zoë>."


def test_pasting_warns_of_other_and_missing_people_only(seen: dict[str, Any]) -> None:
    said = {case: answer["said"] for case, answer in seen["pasted"].items()}
    assert said["same"] == []
    assert len(said["another"]) == len(said["missing"]) == 1
    assert seen["hashes"]["person1"] in said["another"][0]
    assert "<ada> (3da88c0dcb81), who is not in your library" in said["missing"][0]


def test_an_empty_library_says_so(seen: dict[str, Any]) -> None:
    assert "Nobody yet" in seen["nobody"]


def test_everybody_has_a_card(seen: dict[str, Any]) -> None:
    cards = seen["cards"]["items"]
    assert list(cards) == ["a++ & b's", "broken", "Doe, Jane", "larger", "other list", "person1", "person10", "Zoë"]
    assert seen["cards"]["html"].count("celebBasisCardClicked(") == 8
    assert "&quot;&lt;a++ &amp; b&#x27;s&gt;&quot;" in seen["cards"]["html"]
    assert seen["hashes"]["person1"] in cards["person1"]["search_terms"]
    assert re.match(r"learned on sd1 \(sd1\)\n\d{1,2} [A-Z][a-z]+ 20\d\d\n", cards["person1"]["description"])
    assert "bold" not in seen["cards"]["html"]


def test_who_is_unavailable_says_why(seen: dict[str, Any]) -> None:
    cards = seen["cards"]["items"]
    assert {name for name, card in cards.items() if card["unavailable"]} == {"larger", "broken", "other list"}
    assert "sdxl" in cards["larger"]["description"]
    assert "damaged" in cards["broken"]["description"]
    assert seen["cards"]["html"].count("celeb-basis-unavailable") == 3


def test_a_name_never_used_is_refused_for_its_list_of_names(seen: dict[str, Any]) -> None:
    people, cards = seen["cards"]["people"], seen["cards"]["items"]
    assert "other list" not in seen["cards"]["unavailable"]  # which holds who was met in prompts
    assert "another names list" in cards["other list"]["description"]
    assert people["other list"] == cards["other list"]["unavailable"]
    assert {name for name, reason in people.items() if reason} >= {"larger", "broken", "other list"}
    assert people["person1"] == ""


def test_previews_come_from_inside_the_identities(seen: dict[str, Any]) -> None:
    cards = seen["cards"]["items"]
    assert cards["person10"]["preview"] is None
    assert cards["person1"]["preview"].startswith("./sd_extra_networks/cover-images?page=celeb_basis&item=person1&")
    assert {kind for kind, size in seen["cards"]["covers"].values() if size > 50} == {"image/png"}
    assert seen["cards"]["no_cover"] == "HTTPException"  # 404
    assert seen["cards"]["outside"] == "ValueError"


def test_metadata_and_a_single_card(seen: dict[str, Any]) -> None:
    metadata = json.loads(seen["cards"]["metadata"])
    assert metadata["hash"] == seen["hashes"]["person1"]
    assert "ssmd_cover_images" not in metadata
    assert 'data-name="person1"' in seen["cards"]["single"]


def test_refresh_reads_the_folder_again(seen: dict[str, Any]) -> None:
    assert seen["cards"]["refreshed"] == [
        "a++ & b's",
        "broken",
        "Doe, Jane",
        "grandma",
        "larger",
        "other list",
        "person1",
    ]


@pytest.mark.parametrize("style", ["Dirs False", "Dirs True", "Tree False", "Tree True"])
def test_a_strangers_file_puts_no_markup_into_the_page(seen: dict[str, Any], style: str) -> None:
    shown = seen["hostile"][style]
    assert shown.count('data-name="stranger"') == 1
    assert "&lt;script&gt;alert" in shown
    assert "<script" not in shown


def test_a_thousand_cards_read_each_file_once(seen: dict[str, Any]) -> None:
    many = seen["many"]
    assert many["cards"] > 1000
    assert many["first"] == 1000
    assert many["again"] == 0
