"""An identity: what it accepts, what it refuses, and its hash."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.people import PNG, person

from celeb_basis.errors import IdentityError
from celeb_basis.identities.identity import Identity, IdentityMetadata


def test_arrays_are_read_only_copies() -> None:
    given = np.ones((2, 4), dtype=np.float32)
    identity = Identity("ada", ("clip_l",), (given,), (given,))
    given[:] = 7
    assert identity.vectors[0].max() == 1
    with pytest.raises(ValueError, match="read-only"):
        identity.vectors[0][0, 0] = 3


def test_token_vectors_are_the_vectors_and_fresh() -> None:
    identity = person()
    tensors = identity.token_vectors()
    assert torch.equal(tensors[0], torch.from_numpy(identity.vectors[0].copy()))
    tensors[0].zero_()
    assert identity.vectors[0].any()


def test_the_hash_follows_the_vectors_alone() -> None:
    identity = person()
    assert replace(identity, name="bob").content_hash == identity.content_hash
    changed = identity.vectors[0].copy()
    changed[1, 5] = np.nextafter(changed[1, 5], np.float32(9))
    assert replace(identity, vectors=(changed,)).content_hash != identity.content_hash
    renamed = replace(identity, encoders=("clip_h",))
    assert renamed.content_hash != identity.content_hash
    assert len(identity.content_hash) == 12


@pytest.mark.parametrize("name", ["", "  ", "a/b", "..", "a\\b", "a\nb", "x" * 65, "con", "a\u202eb", "<ada>"])
def test_names_of_no_use(name: str) -> None:
    with pytest.raises(IdentityError, match="name"):
        replace(person(), name=name)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["coefficients", "vectors"])
def test_what_is_not_finite(bad: float, which: str) -> None:
    identity = person()
    broken = getattr(identity, which)[0].copy()
    broken[1, 2] = bad
    changes: dict[str, Any] = {which: (broken,)}
    with pytest.raises(IdentityError, match="NaN or infinity"):
        replace(identity, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"coefficients": (np.zeros((3, 4), np.float32),)},
        {"coefficients": (np.zeros(4, np.float32),)},
        {"coefficients": (np.zeros((0, 4), np.float32),)},
        {"vectors": (np.zeros((2, 0), np.float32),)},
        {"vectors": ()},
        {"vectors": (np.zeros((2, 4)), np.zeros((2, 4)))},
        {"encoders": ()},
        {"encoders": ("clip_l", "clip_l")},
        {"encoders": ("../clip",)},
        {"encoders": ("clip_l", "clip_g")},
        {"vectors": ("text",)},
        {"vectors": ([[1, 2], [3]],)},
    ],
)
def test_shapes_that_do_not_fit(changes: dict[str, Any]) -> None:
    with pytest.raises(IdentityError):
        replace(person(), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": -1},
        {"steps": True},
        {"steps": 1.5},
        {"notes": 3},
        {"notes": "x" * 20_001},
        {"notes": "\ud800"},
        {"source": "stolen"},
        {"created": "yesterday"},
        {"created": "2026-01-02T03:04:05"},
        {"base_sha256": "not hex"},
        {"basis_sha256": "aa"},
        {"basis_sha256": (3,)},
        {"settings": {"a": float("nan")}},
        {"settings": {"a": object()}},
        {"settings": [1, 2]},
        {"settings": 5},
        {"thumbnail": b"GIF89a"},
        {"thumbnail": "text"},
        {"thumbnail": PNG + bytes(5 << 20)},
    ],
)
def test_metadata_of_a_wrong_kind(changes: dict[str, Any]) -> None:
    with pytest.raises(IdentityError):
        IdentityMetadata(**changes)


def test_metadata_says_when_and_by_what_it_was_made() -> None:
    metadata = IdentityMetadata()
    assert metadata.created.endswith("+00:00")
    assert metadata.generator.startswith("celeb-basis ")


def test_settings_are_a_copy() -> None:
    settings = {"steps": 3, "nested": {"a": [1]}}
    metadata = IdentityMetadata(settings=settings)
    settings["nested"]["a"].append(2)  # type: ignore[index]
    assert metadata.settings["nested"] == {"a": [1]}
