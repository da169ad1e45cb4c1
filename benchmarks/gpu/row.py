"""One line of the table, and how its figures are written."""

from __future__ import annotations

from dataclasses import dataclass, replace

_GB = 1e9


@dataclass(frozen=True)
class Measurement:
    """One line of the table."""

    model: str
    what: str
    value: str
    detail: str = ""


def time_text(value: float) -> str:
    """A time in words."""
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def memory_text(value: float) -> str:
    """A number of bytes in words; ``-`` for none."""
    return f"{value / _GB:.2f} GB" if value else "-"


def shortened(measured: Measurement) -> Measurement:
    """The same with no characters that would break a row of a table."""
    clean = {name: getattr(measured, name).replace("|", "/").replace("\n", " ") for name in ("what", "value", "detail")}
    return replace(measured, **clean)
