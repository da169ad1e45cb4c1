"""Which unknown names in prompts look like mistakes, and which like other syntax."""

from __future__ import annotations

import pytest

from celeb_basis.identities.library import name_key
from celeb_basis.prompts.syntax import likely_mistake, nearest

NAMES = {name_key(name): name for name in ("ada", "Jane Doe", "person1", "Bob", "Zoë", "Emma")}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *[("adda", "ada"), ("aad", "ada"), ("aida", "ada"), ("jane", "Jane Doe"), ("Jane  Doe", "Jane Doe")],
        *[("janedoe", "Jane Doe"), ("persn1", "person1"), ("person2", "person1"), ("person 1", "person1")],
        *[("bobb", "Bob"), ("emma stone", "Emma"), ("ema", "Emma"), ("jane_doe", "Jane Doe")],
    ],
)
def test_a_typing_error_is_near(typed: str, meant: str) -> None:
    assert nearest(name_key(typed), NAMES) == meant


@pytest.mark.parametrize(
    "typed",
    [
        "b",
        "i",
        "br",
        "em",
        "strong",
        "body",
        "span",
        "bo",
        "a",
        "sks",
        "lora",
        "cat-toy",
        "john",
        "s1",
        "'em_1'",
        "|",
        "",
    ],
)
def test_other_syntax_is_not(typed: str) -> None:
    assert nearest(name_key(typed), NAMES) == ""
    assert likely_mistake(name_key(typed), NAMES, {}) == ""


def test_who_was_there_is_said_and_who_is_near_too() -> None:
    former = {"zoe": "zoe", "adda": "adda"}
    assert likely_mistake("zoe", {}, former) == "nobody in your library has this name any more."
    assert "any more. Did you mean <ada>?" in likely_mistake("adda", NAMES, former)
