"""A figure with its limit, the line it is printed as, and what a run of them amounts to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["ratio", "ms", "s", "MB", "yes/no"]
"""``yes/no`` figures are 1 or 0; their limit is what they may be at most."""

_NAME_WIDTH = 100
_NUMBER_WIDTH = 10


@dataclass(frozen=True)
class Figure:
    """One measured number and the most it may be."""

    name: str
    """What was measured, in full: a reader sees the line alone."""
    value: float
    """NaN if it could not be measured."""
    limit: float
    unit: Unit
    detail: str = ""
    """The times, sizes and counts behind the value, for who wants to know more."""

    @property
    def ok(self) -> bool:
        """Whether the limit is kept. What could not be measured keeps none."""
        return self.value <= self.limit

    def line(self) -> str:
        """Name, value, limit, and ``ok`` or ``short``, in columns that are alike in every line."""
        value, limit = (_shown(number, self.unit).rjust(_NUMBER_WIDTH) for number in (self.value, self.limit))
        return f"{self.name:<{_NAME_WIDTH}}  {value}  {limit}  {'ok' if self.ok else 'short'}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; what could not be measured is ``None``."""
        return {
            "name": self.name,
            "value": _finite(self.value),
            "limit": _finite(self.limit),
            "unit": self.unit,
            "ok": self.ok,
            "detail": self.detail,
        }


def exit_code(figures: Iterable[Figure]) -> int:
    """0 if there are figures and all of them keep their limits, else 1."""
    verdicts = [figure.ok for figure in figures]
    return 0 if verdicts and all(verdicts) else 1


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _shown(number: float, unit: Unit) -> str:
    if not math.isfinite(number):
        return "-"
    if unit == "yes/no":
        return "yes" if number else "no"
    # Three decimals for ratios: with two, 1.034 would stand beside a limit of 1.03 and look like it.
    return f"{number:.3f}" if unit == "ratio" else f"{number:.1f} {unit}" if unit != "s" else f"{number:.2f} s"
