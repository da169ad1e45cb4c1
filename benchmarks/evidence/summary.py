"""From cells to figures with intervals: a stranger is one observation, however many seeds and pictures were drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.evidence.measuring import FIGURES
from celeb_basis.evaluation.metrics import Estimate, mean_estimate

ALL_FIGURES = (*FIGURES, "both")


@dataclass(frozen=True)
class Point:
    """A contestant at one milestone."""

    evaluations: float
    """Of the denoiser, for each person."""
    seconds: float
    prepared: float
    figures: dict[str, Estimate | None]


@dataclass(frozen=True)
class Row:
    """A contestant, with its milestones in order."""

    contestant: str
    points: tuple[Point, ...]
    """Of the runs that were measured on the way, all of them at every milestone: of the same strangers."""
    last: Point
    """Where all runs ended."""
    strangers: int
    seeds: int


def summarise(finished: Iterable[tuple[dict[str, Any], list[dict[str, Any]]]], order: Sequence[str]) -> list[Row]:
    """Rows of the contestants in ``order`` that have results. Figures are means over strangers (``both``: over pairs)
    of the means over seeds; intervals are bootstrapped over strangers (pairs).
    """
    by_contestant: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = defaultdict(list)
    for cell, milestones in finished:
        if milestones:
            by_contestant[cell["contestant"]].append((cell, milestones))
    return [_row(name, by_contestant[name]) for name in order if name in by_contestant]


def _row(name: str, cells: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> Row:
    reached = [milestones for _, milestones in cells]
    # Some runs are measured at their end alone, and short ones may lack their first milestones: count from the end.
    watched = [milestones for milestones in reached if len(milestones) > 1] or reached
    count = min(map(len, watched))
    points = tuple(_point([milestones[-back] for milestones in watched]) for back in range(count, 0, -1))
    people = {person for milestones in reached for person in milestones[-1]["people"]}
    last = _point([milestones[-1] for milestones in reached])
    return Row(name, points, last, len(people), len({cell["seed"] for cell, _ in cells}))


def _point(reached: list[dict[str, Any]]) -> Point:
    figures = {figure: _figure(reached, "people", figure) for figure in FIGURES}
    figures["both"] = _figure(reached, "pairs", "both")
    mean = {cost: float(np.mean([one[cost] for one in reached])) for cost in ("evaluations", "seconds", "prepared")}
    return Point(mean["evaluations"], mean["seconds"], mean["prepared"], figures)


def _figure(reached: list[dict[str, Any]], kind: str, figure: str) -> Estimate | None:
    values: dict[str, list[float]] = defaultdict(list)
    for one in reached:
        for name, measured in one[kind].items():
            if measured[figure] is not None:
                values[name].append(measured[figure])
    return mean_estimate([float(np.mean(values[name])) for name in sorted(values)])


def apart(better: Estimate | None, worse: Estimate | None) -> bool:
    """Whether ``better`` is the higher and the two intervals do not touch."""
    if better is None or worse is None or better.low is None or worse.high is None:
        return False
    return better.low > worse.high


def evaluations_to(row: Row, figure: str, level: float) -> float | None:
    """Denoiser evaluations at the first milestone whose figure is at least ``level``; ``None`` if none is."""
    for point in row.points:
        reached = point.figures[figure]
        if reached is not None and reached.value >= level:
            return point.evaluations
    return None
