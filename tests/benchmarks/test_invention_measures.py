"""The figures of the benchmark of invented people, on faces whose likeness is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.judges import Cosine

from benchmarks.invention.measures import (
    Looks,
    different_people,
    interval,
    nearest_celebrity,
    same_person,
    share_of,
)


def looks(people: int, noise: float, seed: int = 0) -> Looks:
    """People at right angles, each seen with noise."""
    random = np.random.default_rng(seed)
    center = np.eye(people, 64, dtype=np.float32)[:, None]
    return Looks(*(center + noise * random.standard_normal((people, count, 64)).astype(np.float32) for count in (2, 4)))


def test_a_person_seen_without_noise_is_wholly_the_same() -> None:
    seen = looks(5, 0)
    for scenes in (False, True):
        np.testing.assert_allclose(same_person(seen, Cosine(), scenes=scenes), 1, atol=1e-6)
    np.testing.assert_allclose(different_people(seen, Cosine()), 0, atol=1e-6)


def test_the_share_is_one_of_the_same_and_zero_of_different_people() -> None:
    ones, zeros = np.ones(6), np.zeros(6)
    assert share_of(ones, zeros, ones, zeros) == (1, 1, 1)
    assert share_of(zeros, zeros, ones, zeros)[0] == 0
    value, low, high = share_of(
        np.array([0.7, 0.8, 0.9]), np.array([0.1, 0.2, 0.3]), np.array([0.9, 1.0, 0.8]), np.array([0.1, 0.1, 0.1])
    )
    assert value == pytest.approx(0.6 / 0.8)
    assert low < value < high


def test_noise_costs_constancy() -> None:
    figures = [float(same_person(looks(20, noise), Cosine(), scenes=True).mean()) for noise in (0.0, 0.1, 0.3)]
    assert figures[0] > figures[1] > figures[2]


def test_a_missing_face_leaves_the_others_to_count() -> None:
    seen = looks(4, 0)
    seen.plain[0, 1] = np.nan
    same = same_person(seen, Cosine(), scenes=True)
    assert same[0] == pytest.approx(1)
    assert np.isnan(same_person(seen, Cosine(), scenes=False)[0])


def test_the_nearest_celebrity_is_not_oneself() -> None:
    seen = looks(3, 0)
    known = np.eye(3, 64, dtype=np.float32)
    known[2] = (known[2] + known[1]) / 2
    alike = nearest_celebrity(seen, Cosine(), known, [None, 1, None])
    assert alike[0] == pytest.approx(1)
    assert alike[1] == pytest.approx(2**-0.5, abs=1e-5)


def test_an_interval_covers_the_figure() -> None:
    values: NDArray[np.float64] = np.random.default_rng(3).normal(0.5, 0.1, 40)
    value, low, high = interval(lambda rows: float(values[rows].mean()), 40)
    assert low < value < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 40**0.5, rel=0.35)
