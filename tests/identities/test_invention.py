"""Inventing people: from the celebrities' space alone, the same for a seed, and nobody of the list."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from support.toys import ToyModel, ToyTextEncoder

from celeb_basis.basis import BasisOptions, build_basis
from celeb_basis.diffusion_model import TextEncoder
from celeb_basis.errors import BasisError, NamesError, SettingsError, WrongModelError
from celeb_basis.identities.blending import blend
from celeb_basis.identities.expand import expand_identity
from celeb_basis.identities.identity import Identity, identity_from_bytes, identity_to_bytes
from celeb_basis.identities.invention import CONSENT, InventionSettings, Inventor, Way, invented_recipe
from celeb_basis.method import Basis
from celeb_basis.names.lists import NameList, name_list

WAYS: tuple[Way, ...] = ("mixed", "gaussian")
COUNT = 80


def names(count: int = COUNT) -> NameList:
    """Every second name is a woman's, every fourth European."""
    columns = [("women" if i % 2 else "men", "Europe" if i % 4 < 2 else "Asia", f"born {i}") for i in range(count)]
    return name_list([f"first{i} last{i}" for i in range(count)], "a test's list", columns)


def bases(model: ToyModel, count: int = COUNT, components: int = 12) -> tuple[Basis, ...]:
    encoders: Sequence[TextEncoder] = model.text_encoders
    return tuple(build_basis(encoder, names(count), BasisOptions(components)).basis for encoder in encoders)


def inventor(model: ToyModel | None = None, **settings: Any) -> Inventor:
    model = model or ToyModel()
    return Inventor(bases(model), model.info, names(), InventionSettings(**settings))


def row(identity: Identity) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in identity.coefficients]).astype(float)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("way", WAYS)
def test_a_seed_gives_the_same_person_whoever_else_is_invented(way: Way) -> None:
    first, again = inventor(way=way), inventor(way=way)
    again.invent(3)
    assert first.invent(7).content_hash == again.invent(7).content_hash
    assert first.invent(7).name == again.invent(7).name
    people = [first.invent(seed).content_hash for seed in range(30)]
    assert len(set(people)) == 30


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("widths", [(32,), (24, 40)])
def test_every_text_encoder_has_its_part(way: Way, widths: tuple[int, ...]) -> None:
    model = ToyModel(widths)
    made = Inventor(bases(model), model.info, names(), InventionSettings(way)).invent(1)
    assert made.encoders == tuple(encoder.name for encoder in model.text_encoders)
    assert [array.shape[1] for array in made.vectors] == list(widths)
    for basis, coefficients, vectors in zip(bases(model), made.coefficients, made.vectors, strict=True):
        np.testing.assert_array_equal(basis.expand(torch.tensor(coefficients)).numpy(), vectors)


def test_mixed_takes_the_first_vector_of_one_and_the_second_of_another_in_both_text_encoders() -> None:
    model = ToyModel((24, 40))
    parts = bases(model)
    for seed in range(20):
        made = Inventor(parts, model.info, names()).invent(seed)
        first, second = made.metadata.settings["vectors_of"]
        assert first != second
        for basis, coefficients in zip(parts, made.coefficients, strict=True):
            known = basis.name_coefficients.numpy()
            np.testing.assert_allclose(coefficients[0], known[basis.names.index(first), 0], atol=1e-6)
            np.testing.assert_allclose(coefficients[1], known[basis.names.index(second), 1], atol=1e-6)


def test_nobody_of_the_list_is_invented_though_their_tokens_are_those_of_others() -> None:
    """Of ``a b``, ``a d`` and ``c b``, the halves of the last two make the first one."""
    grid = name_list([f"first{i % 5} last{i // 5}" for i in range(25) if i], "a grid")  # all but one are taken
    model = ToyModel()
    basis = build_basis(model.text_encoders[0], grid, BasisOptions(4)).basis
    made = [Inventor([basis], model.info, grid).invent(seed) for seed in range(10)]
    known = basis.name_coefficients.reshape(len(basis.names), -1).numpy()
    for one in made:
        nearest = np.abs(known - row(one)).max(1).min()
        assert nearest > 1e-3


