"""Statistics over cells: means with 95 % intervals over strangers, and paired differences of two methods.

A stranger is one observation, however many seeds and images were measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.evidence.metrics import METRICS
from benchmarks.evidence.results import Finished, Measurements
from celeb_basis.evaluation.metrics import Estimate, mean_estimate

ALL_METRICS = (*METRICS, "both")
PAIRED_METRICS = ("identity", "third_opinion", "recognized", "prompt", "detect")
CHOOSING = "second_opinion"
"""What a program of a user could choose among snapshots by: the network that learning uses."""


@dataclass(frozen=True)
class Point:
    """A method at one milestone."""

    evaluations: float
    """Denoiser evaluations per person."""
    seconds: float
    encoding_seconds: float
    figures: dict[str, Estimate | None]


@dataclass(frozen=True)
class Row:
    """A method with its milestones in order."""

    method: str
    points: tuple[Point, ...]
    """Of the tracked runs, each of which is measured at every milestone: all points are of the same strangers."""
    last: Point
    """The end of all runs."""
    strangers: int
    seeds: int


def summarize(finished: Iterable[Finished], order: Sequence[str]) -> list[Row]:
    """Summarize the methods of ``order`` that have results.

    Figures are means over strangers (``both``: over pairs) of the means over seeds, with intervals bootstrapped over
    strangers (pairs).
    """
    by_method: dict[str, list[Finished]] = defaultdict(list)
    for cell, measurements in finished:
        if measurements:
            by_method[cell.method].append((cell, measurements))
    return [_row(name, by_method[name]) for name in order if name in by_method]


def _row(name: str, finished: list[Finished]) -> Row:
    runs = [measurements for _, measurements in finished]
    # Most runs are measured at their end alone, and short ones may lack their first milestones: count from the end.
    tracked = [measurements for measurements in runs if len(measurements) > 1] or runs
    count = min(map(len, tracked))
    points = tuple(_point([measurements[-back] for measurements in tracked]) for back in range(count, 0, -1))
    people = {person for measurements in runs for person in measurements[-1]["people"]}
    last = _point([measurements[-1] for measurements in runs])
    return Row(name, points, last, len(people), len({cell.seed for cell, _ in finished}))


def _point(measured: Measurements) -> Point:
    figures = {metric: _figure(measured, "people", metric) for metric in METRICS}
    figures["both"] = _figure(measured, "pairs", "both")
    costs = ("evaluations", "seconds", "encoding_seconds")
    evaluations, seconds, encoding_seconds = (float(np.mean([one[cost] for one in measured])) for cost in costs)
    return Point(evaluations, seconds, encoding_seconds, figures)


def _figure(measured: Measurements, kind: str, metric: str) -> Estimate | None:
    values: dict[str, list[float]] = defaultdict(list)
    for one in measured:
        for name, found in one[kind].items():
            # Results from before a metric was added do not have it.
            if (value := found.get(metric)) is not None:
                values[name].append(value)
    return mean_estimate([float(np.mean(values[name])) for name in sorted(values)])


def separated(better: Estimate | None, worse: Estimate | None) -> bool:
    """Whether ``better`` is higher and the two intervals do not overlap."""
    if better is None or worse is None or better.low is None or worse.high is None:
        return False
    return better.low > worse.high


def evaluations_to_reach(row: Row, metric: str, level: float) -> float | None:
    """Denoiser evaluations at the first milestone whose figure is at least ``level``; ``None`` if there is none."""
    for point in row.points:
        reached = point.figures[metric]
        if reached is not None and reached.value >= level:
            return point.evaluations
    return None


@dataclass(frozen=True)
class Difference:
    """``method`` minus ``baseline``, over the strangers that both have."""

    method: str
    baseline: str
    strangers: int
    figures: dict[str, Estimate | None]


def paired_differences(
    finished: Iterable[Finished], pairs: Iterable[tuple[str, str]], metrics: Sequence[str] = PAIRED_METRICS
) -> list[Difference]:
    """The final differences of those ``pairs`` that have strangers in common.

    Two intervals over 30 strangers can overlap because strangers differ, however consistently one method is better on
    each of them; the interval of the paired differences shows it.

    A stranger's difference is the mean over the seeds that both methods have. A stranger without a face in any image of
    one of them has no Identity and is excluded from that figure.
    """
    ends: dict[str, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for cell, measurements in finished:
        if measurements:
            for person, measured in measurements[-1]["people"].items():
                ends[cell.method][person, cell.seed] = measured
    found = []
    for method, baseline in pairs:
        common = sorted(ends[method].keys() & ends[baseline].keys())
        if common:
            figures = {name: _paired_figure(ends[method], ends[baseline], common, name) for name in metrics}
            found.append(Difference(method, baseline, len({person for person, _ in common}), figures))
    return found


def _paired_figure(
    method: dict[Any, Any], baseline: dict[Any, Any], common: Sequence[tuple[str, int]], metric: str
) -> Estimate | None:
    by_stranger: dict[str, list[float]] = defaultdict(list)
    for key in common:
        one, other = method[key][metric], baseline[key][metric]
        if one is not None and other is not None:
            by_stranger[key[0]].append(one - other)
    return mean_estimate([float(np.mean(values)) for values in by_stranger.values()])


def snapshot_differences(finished: Iterable[Finished], methods: Iterable[str]) -> list[Difference]:
    """What keeping each person's best snapshot by :data:`CHOOSING` would change, compared with keeping the last one.

    It looks at the runs that were measured at several milestones. A snapshot without a face is never the best.
    """
    runs: dict[str, list[Measurements]] = defaultdict(list)
    for cell, measurements in finished:
        if len(measurements) > 1:
            runs[cell.method].append(measurements)
    found = []
    for method in methods:
        best: dict[str, list[dict[str, Any]]] = defaultdict(list)
        last: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for measurements in runs[method]:
            for person, measured in measurements[-1]["people"].items():
                snapshots = [one["people"][person] for one in measurements if person in one["people"]]
                seen = [one for one in snapshots if one.get(CHOOSING) is not None]
                best[person].append(max(seen, key=lambda one: float(one[CHOOSING]), default=measured))
                last[person].append(measured)
        if best:
            metrics = (CHOOSING, *PAIRED_METRICS)
            keys = [(person, run) for person, of_person in best.items() for run in range(len(of_person))]
            one, other = ({key: kept[key[0]][key[1]] for key in keys} for kept in (best, last))
            figures = {name: _paired_figure(one, other, keys, name) for name in metrics}
            found.append(Difference(method, "its last state", len(best), figures))
    return found


def significant(figure: Estimate | None) -> bool:
    """Whether the interval excludes zero."""
    return figure is not None and figure.low is not None and figure.high is not None and figure.low * figure.high > 0


def shown(figure: Estimate | None, *, signed: bool = False) -> str:
    """A figure with its interval for a table; with ``signed``, a difference, bold where the interval excludes zero."""
    if figure is None:
        return "–"
    sign = "+" if signed else ""
    text = f"{figure.value:{sign}.3f}"
    if figure.low is not None and figure.high is not None:
        text += f" ({figure.low:{sign}.3f} to {figure.high:{sign}.3f})"
    return f"**{text}**" if signed and significant(figure) else text
