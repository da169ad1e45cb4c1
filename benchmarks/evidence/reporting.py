"""Progress as lines of text: what is being done, at most one line every few seconds, so that nothing is silent for long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from celeb_basis.events import DrawingNames, Event, Preparing, StepDone

EVERY = 10.0
"""Seconds between two lines about the same work."""


def clock_of(device: torch.device) -> Callable[[], float]:
    """What counts the seconds of work on a device: on a CPU the processor's own, which other programs do not change."""
    return time.process_time if device.type == "cpu" else time.perf_counter


class Reporter:
    """Writes lines that begin with the time since the start."""

    def __init__(
        self,
        write: Callable[[str], object] | None = None,
        *,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
            write: Writes a line; to standard error by default.
            every: Seconds between two lines of :meth:`step`.
            clock: Seconds.
        """
        self._write, self._every, self._clock = write or _to_standard_error, every, clock
        self._start = self._last = clock()

    def say(self, text: str) -> None:
        """Write a line now."""
        self._last = self._clock()
        self._write(f"[{duration(self._last - self._start)}] {text}\n")

    def step(self, what: str, done: int, total: int) -> None:
        """Write ``what: done of total``, unless another line was written shortly before."""
        if self._clock() - self._last >= self._every:
            self.say(f"{what}: {done} of {total}")

    def event(self, event: Event) -> None:
        """Write the progress of generating names, encoding views or learning, unless a line was written shortly before."""
        if isinstance(event, DrawingNames):
            self.step("generating the celebrities", event.done, event.total)
        elif isinstance(event, Preparing):
            self.step("encoding views", event.done, event.total)
        elif isinstance(event, StepDone):
            self.step("learning, step", event.step, event.total)


def quiet() -> Reporter:
    """A reporter that writes nothing."""
    return Reporter(lambda _: None)


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes and seconds: ``"3:07"``, ``"1:03:07"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _to_standard_error(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