def test_gaussian_has_the_celebrities_mean_and_spread() -> None:
    model = ToyModel((24, 40))
    parts = bases(model)
    made = [Inventor(parts, model.info, names(), InventionSettings("gaussian")).invent(seed) for seed in range(300)]
    for place, basis in enumerate(parts):
        drawn = np.stack([one.coefficients[place] for one in made])
        spread = basis.deviations.numpy()
        assert np.abs(drawn.mean(0) / spread).max() < 0.3
        np.testing.assert_allclose(drawn.std(0) / spread, 1, atol=0.25)


def test_gaussian_keeps_what_text_encoders_have_in_common() -> None:
    """Two equal text encoders get equal coefficients, as they have for every celebrity."""
    model = ToyModel((24, 24))
    twin = ToyTextEncoder("clip_g", 24, 0)
    twin.table = model.text_encoders[0].table
    model.text_encoders[1] = twin
    made = Inventor(bases(model), model.info, names(), InventionSettings("gaussian")).invent(5)
    np.testing.assert_allclose(made.coefficients[0], made.coefficients[1], atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_distance_scales_the_distance_to_the_mean(way: Way) -> None:
    near, usual = inventor(way=way, distance=0.5).invent(4), inventor(way=way).invent(4)
    np.testing.assert_allclose(row(near), row(usual) / 2, atol=1e-6)


# Groups


@pytest.mark.parametrize("way", WAYS)
def test_groups_lean_the_people_toward_their_celebrities(way: Way) -> None:
    basis = bases(ToyModel())[0]
    women = [name for name, columns in zip(names().names, names().columns, strict=True) if columns[0] == "women"]
    center = basis.name_coefficients[[basis.names.index(name) for name in women]].mean(0).numpy().reshape(-1)

    def pulled(**settings: Any) -> float:
        made = inventor(way=way, **settings)
        return float(np.mean([row(made.invent(seed)) @ center for seed in range(60)]))

    assert pulled(groups=("women",)) > pulled() + 0.25 * float(center @ center)
    assert pulled(groups=("women",)) > pulled(groups=("women",), leaning=0.3)


def test_groups_of_one_column_add_up_and_those_of_two_narrow_down() -> None:
    both = inventor(groups=("women", "Europe"))
    chosen = {name for seed in range(60) for name in both.invent(seed).metadata.settings["vectors_of"]}
    assert chosen == {f"first{i} last{i}" for i in range(COUNT) if i % 2 and i % 4 < 2}
    either = inventor(groups=("Europe", "Asia"))
    chosen = {name for seed in range(200) for name in either.invent(seed).metadata.settings["vectors_of"]}
    assert len(chosen) > COUNT * 0.8


def test_groups_are_found_in_any_case() -> None:
    assert inventor(groups=(" WOMEN",)).invent(1).content_hash == inventor(groups=("women",)).invent(1).content_hash


@pytest.mark.parametrize(
    ("group", "said"), [("martians", "choose from men, women"), ("born 3", "choose from men, women")]
)
def test_an_unknown_group_is_refused_with_those_that_there_are(group: str, said: str) -> None:
    with pytest.raises(NamesError, match=said):
        inventor(groups=(group,))


def test_a_list_without_groups_says_how_to_write_them() -> None:
    model = ToyModel()
    plain = name_list(names().names, "my list")
    with pytest.raises(NamesError, match="Ada Lovelace, women"):
        Inventor(bases(model), model.info, plain, InventionSettings(groups=("women",)))


def test_groups_that_share_too_few_celebrities_are_refused() -> None:
    model = ToyModel()
    columns = [("women" if i < 40 else "men", "Europe" if 37 <= i < 60 else "Asia") for i in range(COUNT)]
    given = name_list(names().names, "my list", columns)
    with pytest.raises(NamesError, match="only 3 celebrities are"):
        Inventor(bases(model), model.info, given, InventionSettings(groups=("women", "Europe")))


# More like this, less like that


@pytest.mark.parametrize("way", WAYS)
def test_more_and_less_are_cosines(way: Way) -> None:
    made = inventor(way=way, alike=0.6, unlike=0.4)
    liked, disliked = made.invent(100), made.invent(101)
    drawn = [made.invent(seed, more=[liked], less=[disliked]) for seed in range(40)]
    assert np.mean([cosine(row(one), row(liked)) for one in drawn]) == pytest.approx(0.6, abs=0.12)
    assert np.mean([cosine(row(one), row(disliked)) for one in drawn]) == pytest.approx(-0.4, abs=0.12)
    apart = [cosine(row(a), row(b)) for a, b in combinations(drawn[:10], 2)]
    assert max(apart) < 0.98  # they still differ


@pytest.mark.parametrize("way", WAYS)
def test_more_keeps_the_distance_to_the_mean(way: Way) -> None:
    made = inventor(way=way)
    plain, pulled = made.invent(3), made.invent(3, more=[made.invent(9)])
    lengths = [[np.linalg.norm(array, axis=1) for array in one.coefficients] for one in (plain, pulled)]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-4)


