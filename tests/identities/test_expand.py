"""Expanding an identity for another checkpoint of the family, and every identity that does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.people import CELEBRITIES, family_bases, model_info, person, random_basis, unit_coefficients
from support.toys import ToyModel

from celeb_basis.errors import BasisError, WrongModelError
from celeb_basis.identities.expand import check_model, expand_identity, new_identity
from celeb_basis.identities.identity import identity_from_bytes, identity_to_bytes


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_vectors_follow_the_paper(family: str) -> None:
    bases = family_bases(family)
    identity = person(family=family, bases=bases)
    for basis, coefficients, vectors in zip(bases, identity.coefficients, identity.vectors, strict=True):
        for e in range(2):
            expected = basis.mean[e].double().numpy()
            for k in range(basis.size):
                expected = expected + float(coefficients[e, k]) * basis.components[e, k].double().numpy()
            np.testing.assert_allclose(vectors[e], expected, atol=1e-6)
            assert np.linalg.norm(vectors[e] - basis.mean[e].numpy()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_same_basis_gives_the_same_bits(family: str) -> None:
    bases = family_bases(family)
    identity = identity_from_bytes(identity_to_bytes(person(family=family, bases=bases)))
    again = expand_identity(identity, bases, model_info(family))
    assert [v.tobytes() for v in again.vectors] == [v.tobytes() for v in identity.vectors]
    assert again.metadata.learned_on == ""
    assert again.metadata.basis_sha256 == identity.metadata.basis_sha256


def test_another_checkpoint_of_the_family() -> None:
    identity = person(steps=400, consent="yes", settings={"mode": "head"}, thumbnail=None)
    bases = family_bases(seed=9)
    other = model_info(name="another-model")
    moved = expand_identity(identity, bases, other)
    assert moved.coefficients[0].tobytes() == identity.coefficients[0].tobytes()
    expected = bases[0].mean.double() + torch.einsum(
        "ek,ekd->ed", torch.from_numpy(identity.coefficients[0].copy()).double(), bases[0].components.double()
    )
    np.testing.assert_allclose(moved.vectors[0], expected.numpy(), atol=1e-6)
    assert moved.metadata.base_sha256 == other.sha256
    assert moved.metadata.learned_on == "a-model"
    assert (moved.metadata.steps, moved.metadata.consent) == (400, "yes")
    assert moved.metadata.created == identity.metadata.created
    back = expand_identity(moved, family_bases(), model_info())
    assert back.vectors[0].tobytes() == identity.vectors[0].tobytes()
    assert back.metadata.learned_on == "a-model"


def test_real_bases_of_two_checkpoints() -> None:
    from support.bases import toy_bases

    first, second = ToyModel((32, 48), seed=0), ToyModel((32, 48), seed=7)
    identity = person("ada", "sdxl", bases=toy_bases(first))
    moved = expand_identity(identity, toy_bases(second), second.info)
    assert moved.metadata.basis_sha256 != identity.metadata.basis_sha256
    assert not np.allclose(moved.vectors[0], identity.vectors[0])


def test_another_family() -> None:
    identity = person("ada", "sd1")
    for act in (
        lambda: check_model(identity, model_info("sdxl", "xl-model")),
        lambda: expand_identity(identity, family_bases("sdxl"), model_info("sdxl", "xl-model")),
    ):
        with pytest.raises(WrongModelError, match=r"a-model \(sd1\), but xl-model is sdxl.*learn the person again"):
            act()
    check_model(identity, model_info("sd1", "any"))
    check_model(replace(identity, metadata=replace(identity.metadata, family="")), model_info("sdxl"))


def test_other_encoders() -> None:
    with pytest.raises(WrongModelError, match=r"a-model.*clip_l.*b-model.*clip_h"):
        expand_identity(person(), [random_basis("clip_h")], model_info(name="b-model"))
    with pytest.raises(WrongModelError, match="none"):
        expand_identity(person(), [], model_info())


def test_another_number_of_components() -> None:
    with pytest.raises(
        WrongModelError, match=r"a-model has 2 x 6.*b-model has 2 x 5: make the basis with 6 components"
    ):
        expand_identity(person(), family_bases(components=5), model_info(name="b-model"))


@pytest.mark.parametrize("options", [{"listed": "another list"}, {"names": CELEBRITIES[:4]}])
def test_other_names(options: dict[str, object]) -> None:
    with pytest.raises(WrongModelError, match=r"another names list.*give the same list"):
        expand_identity(person(), family_bases(**options), model_info())  # type: ignore[arg-type]


def test_coefficients_and_bases_that_do_not_fit() -> None:
    bases = family_bases("sdxl")
    with pytest.raises(BasisError):
        new_identity("ada", unit_coefficients(bases)[:1], bases, model_info("sdxl"))
    with pytest.raises(BasisError):
        new_identity("ada", [torch.zeros(2, 5)], family_bases(), model_info())


def test_coefficients_with_gradients_in_half_precision() -> None:
    bases = family_bases()
    given = unit_coefficients(bases)[0].bfloat16().requires_grad_()
    identity = new_identity("ada", [given], bases, model_info())
    assert identity.coefficients[0].tobytes() == given.detach().float().numpy().tobytes()
