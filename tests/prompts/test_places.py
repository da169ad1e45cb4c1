"""Places of people: what is read, what is refused with a sentence, and the prompts of the regions."""

from __future__ import annotations

import pytest

from celeb_basis.errors import PlacesError
from celeb_basis.prompts.places import MOST_PEOPLE, Places, parse_places, regions_of
from celeb_basis.regions import Box


def read(text: str, until: float = 1.0) -> Places:
    places = parse_places(text, until)
    assert places is not None
    return places


def prompts(prompt: str, text: str) -> list[str]:
    return [one.prompt for one in regions_of(prompt, read(text))]


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_no_text_is_no_places(text: str) -> None:
    assert parse_places(text) is None


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("ada: left; ben: right", [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]),
        ("ada=LEFT\n<ben> = right;", [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]),
        ("a: left; b: middle; c: right", [(0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1), (2 / 3, 0, 1, 1)]),
        ("a: left; b: center", [(0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1)]),
        ("a: top; b: bottom", [(0, 0, 1, 0.5), (0, 0.5, 1, 1)]),
        ("a: top; b: middle; c: bottom", [(0, 0, 1, 1 / 3), (0, 1 / 3, 1, 2 / 3), (0, 2 / 3, 1, 1)]),
        ("a: 0, 0.1, .5, 1; b: 50% 0 100% 100%", [(0, 0.1, 0.5, 1), (0.5, 0, 1, 1)]),
        ("Doe, Jane: left; a=b=right", [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]),
    ],
)
def test_places_are_boxes(text: str, boxes: list[tuple[float, float, float, float]]) -> None:
    for one, box in zip(read(text).placements, boxes, strict=True):
        assert (one.box.left, one.box.top, one.box.right, one.box.bottom) == pytest.approx(box)


@pytest.mark.parametrize("text", ["ada: left; ben: right", "Doe, Jane: 0 0.1 0.5 1; ben: right", "a: middle; b: left"])
def test_written_places_are_read_again(text: str) -> None:
    places = read(text, 0.6)
    assert str(places) == text
    assert parse_places(str(places), 0.6) == places
    assert places.parameters() == {"Places": text, "Places until": "0.6"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ada: left; ben: left", "ada and ben have the same place"),
        ("ada: left; ben: 0 0 0.5 1", "ada and ben have the same place"),
        ("ada: 0 0 1 1; ben: 0.2 0.2 0.4 0.4", "ada and ben have the same place"),
        ("ada: 0.5 0 1.2 1; ben: left", "reaches out of the image"),
        ("ada: -0.1 0 0.5 1; ben: right", "reaches out of the image"),
        ("ada: 0 0 200% 1", "reaches out of the image"),
        ("ada: 0.5 0 0.5 1; ben: left", "is empty"),
        ("ada: 0.9 0 0.5 1; ben: left", "is empty"),
        ("ada: left; ADA: right", "ADA has two places"),
        ("ada: nowhere; ben: left", "'ada: nowhere; ben: left' cannot be read"),
        ("ada: left; ben", "'ben' cannot be read"),
        ("left, right", "cannot be read"),
        ("ada: 0 0 1", "cannot be read"),
        ("ada: nan nan nan nan", "cannot be read"),
        ("x" * 3000, "3000 characters"),
        ("; ".join(f"p{number}: {number / 9:.3f} 0 {(number + 1) / 9:.3f} 1" for number in range(9)), "9 people"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(PlacesError, match=r"^.*[.]$") as raised:
        parse_places(text)
    assert said in str(raised.value)


@pytest.mark.parametrize("until", [-0.1, 1.1, float("nan")])
def test_a_share_of_the_steps_is_one(until: float) -> None:
    with pytest.raises(PlacesError, match="share from 0 to 1"):
        parse_places("ada: left", until)


def test_neighbors_may_overlap() -> None:
    assert len(read("ada: 0 0 0.6 1; ben: 0.4 0 1 1").placements) == 2
    assert MOST_PEOPLE >= 4


def test_a_region_that_holds_no_face_is_refused_at_its_size() -> None:
    places = read("a: left; b: middle; c: right")
    places.check_size(96, 64)
    with pytest.raises(PlacesError, match="place of a would be 21x64 pixels"):
        places.check_size(64, 64)


def test_in_a_region_every_name_is_its_own_persons() -> None:
    assert prompts("<ada> and <ben> baking", "ada: left; ben: right") == [
        "<ada> and <ada> baking",
        "<ben> and <ben> baking",
    ]


def test_weights_stay_where_they_are() -> None:
    assert prompts("<ada:0.8>, (<ben>:1.2), <ben>'s hat", "ada: left; ben: right") == [
        "<ada:0.8>, (<ada>:1.2), <ada>'s hat",
        "<ben:0.8>, (<ben>:1.2), <ben>'s hat",
    ]


def test_others_and_their_tags_stay() -> None:
    found = prompts("<Ada> and <ben> with <cyd>, adamant, <lora:ada:1>", "ada: left; ben: right")
    assert found[1] == "<ben> and <ben> with <cyd>, adamant, <lora:ada:1>"


def test_words_of_the_prompt_are_names_too() -> None:
    found = prompts("Tom Hanks and <ben:0.9>, tom hanks' hat", "tom hanks: left; ben: right")
    assert found == ["Tom Hanks and (Tom Hanks:0.9), Tom Hanks' hat", "<ben> and <ben:0.9>, <ben>' hat"]


def test_regions_have_the_boxes() -> None:
    assert regions_of("<ada>", read("ada: right"))[0].box == Box(0.5, 0, 1, 1)


@pytest.mark.parametrize("prompt", ["", "a photo", "adam and <ben>", "<ben>"])
def test_who_is_not_in_the_prompt_is_named(prompt: str) -> None:
    with pytest.raises(PlacesError, match="does not name ada"):
        regions_of(prompt, read("ada: left; ben: right"))
