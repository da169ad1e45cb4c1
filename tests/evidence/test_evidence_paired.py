"""Differences on the same strangers: against numpy, with what is missing left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.evidence.page import paired_table
from benchmarks.evidence.paired import FIGURES, differences, sure
from benchmarks.evidence.plan import FULL, LEFT, PAIRED, PAIRED_LEFT


def cell(name: str, seed: int, identity: dict[str, float | None]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rest = {figure: 0.5 for figure in FIGURES if figure != "identity"}
    early = {"people": {person: {"identity": -9.0, **rest} for person in identity}}
    end = {"people": {person: {"identity": value, **rest} for person, value in identity.items()}}
    return {"contestant": name, "group": list(identity), "seed": seed}, [early, end]


def test_what_strangers_share_is_taken_out() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(0.4, 0.1, 30)  # strangers differ by far more than recipes do
    gain = generator.normal(0.02, 0.005, 30)
    names = [f"s{number}" for number in range(30)]
    cells = [
        cell("plain", 0, dict(zip(names, base, strict=True))),
        cell("better", 0, dict(zip(names, base + gain, strict=True))),
    ]
    (found,) = differences(cells, [("better", "plain")])
    figure = found.figures["identity"]
    assert figure is not None
    assert figure.low is not None
    assert figure.high is not None
    assert found.strangers == figure.count == 30
    assert figure.value == pytest.approx(gain.mean())
    error = gain.std(ddof=1) / np.sqrt(30)
    assert (figure.low, figure.high) == pytest.approx(
        (gain.mean() - 1.96 * error, gain.mean() + 1.96 * error), abs=5e-4
    )
    assert sure(figure)
    assert not sure(found.figures["prompt"]), "no difference"
    row = paired_table([found]).splitlines()[-1]
    assert row.startswith("| better | plain | 30 | **+0.0")
    assert "| +0.000 (+0.000 to +0.000) |" in row


def test_only_strangers_and_seeds_that_both_have() -> None:
    cells = [
        cell("a", 0, {"x": 0.5, "y": 0.5, "z": None}),
        cell("a", 1, {"x": 0.9}),
        cell("b", 0, {"x": 0.4, "y": 0.2, "z": 0.1}),
        cell("b", 2, {"x": 0.0}),
        cell("c", 0, {"w": 0.0}),
        cell("b", 1, {"x": 0.6, "v": 0.0}),
    ]
    (found,) = differences(cells, [("a", "b"), ("a", "c"), ("a", "nobody")])
    figure = found.figures["identity"]
    assert figure is not None
    assert (found.one, found.other, found.strangers) == ("a", "b", 3)
    assert figure.count == 2, "z has no face"
    assert figure.value == pytest.approx(np.mean([np.mean([0.1, 0.3]), 0.3]))
    (single,) = differences([cell("a", 0, {"x": 0.5}), cell("b", 0, {"x": 0.4})], [("a", "b")])
    assert not sure(single.figures["identity"])
    assert "| +0.100 |" in paired_table([single])


def test_pairs_name_contestants() -> None:
    known = {one.name for one in FULL.contestants}
    assert {name for pair in PAIRED for name in pair} <= known
    assert {other for _, other in PAIRED_LEFT} <= {*known, LEFT[0]}
    assert tuple(one for one, _ in PAIRED_LEFT) == LEFT
