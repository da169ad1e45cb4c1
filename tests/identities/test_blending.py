"""Blending identities, against the same arithmetic on token vectors in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.people import CELEBRITIES, family_bases, model_info, person

from celeb_basis.errors import BasisError, CelebBasisError, IdentityError, WrongModelError
from celeb_basis.identities.blending import blend, toward_celebrity, toward_mean

BASES = family_bases("sdxl")
INFO = model_info("sdxl")
ADA, BOB, EVE = (person(name, "sdxl", seed, BASES) for seed, name in enumerate(["ada", "bob", "eve"]))


def test_a_blend_is_the_weighted_mean_of_vectors() -> None:
    """The basis is affine, so mixing coefficients is mixing vectors."""
    mixed = blend([(ADA, 1), (BOB, 2), (EVE, 5)], BASES, INFO, name="mix", keep_radius=False)
    for i in range(2):
        expected = (ADA.vectors[i].astype(float) + 2 * BOB.vectors[i] + 5 * EVE.vectors[i]) / 8
        np.testing.assert_allclose(mixed.vectors[i], expected, atol=1e-6)
    assert mixed.metadata.source == "blended"
    assert mixed.metadata.settings["parts"] == [["ada", 0.125], ["bob", 0.25], ["eve", 0.625]]


def test_weights_count_by_their_ratio() -> None:
    one = blend([(ADA, 1), (BOB, 3)], BASES, INFO, name="x")
    two = blend([(ADA, 0.5), (BOB, 1.5)], BASES, INFO, name="x")
    assert one.content_hash == two.content_hash


@pytest.mark.parametrize("keep_radius", [False, True])
def test_a_blend_of_one_person_is_that_person(keep_radius: bool) -> None:
    mixed = blend([(ADA, 0.3), (BOB, 0)], BASES, INFO, name="x", keep_radius=keep_radius)
    np.testing.assert_allclose(mixed.coefficients[1], ADA.coefficients[1], atol=1e-6)
    if keep_radius:
        assert blend([(ADA, 0.3)], BASES, INFO, name="x").content_hash == ADA.content_hash
    else:
        assert mixed.content_hash == ADA.content_hash


def test_negative_weights_extrapolate() -> None:
    mixed = blend([(ADA, 2), (BOB, -1)], BASES, INFO, name="x", keep_radius=False)
    np.testing.assert_allclose(mixed.coefficients[0], 2 * ADA.coefficients[0] - BOB.coefficients[0], atol=1e-6)


def test_keep_radius_puts_every_row_back() -> None:
    plain = blend([(ADA, 1), (BOB, 1)], BASES, INFO, name="x", keep_radius=False)
    kept = blend([(ADA, 1), (BOB, 1)], BASES, INFO, name="x")  # as everywhere, unless told otherwise
    for i in range(2):
        assert (np.linalg.norm(plain.coefficients[i], axis=1) < 0.999).all()
        np.testing.assert_allclose(np.linalg.norm(kept.coefficients[i], axis=1), 1, atol=1e-5)
        cosine = (plain.coefficients[i] * kept.coefficients[i]).sum(axis=1) / np.linalg.norm(
            plain.coefficients[i], axis=1
        )
        np.testing.assert_allclose(cosine, 1, atol=1e-5)


def test_opposites_meet_at_the_mean_and_stay_finite() -> None:
    away = [-array for array in ADA.coefficients]
    opposite = person("anti", "sdxl", 0, BASES)
    object.__setattr__(opposite, "coefficients", tuple(away))
    mixed = blend([(ADA, 1), (opposite, 1)], BASES, INFO, name="x", keep_radius=True)
    np.testing.assert_allclose(mixed.vectors[0], BASES[0].mean.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "weights", [(0, 0), (1, -1), (-1, -2), (math.nan, 1), (math.inf, 1), (1e308, 1e308), (1e-9, -1e-9)]
)
def test_weights_of_no_use(weights: tuple[float, float]) -> None:
    with pytest.raises(IdentityError, match="weight"):
        blend(list(zip((ADA, BOB), weights, strict=True)), BASES, INFO, name="x")


def test_nobody_to_blend() -> None:
    with pytest.raises(IdentityError, match="nobody"):
        blend([], BASES, INFO, name="x")


def test_parts_of_another_model() -> None:
    stranger = person("old", "sd1")
    with pytest.raises(WrongModelError, match="'old'"):
        blend([(ADA, 1), (stranger, 1)], BASES, INFO, name="x")
    other_names = person("far", "sdxl", bases=family_bases("sdxl", listed="another"))
    for act in (
        lambda: blend([(ADA, 1), (other_names, 1)], BASES, INFO, name="x"),
        lambda: toward_mean(other_names, 0.5, BASES, INFO),
        lambda: toward_celebrity(other_names, "Tom Hanks", 0.5, BASES, INFO),
    ):
        with pytest.raises(WrongModelError, match="'far'"):
            act()


def test_toward_the_mean() -> None:
    assert toward_mean(ADA, 0, BASES, INFO).content_hash == ADA.content_hash
    half = toward_mean(ADA, 0.5, BASES, INFO, name="half")
    whole = toward_mean(ADA, 1, BASES, INFO)
    for i, basis in enumerate(BASES):
        assert np.array_equal(whole.vectors[i], basis.mean.numpy())
        np.testing.assert_allclose(half.vectors[i], (ADA.vectors[i] + basis.mean.numpy()) / 2, atol=1e-6)
    assert half.name == "half"


@pytest.mark.parametrize("name", ["Tom Hanks", "tom  hanks", " TOM HANKS "])
def test_toward_a_celebrity(name: str) -> None:
    assert toward_celebrity(ADA, name, 0, BASES, INFO).content_hash == ADA.content_hash
    third = toward_celebrity(ADA, name, 0.3, BASES, INFO, keep_radius=False)
    there = toward_celebrity(ADA, name, 1, BASES, INFO)
    place = CELEBRITIES.index("Tom Hanks")
    for i, basis in enumerate(BASES):
        theirs = basis.name_coefficients[place].numpy()
        np.testing.assert_array_equal(there.coefficients[i], theirs)
        np.testing.assert_allclose(third.coefficients[i], 0.7 * ADA.coefficients[i] + 0.3 * theirs, atol=1e-6)
    kept = toward_celebrity(ADA, name, 0.5, BASES, INFO)
    radius = (1 + np.linalg.norm(BASES[0].name_coefficients[place].numpy(), axis=1)) / 2
    np.testing.assert_allclose(np.linalg.norm(kept.coefficients[0], axis=1), radius, atol=1e-5)


def test_unknown_celebrities_get_a_hint() -> None:
    with pytest.raises(BasisError, match="did you mean Tom Hanks"):
        toward_celebrity(ADA, "Tom Hancks", 0.5, BASES, INFO)
    with pytest.raises(BasisError, match="Zoë Saldaña"):
        toward_celebrity(ADA, "zoe saldana", 0.5, BASES, INFO)
    with pytest.raises(BasisError, match="choose one of the names"):
        toward_celebrity(ADA, "qqqqqqqqqq", 0.5, BASES, INFO)


@pytest.mark.parametrize("amount", [-0.1, 1.1, math.nan, math.inf])
def test_amounts_of_no_use(amount: float) -> None:
    with pytest.raises(CelebBasisError, match="amount"):
        toward_mean(ADA, amount, BASES, INFO)
    with pytest.raises(CelebBasisError, match="amount"):
        toward_celebrity(ADA, "Tom Hanks", amount, BASES, INFO)


def test_a_blend_inherits_consent() -> None:
    ada = person("ada", "sdxl", 0, BASES, consent="in writing", face_model="buffalo_l")
    bob = person("bob", "sdxl", 1, BASES, consent="by mail", face_model="buffalo_l")
    mixed = blend([(ada, 1), (bob, 1)], BASES, INFO, name="x")
    assert mixed.metadata.consent == "ada: in writing\nbob: by mail"
    assert mixed.metadata.face_model == "buffalo_l"
