"""The console: results go to standard output, progress and remarks to standard error, all without control characters."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from celeb_basis.errors import printable, printable_json
from celeb_basis.events import DrawingNames, Event, MeasuringPicture, Preparing, PresetChosen, StepDone, Warned


@dataclass
class Console:
    """The two output streams. With ``json``, standard output holds one JSON value and nothing else."""

    json: bool
    verbose: bool
    quiet: bool
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    _warnings: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        # A redirected stream on Windows encodes the letters of one script only, and raises for all others, which would
        # happen when the work is already done.
        for stream in (self.out, self.err):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Send what libraries print to standard error, and show log messages as remarks."""
        handler = _RemarkHandler(self)
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
        """Print a line of the result for people; nothing with ``json``."""
        if not self.json:
            self.out.write(printable(text) + "\n")
            self.out.flush()

    def result(self, value: Any) -> None:
        """Print the whole result for programs; nothing without ``json``."""
        if self.json:
            # Programs expect UTF-8. Any other encoding can at least hold ASCII.
            ascii_only = codecs.lookup(self.out.encoding or "utf-8").name != "utf-8"
            self.out.write(printable_json(json.dumps(value, ensure_ascii=ascii_only, indent=2)) + "\n")
            self.out.flush()

    def note(self, text: str) -> None:
        """Show a remark; nothing with ``quiet``."""
        if not self.quiet:
            self._write(text)

    def warn(self, text: str) -> None:
        """Show a warning once, however often it is given: at the event itself, and again in the summary of a run."""
        if text not in self._warnings:
            self._warnings.add(text)
            self.note(f"warning: {text}")

    def confirm(self, question: str) -> bool | None:
        """Ask a yes-or-no question at the terminal; ``None`` without a terminal."""
        if self.json or not sys.stdin.isatty():
            return None
        self.err.write(f"{printable(question)} [y/N] ")
        self.err.flush()
        return sys.stdin.readline().strip().casefold() in ("y", "yes")

    def error(self, text: str) -> None:
        """Show the error that ended the command."""
        self._write(f"error: {text}")
        self.result({"error": text})

    def bar(self, total: int | None, about: str, *, unit: str = "it", scale: bool = False) -> Any:
        """Open a tqdm bar on standard error, which is not shown with ``quiet``."""
        from tqdm import tqdm

        return tqdm(
            total=total,
            desc=printable(about),
            unit=unit,
            unit_scale=scale,
            file=self.err,
            disable=self.quiet,
            leave=False,
            dynamic_ncols=True,
        )

    def _write(self, text: str) -> None:
        text = printable(text)
        try:
            from tqdm import tqdm
        except ImportError:
            self.err.write(text + "\n")
        else:
            tqdm.write(text, file=self.err)  # above a bar that is on the screen
        self.err.flush()


class _RemarkHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Show a log message as a remark."""
        self.console.note(record.getMessage())


class LearnBar:
    """Progress bars for the events of a training run, one per phase: encoding views, then the steps."""

    def __init__(self, console: Console, about: str) -> None:
        self.console, self.about = console, about
        self._bar: Any = None
        self._phase: type[Event] | None = None
        self._people = ""

    def show(self, event: Event) -> None:
        """Update the bar, or open the next one."""
        if isinstance(event, Preparing):
            self._move(event, event.total, event.done, f"{self.about}: encoding views")
        elif isinstance(event, DrawingNames):
            self._move(event, event.total, event.done, "Generating the celebrities, once for this model")
        elif isinstance(event, StepDone):
            self._move(event, event.total, event.step, f"{self.about}: learning")
            if event.people:
                self._people = "".join(
                    f", distance {one.distance:.2f}" if len(event.people) == 1 else f", {name} {one.distance:.2f}"
                    for name, one in list(event.people.items())[:3]
                )
            self._bar.set_postfix_str(f"loss {event.average_loss:.4f}{self._people}", refresh=False)
        elif isinstance(event, MeasuringPicture):
            self._move(event, event.total, event.done, self.about, unit="image")
        elif isinstance(event, Warned):
            self.console.warn(event.message)
        elif isinstance(event, PresetChosen):
            more = "" if event.prepared else " --preset quick prepares it once: as long as about 50 images."
            self.console.note(f"{event.sentence}{more}")

    def close(self) -> None:
        """Remove the bar. The next event opens a new one."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._phase, self._people = None, None, ""

    def _move(self, event: Event, total: int, done: int, about: str, unit: str = "step") -> None:
        if self._phase is not type(event):
            self.close()
            self._phase = type(event)
            # A resumed run starts where it stopped, and its remaining time is estimated from there.
            self._bar = self.console.bar(total, about, unit=unit)
            self._bar.initial = self._bar.n = done - 1
        self._bar.update(done - self._bar.n)


@contextlib.contextmanager
def interruptible_bar(console: Console, about: str, interrupt: threading.Event) -> Iterator[LearnBar]:
    """A bar during which Ctrl-C, SIGTERM and a closed terminal set ``interrupt``. The second of them stops at once."""

    def on_signal(_signal: int, _frame: Any) -> None:
        if interrupt.is_set():
            raise KeyboardInterrupt
        interrupt.set()
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            console.note("Stopping after this step ... (Ctrl-C again stops at once, with what was saved on the way)")

    bar = LearnBar(console, about)
    before: dict[int, Any] = {}
    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # the last is Windows' own
            number = getattr(signal, name, None)
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):  # nohup
                continue
            with contextlib.suppress(ValueError):  # not the main thread: the program that calls us handles signals
                before[number] = signal.signal(number, on_signal)
        yield bar
    finally:
        bar.close()
        for number, handler in before.items():
            signal.signal(number, handler)
