"""``<name>`` in a real WebUI: random prompts against vectors placed by hand, and what the tokens outlive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.webui import need_webui

COUNT = 1000
"""Prompts for each of two checkpoints; they take two or three minutes each."""


@pytest.mark.parametrize(("checkpoint", "seed"), [("sd1", 20), ("sdxl", 21)])
def test_random_prompts_are_bit_identical_to_vectors_placed_by_hand(tmp_path: Path, checkpoint: str, seed: int) -> None:
    webui = need_webui(checkpoint)
    arguments = ("--checkpoint", checkpoint, "--count", str(COUNT), "--seed", str(seed))
    report = webui.answer_of("support.webui_prompts", *arguments, data=tmp_path, timeout=3600)
    assert report["different"] == []
    assert report["prompts"] == COUNT
    # The comparison means something: people are there, in long prompts and behind moved commas, and matter.
    assert report["with_people"] > 0.9 * COUNT
    assert report["placed"] > 2 * COUNT
    assert report["long"] > 0.2 * COUNT
    assert report["moved_by_the_host"] > 0.01 * COUNT
    assert report["alike_without_tokens"] <= 10  # of fifty, some of which name no identity


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    webui = need_webui("sd1", "sd2v", "sdxl")
    report: dict[str, Any] = webui.answer_of("support.webui_stays", data=tmp_path_factory.mktemp("webui"), timeout=900)
    return report


def test_reload_ui_keeps_one_registry(seen: dict[str, Any]) -> None:
    assert seen["reload_ui"] == {"one_registry": True, "wrapped_once": True, "same": True}


def test_the_hosts_embeddings_may_come_and_go(seen: dict[str, Any]) -> None:
    assert seen["embeddings"] == {"folder_touched": True, "refreshed": True, "not_in_the_hosts_lists": True}


def test_the_pages_counter_counts_two_tokens_a_person(seen: dict[str, Any]) -> None:
    shown = {key: text.split(">")[1].split("<")[0] for key, text in seen["counter"].items()}
    # A comma is a token. "<person12>" is no identity: "<", "person", "1", "2" and ">," with what stands around it.
    assert shown == {"plain": "4/75", "person": "5/75", "weighted": "5/75", "nobody": "8/75"}


def test_emphasis_switched_off_and_of_old(seen: dict[str, Any]) -> None:
    places = [[1, "<person1>"], [4, "<person10>"]]
    assert seen["emphasis_settings"] == {"usual": places, "none": places, "old_is_the_same": True}


def test_whole_pictures(seen: dict[str, Any]) -> None:
    drawing = seen["drawing"]
    for claim in ("style_is_prompt", "weight_is_emphasis", "hires_weight_is_emphasis", "misread_is_the_person"):
        assert drawing[claim], claim
    assert drawing["typed_prompt_is_kept"]
    first, second = drawing["hashes"]
    assert f'TI hashes: "<person1>: {first}, <person10>: {second}"' in drawing["parameters"]
    assert "write a number, as in <person1:0.8>" in drawing["misread"]


def test_a_changed_person_draws_a_new_picture(seen: dict[str, Any]) -> None:
    assert seen["changed_content"] == {"cached": True, "changed": True, "back": True}


def test_on_another_family_the_reason_is_shown_with_every_picture(seen: dict[str, Any]) -> None:
    switched = seen["checkpoints"]
    assert "sd1" in switched["reason"]
    assert "sdxl" in switched["reason"]
    assert switched["page"] == {"person1": switched["reason"]}
    assert switched["unavailable_marks"] == []
    assert len(switched["comments"]) == 2
    for comment in switched["comments"]:
        assert comment.strip() == f"<person1> was read as plain text: {switched['reason']}"


def test_checkpoints_come_and_go(seen: dict[str, Any]) -> None:
    switched = seen["checkpoints"]
    assert switched["xl_marks"] == [[0, "<xl person>"]]
    assert switched["xl_again"]
    assert switched["home_again"]


def test_vectors_of_another_width_are_expanded_in_the_checkpoints_own_basis(seen: dict[str, Any]) -> None:
    switched = seen["checkpoints"]
    assert switched["stored_width"] == 1024
    assert switched["width"] == switched["table_width"] != 1024
    assert switched["expanded"]


def test_uninstalled_the_host_is_as_before(seen: dict[str, Any]) -> None:
    assert seen["host_as_before"]
