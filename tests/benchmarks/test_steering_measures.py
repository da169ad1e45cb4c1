"""The figures of the benchmark of steering, on names and faces whose differences are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.judges import Cosine
from support.people import random_basis

from benchmarks.steering import UNSTEERED, alike, discriminant, held_out
from celeb_basis.identities.steering import group_direction
from celeb_basis.method import Basis
from celeb_basis.names.lists import NameList, name_list

COUNT = 200
NAMES = name_list([f"a{i} b{i}" for i in range(COUNT)], "a list", [("one" if i % 2 else "two",) for i in range(COUNT)])


def basis(apart: float, *, correlated: float = 0.0) -> Basis:
    """Coefficients of two groups that differ along the first component of the first position by ``apart`` deviations."""
    made = random_basis(names=NAMES.names, components=6)
    noise = torch.randn(COUNT, 2, 6, generator=torch.Generator().manual_seed(5))
    noise[:, 0, 1] = correlated * noise[:, 0, 0] + (1 - correlated**2) ** 0.5 * noise[:, 0, 1]
    noise[1::2, 0, 0] += apart
    return replace(made, name_coefficients=0.3 * noise)


def means(names: NameList, known: Basis) -> torch.Tensor:
    return group_direction("one", names, known)


def test_groups_are_told_apart_as_far_as_they_differ() -> None:
    same, apart = (held_out(NAMES, "one", basis(amount), means) for amount in (0.0, 3.0))
    assert same == pytest.approx(0.5, abs=0.12)
    assert apart > 0.95


def test_the_discriminant_sees_through_what_varies_together() -> None:
    """A second component that varies with the first says how far out a name is for other reasons than its group."""
    known = basis(1.0, correlated=0.9)
    found = held_out(NAMES, "one", known, lambda names, part: discriminant("one", names, part))
    assert found > held_out(NAMES, "one", known, means)
    direction = discriminant("one", NAMES, known)
    assert direction.shape == (2, 6)
    assert float(direction.norm()) == pytest.approx(2**0.5, rel=1e-5)


def test_a_person_is_compared_with_their_images_of_other_seeds() -> None:
    rows = np.eye(4, dtype=np.float32)
    one = {"cosine: toward 0": rows[:2], "cosine: toward 1": rows[1:3], "cosine: celebrity": rows[2:]}
    own = {kind: alike([one], Cosine(), kind, UNSTEERED)[0] for kind in ("toward 0", "toward 1")}
    assert own["toward 0"] == 0, "the same seeds would be the same images"
    assert own["toward 1"] == 0.5, "the second direction is in both, with different seeds"
    assert alike([one], Cosine(), "toward 1", "celebrity")[0] == 0.25


def test_images_without_a_face_are_left_out() -> None:
    rows = np.eye(4, dtype=np.float32)[:2]
    lost = {"cosine: toward 1": np.stack([rows[0], np.full(4, np.nan, np.float32)]), "cosine: celebrity": rows}
    assert alike([lost], Cosine(), "toward 1", "celebrity")[0] == 0.5
