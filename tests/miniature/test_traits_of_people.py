"""What is said of an invented person is what their head has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from miniature.people3d.head_model import EYE_LEFT, EYE_RIGHT, head_model
from miniature.people3d.person import GREY, HAIR_COLORS, Person, draw_person
from miniature.people3d.portrait import shaped
from miniature.people3d.traits import (
    LITTLE,
    STYLE_WORDS,
    TRAITS,
    Description,
    all_words,
    describe,
    hair_color,
    measure,
    phrase,
)

SPREAD = 1.4


def with_more(person: Person, target: str, amount: float) -> Person:
    return replace(person, shape={**person.shape, target: person.shape.get(target, 0.0) + amount})


def words_of(name: str) -> int:
    return next(place for place, trait in enumerate(TRAITS) if name in (trait.low + trait.high).replace("{}", ""))


@pytest.mark.parametrize(
    ("target", "trait"),
    [
        ("nose/nose-scale-horiz-incr", "wide nose"),
        ("mouth/mouth-scale-horiz-incr", "wide mouth"),
        ("chin/chin-width-incr", "square jaw"),
        ("head/head-scale-vert-incr", "long face"),
    ],
)
def test_a_head_that_is_changed_has_more_of_the_trait(target: str, trait: str) -> None:
    person, place = draw_person(5), words_of(trait)
    before, after = measure(person, SPREAD), measure(with_more(person, target, 0.8), SPREAD)
    changed = after - before
    assert changed[place] > LITTLE
    # What comes before it in the list does not depend on it alone, but is never changed the most.
    assert np.abs(changed[: place + 1]).argmax() == place


def test_traits_of_many_people_are_independent() -> None:
    # Other people than those of whom the average was taken.
    found = np.stack([measure(draw_person(number), SPREAD) for number in range(1000, 1400)])
    assert np.abs(found.mean(0)).max() < 0.25
    assert np.abs(found.std(0) - 1).max() < 0.2
    assert np.abs(np.corrcoef(found.T) - np.eye(len(TRAITS))).max() < 0.25


def test_wide_set_eyes_are_farther_apart_for_the_width_of_the_face() -> None:
    head, place, apart, value = head_model(), words_of("wide-set eyes"), [], []
    for number in range(80):
        person = draw_person(number)
        positions = shaped(head, person)
        left, right = (head.eye(positions, material) for material in (EYE_LEFT, EYE_RIGHT))
        face = positions[head.is_skin & (head.base[:, 2] > 0.55)]
        apart.append(abs(left[0] - right[0]) / np.ptp(face[:, 0]))
        value.append(measure(person, SPREAD)[place])
    assert np.corrcoef(apart, value)[0, 1] > 0.4


def test_both_ends_of_a_trait_are_never_said_of_one_person() -> None:
    for number in range(60):
        details = {words.replace("very ", "") for words in describe(number, SPREAD).details}
        for trait in TRAITS:
            assert not {trait.low.format(""), trait.high.format("")} <= details
        assert 5 < len(details) < 30


def test_hair_beards_and_age_are_said_as_they_are() -> None:
    for number in range(60):
        person, said = draw_person(number), describe(number, SPREAD)
        assert said.who.endswith("woman") != person.male
        assert ("a bald head" in said.details) == (person.hair.style == "bald")
        assert any("beard" in words for words in said.details) == (person.beard.kind in ("short", "full"))
        if "old" in said.who.split():
            assert person.age > 0.6


def test_colors_of_hair_have_their_names() -> None:
    hair = draw_person(0).hair
    for name, color in [*HAIR_COLORS.items(), ("grey", GREY), ("grey", 0.4 * GREY)]:
        assert hair_color(replace(hair, color=color)) == name


def test_all_words_are_known() -> None:
    known = set(" ".join(all_words()).replace(",", " ").split()) | {"a", "an", "and", "with"}
    for number in range(200):
        said = describe(number, SPREAD)
        assert set(phrase(said, said.details).replace(",", " ").split()) <= known
    assert all("{}" in words or words == "a bald head" for words in STYLE_WORDS.values())


def test_a_phrase_reads_as_one() -> None:
    said = Description("old man", ("a long nose", "freckles", "full lips"))
    assert phrase(said, said.details) == "an old man with a long nose, freckles and full lips"
    assert phrase(said, said.details[:1]) == "an old man with a long nose"
    assert phrase(said, ()) == "an old man"
