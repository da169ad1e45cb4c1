"""Progress events of training, as plain data for a page, a progress bar or an API, and ways to follow them.

Long work is a generator that yields :class:`Event` objects and returns its result. :func:`follow` runs one to its end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

_Event = TypeVar("_Event", bound="Event")
_Result = TypeVar("_Result")


class Event:
    """Base class of all events."""

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON-ready values, with the name of its class under ``"event"``."""
        return {"event": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Preparing(Event):
    """Augmented views are being encoded."""

    done: int
    total: int


@dataclass(frozen=True)
class DrawingNames(Event):
    """The model is generating pictures of known celebrities, once per checkpoint."""

    done: int
    total: int


@dataclass(frozen=True)
class PresetChosen(Event):
    """A run that left the choice of its preset has made it."""

    preset: str
    """The preset whose settings it learns with, and records."""
    prepared: bool
    """Whether the faces of the celebrities are there already, as the checkpoint renders them."""

    @property
    def sentence(self) -> str:
        """For the user."""
        if self.prepared and self.preset == "quick":
            return "This checkpoint is prepared, so the preset is quick."
        if self.prepared:
            return f"On this checkpoint a face says nothing about a name, so the preset is {self.preset}."
        return f"This checkpoint is not prepared, so the preset is {self.preset}, which needs no preparation."


@dataclass(frozen=True)
class PersonProgress:
    """Where one person's averaged coefficients stand."""

    movement: float
    """Relative change of the averaged coefficients over the last window of steps; small values mean converged."""
    distance: float
    """Distance of the token vectors to the mean, in units of the celebrities' own root-mean-square distance."""
    nearest: tuple[tuple[str, float], ...]
    """Celebrities with the highest cosine similarity in coefficient space, best first."""


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
    """Progress by the person's name at every report, ``None`` between reports."""
    seconds_left: float | None
    """Estimated remaining time; ``None`` until there is something to estimate it from."""


@dataclass(frozen=True)
class Warned(Event):
    """Something went wrong that does not stop the run."""

    message: str
    """For the user."""


FinishReason = Literal["all steps done", "settled", "interrupted"]


@dataclass(frozen=True)
class Finished(Event):
    """Training has ended; the trainer holds the coefficients."""

    reason: FinishReason
    steps: int
    seconds: float


@dataclass(frozen=True)
class MeasuringPicture(Event):
    """A picture was generated after learning, to measure the likeness."""

    done: int
    total: int
    name: str
    """Of the person; empty for a celebrity."""
    image: Any = None
    """A PIL image, marked as generated; ``None`` for a celebrity, whose picture nobody needs to see."""

    def as_dict(self) -> dict[str, Any]:
        """The event without the picture."""
        return {"event": type(self).__name__, "done": self.done, "total": self.total, "name": self.name}


class EventStream(Generic[_Event, _Result]):
    """Iterate over the events of a generator; :attr:`result` then holds what it returned.

    Example:
        >>> stream = EventStream(session.learn(task, interrupt))  # doctest: +SKIP
        >>> for event in stream:  # doctest: +SKIP
        ...     print(event)
        >>> stream.result  # doctest: +SKIP
    """

    result: _Result
    """Set once the iteration has ended."""

    def __init__(self, running: Generator[_Event, None, _Result]) -> None:
        self._running = running

    def __iter__(self) -> Generator[_Event, None, None]:
        self.result = yield from self._running


def follow(running: Generator[_Event, None, _Result], on_event: Callable[[_Event], object] | None = None) -> _Result:
    """Run a generator of events to its end and return its result.

    If ``on_event`` raises, the generator is closed at once, so that whatever it changed is restored.

    Args:
        running: The generator.
        on_event: Called with each event.
    """
    stream = EventStream(running)
    with contextlib.closing(running):
        for event in stream:
            if on_event is not None:
                on_event(event)
    return stream.result


def until_set(
    running: Generator[_Event, None, _Result], interrupt: threading.Event
) -> Generator[_Event, None, _Result | None]:
    """Yield the events of ``running`` until it ends or ``interrupt`` is set.

    Args:
        running: The generator; it is closed when ``interrupt`` is set.
        interrupt: Cooperative cancellation flag, checked after each event.

    Returns:
        The result of ``running``, or ``None`` if it was interrupted.
    """
    stream = EventStream(running)
    with contextlib.closing(running):
        for event in stream:
            yield event
            if interrupt.is_set():
                return None
    return stream.result
