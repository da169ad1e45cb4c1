"""Figures with limits, and how they are measured: timing of calls, comparisons in turns, peak memory."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Unit = Literal["ratio", "ms", "s", "MB", "yes/no"]
"""``yes/no`` figures are 1 or 0; their limit is the highest value allowed."""

_NAME_WIDTH = 100
_NUMBER_WIDTH = 10


@dataclass(frozen=True)
class Figure:
    """One measured number and the highest value allowed."""

    name: str
    """What was measured, in full: it is printed on a line of its own."""
    value: float
    """NaN if it could not be measured."""
    limit: float
    unit: Unit
    detail: str = ""
    """The times, sizes and counts behind the value."""

    @property
    def ok(self) -> bool:
        """Whether the value is within its limit; never for one that could not be measured."""
        return self.value <= self.limit

    def line(self) -> str:
        """Name, value, limit, and ``ok`` or ``short``, in columns that are aligned over all lines."""
        value, limit = (_shown(number, self.unit).rjust(_NUMBER_WIDTH) for number in (self.value, self.limit))
        return f"{self.name:<{_NAME_WIDTH}}  {value}  {limit}  {'ok' if self.ok else 'short'}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; ``None`` for what could not be measured."""
        return {
            "name": self.name,
            "value": _finite(self.value),
            "limit": _finite(self.limit),
            "unit": self.unit,
            "ok": self.ok,
            "detail": self.detail,
        }


def exit_code(figures: Iterable[Figure]) -> int:
    """0 if there are figures and all of them are within their limits, else 1."""
    verdicts = [figure.ok for figure in figures]
    return 0 if verdicts and all(verdicts) else 1


def print_figures(measured: Iterable[Figure]) -> list[Figure]:
    """Print each figure as soon as it is measured, its details on the error stream; returns them all."""
    figures = []
    for figure in measured:
        sys.stdout.write(f"{figure.line()}\n")
        sys.stdout.flush()
        if figure.detail:
            sys.stderr.write(f"  ({figure.detail})\n")
        figures.append(figure)
    return figures


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _shown(number: float, unit: Unit) -> str:
    if not math.isfinite(number):
        return "-"
    if unit == "yes/no":
        return "yes" if number else "no"
    # Three decimals for ratios: with two, 1.034 would look equal to a limit of 1.03.
    return f"{number:.3f}" if unit == "ratio" else f"{number:.1f} {unit}" if unit != "s" else f"{number:.2f} s"


@dataclass(frozen=True)
class Comparison:
    """Two calls, timed in turns on the same machine in the same minutes."""

    ours: tuple[float, ...]
    """Seconds."""
    other: tuple[float, ...]
    """Seconds; ``other[i]`` was timed next to ``ours[i]``."""
    processor_ratio: float = math.nan
    """Median ratio of the pairs' processor time over all threads, which other programs on the machine affect less."""

    @property
    def ratio(self) -> float:
        """Median of the pairs' own ratios: what slows the machine down for a while slows both calls of a pair."""
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
    """Time two calls in turns after one untimed round; which of them goes first alternates.

    Args:
        ours: The first call.
        other: The second call.
        pairs: How often each is timed.
        prepare: Runs before each pair, untimed.
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


def peak_bytes() -> int:
    """The peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its figure starts with that of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
