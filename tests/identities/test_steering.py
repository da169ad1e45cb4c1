"""Steering people in the celebrities' space: more like someone or away from them, at the same distance to the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from support.people import person
from support.toys import ToyModel

from celeb_basis.basis import BasisOptions, build_basis
from celeb_basis.errors import BasisError, IdentityError, NamesError, SettingsError, WrongModelError
from celeb_basis.identities.blending import blend, people_in, toward_celebrity
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Identity, identity_from_bytes, identity_to_bytes
from celeb_basis.identities.invention import InventionSettings, Inventor
from celeb_basis.identities.steering import Steering, group_direction, steer, steered_words
from celeb_basis.method import Basis
from celeb_basis.names.lists import NameList, name_list

MODEL = ToyModel((24, 40))


def names(count: int = 80) -> NameList:
    """Every second name is a woman's; the last ten are in no group."""
    columns = [("women" if i % 2 else "men", f"born {i}") if i < 70 else () for i in range(count)]
    return name_list([f"first{i} last{i}" for i in range(count)], "a test's list", columns)


NAMES = names()
BASES = tuple(build_basis(encoder, NAMES, BasisOptions(12)).basis for encoder in MODEL.text_encoders)
INFO = MODEL.info
MIRA = Inventor(BASES, INFO, NAMES, InventionSettings("gaussian")).invent(3, name="mira")


def steered(one: Identity = MIRA, /, **where: dict[str, float]) -> Identity:
    steering = Steering(tuple(where.get("celebrities", {}).items()), tuple(where.get("groups", {}).items()))
    return steer(one, steering, BASES, INFO, NAMES)