def test_more_like_several_is_between_them() -> None:
    made = inventor(alike=0.9)
    liked = [made.invent(50), made.invent(51)]
    drawn = [made.invent(seed, more=liked) for seed in range(20)]
    for one in liked:
        assert np.mean([cosine(row(other), row(one)) for other in drawn]) > 0.45


def test_the_same_person_in_more_and_less_is_refused() -> None:
    made = inventor()
    with pytest.raises(SettingsError, match="both more and less"):
        made.invent(1, more=[made.invent(9)], less=[made.invent(9)])


def test_people_of_another_model_cannot_be_liked() -> None:
    other = inventor(ToyModel((24, 40))).invent(1)
    with pytest.raises(WrongModelError):
        inventor().invent(1, more=[other])


# What is saved


@pytest.mark.parametrize("way", WAYS)
def test_an_invented_person_says_so_in_its_file(way: Way) -> None:
    made = inventor(way=way, groups=("women",), leaning=0.8).invent(11, name="mira")
    read = identity_from_bytes(identity_to_bytes(made))
    assert read.metadata.source == "invented"
    assert read.metadata.consent == CONSENT
    assert read.metadata.face_model == ""
    assert {**read.metadata.settings, "vectors_of": 0} == {
        "operation": "invent",
        "way": way,
        "seed": 11,
        "distance": 1.0,
        "groups": ["women"],
        "leaning": 0.8,
        "vectors_of": 0,
    }


def test_an_invented_person_can_be_blended_and_used_on_another_checkpoint() -> None:
    model, other = ToyModel(), ToyModel(seed=3)
    people = [inventor(model).invent(seed, name=f"person{seed}") for seed in range(2)]
    mixed = blend([(one, 0.5) for one in people], bases(model), model.info, name="both")
    assert CONSENT in mixed.metadata.consent
    moved = expand_identity(people[0], bases(other), other.info)
    assert moved.metadata.source == "invented"
    assert moved.metadata.consent == CONSENT


def test_the_nearest_celebrity_has_the_highest_cosine() -> None:
    model = ToyModel((24, 40))
    parts = bases(model)
    made = Inventor(parts, model.info, names())
    one = made.invent(3)
    name, alike = made.nearest(one)
    cosines = {
        known: np.mean(
            [
                cosine(b.name_coefficients[i].reshape(-1).numpy(), c.reshape(-1))
                for b, c in zip(parts, one.coefficients, strict=True)
            ]
        )
        for i, known in enumerate(parts[0].names)
    }
    assert name == max(cosines, key=lambda known: cosines[known])
    assert alike == pytest.approx(cosines[name], abs=1e-5)


@pytest.mark.parametrize("groups", [None, 3, "women", {"a": 1}, [1, "Africa"]])
def test_how_a_person_was_made_is_said_whatever_a_file_holds(groups: object) -> None:
    said = invented_recipe({"groups": groups, "seed": 7})
    assert said.startswith("invented from the celebrities")
    assert ("Africa" in said) == isinstance(groups, list)


# Bad input


@pytest.mark.parametrize(
    "settings",
    [{"way": "magic"}, {"leaning": 1.1}, {"distance": 0}, {"alike": 1}, {"unlike": -0.1}, {"distance": float("nan")}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="choose"):
        inventor(**settings)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(SettingsError, match="seed"):
        inventor().invent(seed)


def test_too_few_names_are_refused() -> None:
    model = ToyModel()
    few = name_list([f"first{i} last{i}" for i in range(7)], "a short list")
    basis = build_basis(model.text_encoders[0], few, BasisOptions(3)).basis
    with pytest.raises(BasisError, match="at least 8"):
        Inventor([basis], model.info, few)
