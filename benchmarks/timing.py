"""Seconds of a call, and ratios of two calls that take turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Two calls, timed turn by turn on the same machine in the same minutes."""

    ours: tuple[float, ...]
    """Seconds."""
    other: tuple[float, ...]
    """Seconds; ``other[i]`` ran beside ``ours[i]``."""
    processor_ratio: float = math.nan
    """Median ratio of the pairs' processor time, all threads together: it says what a busy machine's clock cannot."""

    @property
    def ratio(self) -> float:
        """Median of the pairs' own ratios: what slows the machine for a while slows both of a pair."""
        return statistics.median(a / b for a, b in zip(self.ours, self.other, strict=True))

    def detail(self) -> str:
        """Medians in seconds and the range of the ratios."""
        ratios = sorted(a / b for a, b in zip(self.ours, self.other, strict=True))
        return (
            f"ours {statistics.median(self.ours):.3f} s, other {statistics.median(self.other):.3f} s, "
            f"{len(ratios)} pairs, ratios {ratios[0]:.3f} to {ratios[-1]:.3f}, "
            f"of processor time {self.processor_ratio:.3f}"
        )


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def take_turns(
    ours: Callable[[], object],
    other: Callable[[], object],
    pairs: int,
    *,
    prepare: Callable[[], object] = lambda: None,
) -> Comparison:
    """Time both calls ``pairs`` times after one untimed round; who goes first changes from pair to pair.

    ``prepare`` runs before each pair, untimed.
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    processor: dict[bool, list[float]] = {True: [], False: []}
    for index in range(-1, pairs):
        prepare()
        for is_ours in (True, False) if index % 2 else (False, True):
            before = time.process_time()
            taken = seconds(ours if is_ours else other)
            if index >= 0:
                times[is_ours].append(taken)
                processor[is_ours].append(time.process_time() - before)
    ratios = [a / b for a, b in zip(processor[True], processor[False], strict=True) if b]
    return Comparison(tuple(times[True]), tuple(times[False]), statistics.median(ratios) if ratios else math.nan)
