"""The evaluation grid, and "person" in the word's place."""

from __future__ import annotations

import pytest

from celeb_basis.evaluation import EVALUATION_PROMPTS, as_person, evaluation_prompts


@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        ("a photo of <anna>", "<anna>", "a photo of person"),
        ("a photo of sks person, smiling", "sks", "a photo of person, smiling"),
        ("face of <p1> person and <p10> person", "<p1>", "face of person and <p10> person"),
        ("<p1> and <p10>", ("<p1>", "<p10>"), "person and person"),
        ("ann and anna", "ann", "person and anna"),
        ("ann, ann's dog (ann:1.2)", "ann", "person, person's dog (person:1.2)"),
        ("zoë 宮崎", "zoë", "person 宮崎"),
        ("a.b axb", "a.b", "person axb"),
        ("<anna> personally", "<anna>", "person personally"),
        ("no word here", "<anna>", "no word here"),
        ("nothing to replace", "", "nothing to replace"),
    ],
)
def test_as_person(prompt: str, word: str | tuple[str, ...], expected: str) -> None:
    assert as_person(prompt, word) == expected


def test_grid() -> None:
    prompts = evaluation_prompts("<anna>")
    assert 35 <= len(prompts) == len(set(prompts)) <= 50
    assert all(prompt.count("<anna>") == 1 and "{" not in prompt for prompt in prompts)
    assert {"action", "style", "place", "company"} <= set(EVALUATION_PROMPTS)
    assert evaluation_prompts("x", ["style"]) == [one.replace("{}", "x") for one in EVALUATION_PROMPTS["style"]]