def cosines(one: Identity, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Cosine of each row of coefficients to the one of ``rows`` in its place."""
    found = []
    for own, other in zip(one.coefficients, rows, strict=True):
        length = np.linalg.norm(own, axis=-1) * np.linalg.norm(other, axis=-1)
        found.append((own * other).sum(-1) / length)
    return np.concatenate(found)


def rows_of(celebrity: str) -> list[np.ndarray]:
    return [basis.name_coefficients[basis.names.index(celebrity)].numpy() for basis in BASES]


def radius(one: Identity) -> np.ndarray:
    return np.concatenate([np.linalg.norm(rows, axis=-1) for rows in one.coefficients])


def test_a_strength_is_in_spreads_and_the_distance_to_the_mean_stays() -> None:
    own = [rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in MIRA.coefficients]
    theirs = [rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in rows_of("first5 last5")]
    for strength in (-0.7, 0.3, 1.0):
        one = steered(celebrities={"first5 last5": strength})
        np.testing.assert_allclose(radius(one), radius(MIRA), rtol=1e-5)
        wanted = [a + strength * b for a, b in zip(own, theirs, strict=True)]
        np.testing.assert_allclose(cosines(one, wanted), 1, atol=1e-5)


def test_more_strength_is_more_alike_and_less_oneself() -> None:
    people = [steered(celebrities={"first5 last5": strength}) for strength in (-1, -0.3, 0, 0.3, 0.6, 1)]
    alike = np.array([cosines(one, rows_of("first5 last5")) for one in people])
    assert (np.diff(alike, axis=0) > 0).all()
    own = np.array([cosines(one, MIRA.coefficients) for one in people])
    assert (np.diff(own[2:], axis=0) < 0).all()
    assert (np.diff(own[:3], axis=0) > 0).all()
    halves = steered(celebrities={"first5 last5": 1.0})
    np.testing.assert_allclose(cosines(halves, MIRA.coefficients), cosines(halves, rows_of("first5 last5")), atol=1e-5)


def test_a_person_far_from_the_mean_is_turned_as_much() -> None:
    """People who were learned lie several times as far out as celebrities."""
    far = new_identity("far", [torch.tensor(4 * rows) for rows in MIRA.coefficients], BASES, INFO)
    near, outside = (steered(one, celebrities={"first5 last5": 0.5}) for one in (MIRA, far))
    np.testing.assert_allclose(cosines(near, outside.coefficients), 1, atol=1e-5)
    np.testing.assert_allclose(radius(outside), 4 * radius(MIRA), rtol=1e-5)


def test_nothing_to_steer_leaves_the_person_bit_for_bit() -> None:
    assert steered().content_hash == MIRA.content_hash
    assert steered(celebrities={"first5 last5": 0}, groups={"women": 0}).content_hash == MIRA.content_hash
    assert not Steering((("x", 0.0),))
    assert Steering((), (("women", -0.1),))


def test_a_group_is_the_difference_of_the_means() -> None:
    for basis in BASES:
        rows = basis.name_coefficients.numpy().astype(float)
        place = {name: row for row, name in enumerate(basis.names)}
        women = np.mean([rows[place[f"first{i} last{i}"]] for i in range(1, 70, 2)], axis=0)
        men = np.mean([rows[place[f"first{i} last{i}"]] for i in range(0, 70, 2)], axis=0)
        found = group_direction(" Women ", NAMES, basis).numpy()
        np.testing.assert_allclose(
            found / np.linalg.norm(found), (women - men) / np.linalg.norm(women - men), atol=1e-5
        )
        assert np.linalg.norm(found) == pytest.approx(math.sqrt(2), rel=1e-5)
    one, other = steered(groups={"women": 0.4}), steered(groups={"men": -0.4})
    np.testing.assert_allclose(cosines(one, other.coefficients), 1, atol=1e-5)


def test_several_directions_add_up() -> None:
    both = steered(celebrities={"first5 last5": 0.4, "first8 last8": -0.3}, groups={"women": 0.2})
    alone = steered(celebrities={"first5 last5": 0.4})
    assert (cosines(both, rows_of("first8 last8")) < cosines(alone, rows_of("first8 last8"))).all()
    assert cosines(both, rows_of("first5 last5")).mean() > cosines(MIRA, rows_of("first5 last5")).mean()
    np.testing.assert_allclose(radius(both), radius(MIRA), rtol=1e-5)


def test_the_metadata_say_what_was_done_and_to_whom() -> None:
    one = steered(celebrities={"FIRST5  last5": 0.4, "first8 last8": -0.3}, groups={"women": 0.2})
    settings = one.metadata.settings
    assert one.metadata.source == "blended"
    assert one.name == "mira"
    assert settings["operation"] == "steer"
    assert settings["celebrities"] == [["first5 last5", 0.4], ["first8 last8", -0.3]]
    assert settings["groups"] == [["women", 0.2]]
    assert people_in(settings) == ("mira",), "deleting the person finds it"
    assert "does not exist" in one.metadata.consent
    assert identity_from_bytes(identity_to_bytes(one)).content_hash == one.content_hash
    assert steered_words(settings) == "more like first5 last5 (0.4), away from first8 last8 (0.3), toward women (0.2)"


def test_a_steered_blend_keeps_its_recipe() -> None:
    ben = Inventor(BASES, INFO, NAMES).invent(4, name="ben")
    mixed = blend([(MIRA, 1), (ben, 1)], BASES, INFO, name="both")
    one = toward_celebrity(steered(mixed, groups={"women": 0.2}), "first5 last5", 0.1, BASES, INFO)
    assert set(people_in(one.metadata.settings)) == {"both", "mira", "ben"}
    assert steered_words(one.metadata.settings) == "toward women (0.2)"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"operation": "steer"},
        {"operation": "steer", "celebrities": 3, "groups": [["a"], 5, ["b", "c"]]},
        {"of": []},
    ],
)
def test_words_of_a_file_that_holds_anything(settings: dict[str, object]) -> None:
    assert steered_words(settings) == ""


@pytest.mark.parametrize("strength", [1.01, -2, math.nan, math.inf])
def test_strengths_out_of_their_range(strength: float) -> None:
    for where in ({"celebrities": {"first5 last5": strength}}, {"groups": {"women": strength}}):
        with pytest.raises(SettingsError, match="from -1 to 1"):
            steered(**where)


def test_unknown_names_and_groups_get_a_hint() -> None:
    with pytest.raises(BasisError, match="did you mean first5 last5"):
        steered(celebrities={"first5 lasst5": 0.3})
    with pytest.raises(NamesError, match=r"choose from (women, men|men, women)"):
        steered(groups={"woman": 0.3})
    with pytest.raises(NamesError, match="has no groups"):
        steer(MIRA, Steering((), (("women", 0.3),)), BASES, INFO, name_list(NAMES.names, "a plain list"))
    with pytest.raises(SettingsError, match="no name to steer to"):
        steered(celebrities={" ": 0.3})


def test_a_group_of_everybody_has_no_direction() -> None:
    everyone = name_list(NAMES.names, "a list", [("people",)] * 80)
    with pytest.raises(NamesError, match="0 are in other groups than people"):
        steer(MIRA, Steering((), (("people", 0.3),)), BASES, INFO, everyone)


def test_a_celebrity_away_from_themselves_leaves_nothing() -> None:
    star = new_identity("star", [torch.tensor(rows) for rows in rows_of("first5 last5")], BASES, INFO)
    with pytest.raises(IdentityError, match="nothing is left of 'star'"):
        steered(star, celebrities={"first5 last5": -1.0})


def test_a_person_of_another_checkpoint() -> None:
    with pytest.raises(WrongModelError, match="'ada'"):
        steered(person("ada", "sd1"))
    other: tuple[Basis, ...] = tuple(
        build_basis(encoder, names(60), BasisOptions(12)).basis for encoder in MODEL.text_encoders
    )
    stranger = new_identity("far", [torch.tensor(rows) for rows in MIRA.coefficients], other, INFO)
    with pytest.raises(WrongModelError, match="another names list"):
        steered(stranger, celebrities={"first5 last5": 0.3})
