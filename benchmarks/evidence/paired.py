"""Two contestants on the same strangers and seeds: how much the one is above the other, with an interval over strangers.

Two intervals of 30 strangers can overlap because strangers differ, however surely one recipe is better on each of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from celeb_basis.evaluation.metrics import Estimate, mean_estimate

FIGURES = ("identity", "recognised", "prompt", "detect")

Finished = Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]
"""Cells with their milestones."""


@dataclass(frozen=True)
class Difference:
    """``one`` less ``other``, over the strangers that both have."""

    one: str
    other: str
    strangers: int
    figures: dict[str, Estimate | None]


def differences(finished: Finished, pairs: Iterable[tuple[str, str]]) -> list[Difference]:
    """The differences of those ``pairs`` that have strangers in common, where both ended.

    A stranger's is the mean over the seeds that both have; one without a face in all of either's pictures has no Identity
    and is left out of that figure.
    """
    ends: dict[str, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for cell, milestones in finished:
        if milestones:
            for person, measured in milestones[-1]["people"].items():
                ends[cell["contestant"]][person, cell["seed"]] = measured
    found = []
    for one, other in pairs:
        common = sorted(ends[one].keys() & ends[other].keys())
        if common:
            figures = {name: _figure(ends[one], ends[other], common, name) for name in FIGURES}
            found.append(Difference(one, other, len({person for person, _ in common}), figures))
    return found


def _figure(
    one: dict[Any, Any], other: dict[Any, Any], common: Sequence[tuple[str, int]], name: str
) -> Estimate | None:
    by_stranger: dict[str, list[float]] = defaultdict(list)
    for key in common:
        ours, theirs = one[key][name], other[key][name]
        if ours is not None and theirs is not None:
            by_stranger[key[0]].append(ours - theirs)
    return mean_estimate([float(np.mean(values)) for values in by_stranger.values()])


def sure(figure: Estimate | None) -> bool:
    """Whether the interval leaves zero out."""
    return figure is not None and figure.low is not None and figure.high is not None and figure.low * figure.high > 0
