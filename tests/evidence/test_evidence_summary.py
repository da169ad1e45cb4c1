"""The statistics: means and paired differences over strangers against numpy, with missing figures excluded."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.evidence.page import hypotheses, paired_table
from benchmarks.evidence.plan import FULL, PAIRED
from benchmarks.evidence.results import Cell, Finished
from benchmarks.evidence.summary import (
    PAIRED_METRICS,
    paired_differences,
    separated,
    significant,
    snapshot_differences,
    summarize,
)


def cell(name: str, seed: int, identity: dict[str, float | None]) -> Finished:
    rest = {figure: 0.5 for figure in PAIRED_METRICS if figure != "identity"}
    early = {"people": {person: {"identity": -9.0, **rest} for person in identity}}
    end = {"people": {person: {"identity": value, **rest} for person, value in identity.items()}}
    return Cell(name, {}, tuple(identity), seed, (0.5, 1.0), {}), [early, end]


def test_paired_differences_remove_what_strangers_share() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(0.4, 0.1, 30)  # strangers differ by far more than methods do
    gain = generator.normal(0.02, 0.005, 30)
    names = [f"s{number}" for number in range(30)]
    cells = [
        cell("plain", 0, dict(zip(names, base, strict=True))),
        cell("better", 0, dict(zip(names, base + gain, strict=True))),
    ]
    (found,) = paired_differences(cells, [("better", "plain")])
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
    assert significant(figure)
    assert not significant(found.figures["prompt"]), "no difference"
    row = paired_table([found]).splitlines()[-1]
    assert row.startswith("| better | plain | 30 | **+0.0")
    assert "| +0.000 (+0.000 to +0.000) |" in row


def test_the_best_snapshot_is_compared_with_the_last_state_of_the_same_run() -> None:
    def measured(identity: float, second_opinion: float | None) -> dict[str, float | None]:
        rest = {figure: 0.5 for figure in PAIRED_METRICS if figure != "identity"}
        return {"identity": identity, "second_opinion": second_opinion, **rest}

    def run(seed: int, *snapshots: dict[str, tuple[float, float | None]]) -> Finished:
        rows = [{"people": {name: measured(*values) for name, values in one.items()}} for one in snapshots]
        names = tuple(snapshots[-1])
        return Cell("quick", {}, names, seed, tuple(range(1, len(rows) + 1)), {}), rows

    cells = [
        # x: the first snapshot is the best by what chooses, and worse by Identity; y was in no batch at first.
        run(0, {"x": (0.3, 0.9)}, {"x": (0.5, 0.4), "y": (0.2, 0.1)}, {"x": (0.4, 0.5), "y": (0.1, 0.3)}),
        # z: a snapshot without a face is not chosen.
        run(0, {"z": (0.8, None)}, {"z": (0.6, 0.2)}),
        run(1, {"z": (0.9, 0.9)}),  # measured at its end alone
    ]
    (found,) = snapshot_differences(cells, ["quick", "unknown"])
    assert (found.method, found.strangers) == ("quick", 3)
    identity, second = found.figures["identity"], found.figures["second_opinion"]
    assert identity is not None
    assert second is not None
    assert identity.value == pytest.approx((0.3 - 0.4) / 3)
    assert second.value == pytest.approx((0.9 - 0.5) / 3)


def test_only_strangers_and_seeds_that_both_have() -> None:
    cells = [
        cell("a", 0, {"x": 0.5, "y": 0.5, "z": None}),
        cell("a", 1, {"x": 0.9}),
        cell("b", 0, {"x": 0.4, "y": 0.2, "z": 0.1}),
        cell("b", 2, {"x": 0.0}),
        cell("c", 0, {"w": 0.0}),
        cell("b", 1, {"x": 0.6, "v": 0.0}),
    ]
    (found,) = paired_differences(cells, [("a", "b"), ("a", "c"), ("a", "unknown")])
    figure = found.figures["identity"]
    assert figure is not None
    assert (found.method, found.baseline, found.strangers) == ("a", "b", 3)
    assert figure.count == 2, "z has no face"
    assert figure.value == pytest.approx(np.mean([np.mean([0.1, 0.3]), 0.3]))
    (single,) = paired_differences([cell("a", 0, {"x": 0.5}), cell("b", 0, {"x": 0.4})], [("a", "b")])
    assert not significant(single.figures["identity"])
    assert "| +0.100 |" in paired_table([single])


def test_pairs_name_methods() -> None:
    known = {one.name for one in FULL.methods}
    assert {name for pair in PAIRED for name in pair} <= known


def test_a_stranger_is_one_observation_however_many_seeds() -> None:
    def measured(name: str, group: list[str], seed: int, value: float | None) -> Finished:
        others = dict.fromkeys(
            ("recognized", "second_opinion", "prompt", "detect", "diversity"), 0.5
        )  # as before the third
        people = {person: {"identity": value, **others} for person in group}
        point = {
            "evaluations": 8,
            "seconds": 1.0,
            "encoding_seconds": 0.5,
            "people": people,
            "pairs": {"&".join(group): {"both": 1}},
        }
        return Cell(name, {}, tuple(group), seed, (1.0,), {}), [point]

    cells = [
        measured("a", ["x"], 0, 0.2),
        measured("a", ["x"], 1, 0.4),
        measured("a", ["y"], 0, 0.9),
        measured("a", ["y"], 1, None),
    ]
    (row,) = summarize(cells, ["a", "b"])
    figure = row.last.figures["identity"]
    assert figure is not None
    assert (figure.count, round(figure.value, 6)) == (2, 0.6)
    assert (row.strangers, row.seeds) == (2, 2)
    low = summarize([measured("b", [str(n)], 0, 0.1 + n / 1000) for n in range(9)], ["b"])[0].last.figures["identity"]
    high = summarize([measured("c", [str(n)], 0, 0.5 + n / 1000) for n in range(9)], ["c"])[0].last.figures["identity"]
    assert separated(high, low)
    assert not separated(low, high)
    assert not separated(high, high)
    assert all("not tested" in line for line in hypotheses([row]))
