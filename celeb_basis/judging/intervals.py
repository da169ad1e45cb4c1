"""A figure with its 95 % interval: how far it would move if as many other pictures were drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESAMPLES = 2000
_Z95 = 1.959963984540054
"""The standard normal's 97.5 % point."""


@dataclass(frozen=True)
class Figure:
    """A mean or a share, and its 95 % interval."""

    value: float
    low: float | None
    """``None`` where fewer than two pictures leave nothing to tell it from."""
    high: float | None
    count: int
    """Pictures it was computed over."""


def mean_figure(values: Sequence[float]) -> Figure | None:
    """The mean with a bootstrapped percentile interval (Efron 1979), the same at every call; ``None`` of no values."""
    count = len(values)
    if count == 0:
        return None
    sample = np.asarray(values, dtype=np.float64)
    if count == 1:
        return Figure(float(sample[0]), None, None, 1)
    generator = np.random.default_rng(0)
    # One count of how often each value is drawn is a row of the multinomial: a resample without an index array.
    weights = generator.multinomial(count, np.full(count, 1.0 / count), size=_RESAMPLES)
    low, high = np.quantile(weights @ sample / count, (0.025, 0.975))
    return Figure(float(sample.mean()), float(low), float(high), count)


def share_figure(hits: int, count: int) -> Figure:
    """The share ``hits / count`` with Wilson's interval (1927), which stays inside 0 to 1 and is never empty."""
    share = hits / count
    shrunk = 1 + _Z95**2 / count
    middle = (share + _Z95**2 / (2 * count)) / shrunk
    half = _Z95 * math.sqrt(share * (1 - share) / count + _Z95**2 / (4 * count**2)) / shrunk
    return Figure(share, max(0.0, middle - half), min(1.0, middle + half), count)
