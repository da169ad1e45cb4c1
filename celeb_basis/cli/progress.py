"""What is shown and where: results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from celeb_basis.events import DrawingNames, Event, Preparing, StepDone


@dataclass
class Console:
    """The two streams. With ``json``, standard output gets one JSON value and nothing else."""

    json: bool
    verbose: bool
    quiet: bool
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    def __post_init__(self) -> None:
        # Redirected on Windows, a stream has the letters of one script, and raises for all others: once everything is done.
        for stream in (self.out, self.err):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Send to standard error what libraries print, and log messages as remarks."""
        handler = _Remarks(self)
        level = logging.INFO if self.verbose else logging.WARNING
        logger = logging.getLogger("celeb_basis")
        before = logger.level, logger.propagate
        handler.setLevel(level)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
        try:
            with contextlib.redirect_stdout(self.err):
                yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]

    def say(self, text: str = "") -> None:
        """A line of the result, for people."""
        if not self.json:
            self.out.write(text + "\n")
            self.out.flush()

    def result(self, value: Any) -> None:
        """The whole result, for programs."""
        if self.json:
            # Programs expect UTF-8; whatever else the stream may be, it has ASCII's letters.
            foreign = codecs.lookup(self.out.encoding or "utf-8").name != "utf-8"
            self.out.write(json.dumps(value, ensure_ascii=foreign, indent=2) + "\n")
            self.out.flush()

    def note(self, text: str) -> None:
        """A remark."""
        if not self.quiet:
            self._write(text)

    def confirm(self, question: str) -> bool | None:
        """Whether somebody at the terminal agrees; ``None`` where nobody can be asked."""
        if self.json or not sys.stdin.isatty():
            return None
        self.err.write(f"{question} [y/N] ")
        self.err.flush()
        return sys.stdin.readline().strip().casefold() in ("y", "yes")

    def error(self, text: str) -> None:
        """The sentence that says why nothing came of it."""
        self._write(f"error: {text}")
        self.result({"error": text})

    def bar(self, total: int | None, about: str, *, unit: str = "it", scale: bool = False) -> Any:
        """A tqdm bar on standard error; silent with ``--quiet``."""
        from tqdm import tqdm

        return tqdm(
            total=total,
            desc=about,
            unit=unit,
            unit_scale=scale,
            file=self.err,
            disable=self.quiet,
            leave=False,
            dynamic_ncols=True,
        )

    def _write(self, text: str) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            self.err.write(text + "\n")
        else:
            tqdm.write(text, file=self.err)  # above a bar that is being drawn
        self.err.flush()


class _Remarks(logging.Handler):
    def __init__(self, screen: Console) -> None:
        super().__init__()
        self.screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self.screen.note(record.getMessage())


class LearnBar:
    """Bars for the events of one run: the views that are encoded, then the steps."""

    def __init__(self, screen: Console, about: str) -> None:
        self.screen, self.about = screen, about
        self._bar: Any = None
        self._phase: type[Event] | None = None
        self._people = ""

    def show(self, event: Event) -> None:
        """Draw what ``event`` says."""
        if isinstance(event, Preparing):
            self._move(event, event.total, event.done, f"{self.about}: encoding views")
        elif isinstance(event, DrawingNames):
            self._move(event, event.total, event.done, "Drawing the celebrities, once for this model")
        elif isinstance(event, StepDone):
            self._move(event, event.total, event.step, f"{self.about}: learning")
            if event.people:
                self._people = "".join(
                    f", distance {one.distance:.2f}" if len(event.people) == 1 else f", {name} {one.distance:.2f}"
                    for name, one in list(event.people.items())[:3]
                )
            self._bar.set_postfix_str(f"loss {event.average_loss:.4f}{self._people}", refresh=False)

    def close(self) -> None:
        """Take the bar away; whatever is shown next begins one of its own."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._phase, self._people = None, None, ""

    def _move(self, event: Event, total: int, done: int, about: str) -> None:
        if self._phase is not type(event):
            self.close()
            self._phase = type(event)
            # A resumed run starts where it was left, and its time left is reckoned from there.
            self._bar = self.screen.bar(total, about, unit="step")
            self._bar.initial = self._bar.n = done - 1
        self._bar.update(done - self._bar.n)
