"""What learning tells a page, a progress bar or an API while it runs. Plain data, JSON-ready through ``as_dict``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


class Event:
    """Base of all events."""

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON-ready values, with its class's name under ``"event"``."""
        return {"event": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Preparing(Event):
    """The pool of augmented views is being encoded."""

    done: int
    total: int


@dataclass(frozen=True)
class DrawingNames(Event):
    """The model draws the celebrities, once for each checkpoint."""

    done: int
    total: int


@dataclass(frozen=True)
class PersonProgress:
    """Where one person's averaged coefficients stand."""

    movement: float
    """Relative change of the averaged coefficients over the last window of steps; small means settled."""
    distance: float
    """Distance of the token vectors to the mean, in units of the celebrities' own root-mean-square distance."""
    nearest: tuple[tuple[str, float], ...]
    """Celebrities with the highest cosine in coefficient space, best first."""


@dataclass(frozen=True)
class StepDone(Event):
    """An optimizer step is done."""

    step: int
    """Steps done so far, 1 to ``total``."""
    total: int
    loss: float
    average_loss: float
    """Bias-corrected exponential moving average of the loss."""
    people: Mapping[str, PersonProgress] | None
    """Filled at every report, ``None`` between reports."""
    seconds_left: float | None
    """``None`` until there is something to estimate it from."""


@dataclass(frozen=True)
class Finished(Event):
    """Learning has ended; the learner holds the coefficients."""

    reason: Literal["all steps done", "settled", "interrupted"]
    steps: int
    seconds: float
