"""How long learning took on this machine, so that the page can say what each preset takes before it is chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.errors import FileError
from celeb_basis.events import DrawingNames, Event, Preparing, StepDone
from celeb_basis.files import read_bytes, write_json
from celeb_basis.reading import parse_json
from celeb_basis.settings import AUTO, PRESETS, TrainingSettings, automatic_preset
from celeb_basis.templating import duration

_MOST_BYTES = 64 << 10
_MOST_KINDS = 200
"""Combinations of model and device that are remembered; the oldest are forgotten."""
_LEAST_STEPS = 10
"""Steps from which on their pace counts: the first ones are slower."""
_KINDS = ("view", "step", "name")


@dataclass(frozen=True)
class Pace:
    """Seconds of the parts of a run; ``None`` for what was not measured."""

    view: float | None = None
    """To prepare a view."""
    step: float | None = None
    """To learn from one batch of two views."""
    name: float | None = None
    """To generate a celebrity."""

    def seconds(self, settings: TrainingSettings) -> float | None:
        """Seconds of a run that does not stop early, without the celebrities; ``None`` while unknown."""
        if self.view is None or self.step is None:
            return None
        batches = settings.batch_size * settings.accumulation / TrainingSettings().batch_size
        return settings.views * self.view + settings.steps * batches * self.step


class Stopwatch:
    """Measures the pace of a run by its events."""

    def __init__(self, settings: TrainingSettings) -> None:
        self._batches = settings.batch_size * settings.accumulation / TrainingSettings().batch_size
        self._begun: dict[str, tuple[float, int]] = {}
        self._paces: dict[str, float] = {}

    def add(self, event: Event) -> None:
        """Take the time of an event."""
        if isinstance(event, StepDone):
            self._count("step", event.step, _LEAST_STEPS)
        elif isinstance(event, Preparing):
            self._count("view", event.done, 2)
        elif isinstance(event, DrawingNames):
            self._count("name", event.done, 2)

    def _count(self, kind: str, done: int, least: int) -> None:
        now = time.monotonic()
        begun, first = self._begun.setdefault(kind, (now, done))
        if done - first >= least:
            self._paces[kind] = (now - begun) / (done - first) / (self._batches if kind == "step" else 1)

    @property
    def pace(self) -> Pace:
        """What was measured so far."""
        return Pace(**self._paces)


class Timings:
    """The paces of models on devices, in a file among the caches. A file that cannot be read counts as an empty one."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self, model: DiffusionModel) -> Pace:
        """The pace of learning on models of this kind on this device."""
        known = self._stored().get(_kind(model))
        return Pace(**{name: _seconds(known.get(name)) for name in _KINDS}) if isinstance(known, dict) else Pace()

    @contextmanager
    def measuring(self, model: DiffusionModel, settings: TrainingSettings) -> Iterator[Stopwatch]:
        """Save the pace of a run, however it ends, if the file can be written: a forecast is not worth a run."""
        watch = Stopwatch(settings)
        try:
            yield watch
        finally:
            with suppress(FileError):
                self.note(model, watch.pace)

    def note(self, model: DiffusionModel, pace: Pace) -> None:
        """Save a pace; what it does not know stays as it was.

        Raises:
            FileError: The file cannot be written.
        """
        measured = {name: value for name in _KINDS if (value := getattr(pace, name)) is not None}
        if not measured:
            return
        stored, kind = self._stored(), _kind(model)
        before = stored.pop(kind, {})
        stored[kind] = {**(before if isinstance(before, dict) else {}), **measured}
        write_json(self._file, dict(list(stored.items())[-_MOST_KINDS:]))

    def _stored(self) -> dict[str, Any]:
        try:
            stored = parse_json(read_bytes(self._file, _MOST_BYTES))
        except (FileError, ValueError):
            return {}
        return stored if isinstance(stored, dict) else {}


def preset_costs(pace: Pace, prepared: bool | None = None) -> dict[str, str]:
    """What each preset takes, in a few words: its time where the pace is known, else its steps.

    Args:
        pace: What is known of the checkpoint's pace.
        prepared: Whether the checkpoint is prepared; ``None`` while that is unknown.
    """
    costs = {name: _cost(settings, pace, prepared) for name, settings in PRESETS.items()}
    if prepared is None:
        return {AUTO: "Quick if the checkpoint is prepared, else Balanced", **costs}
    chosen = automatic_preset(prepared=prepared)
    return {AUTO: f"{chosen.capitalize()} here: {costs[chosen]}", **costs}


def preparation_offer(pace: Pace) -> str:
    """A sentence that offers to prepare a checkpoint, with the minutes where they are known."""
    once = "as long as about 50 images" if pace.name is None else f"about {_rounded(_preparation(pace.name))}"
    return (
        f"This checkpoint is not prepared, so Automatic is Balanced. Prepare it once ({once}): from then on, Automatic is "
        "Quick here, which takes a fifth of the steps."
    )


def _cost(settings: TrainingSettings, pace: Pace, prepared: bool | None) -> str:
    seconds = pace.seconds(settings)
    if seconds is None:
        cost = f"{settings.steps:,} steps"
    else:
        cost = f"{'up to' if settings.early_stop else 'about'} {_rounded(seconds)}"
    if settings.start != "guess" or prepared:
        return cost
    once = "" if pace.name is None else f" (about {_rounded(_preparation(pace.name, settings))})"
    return f"{cost}, after preparing the checkpoint once{once}"


def _preparation(seconds: float, settings: TrainingSettings = PRESETS["quick"]) -> float:
    """Seconds to generate the celebrities, from those of one."""
    return settings.celebrities * seconds


def _rounded(seconds: float) -> str:
    """A duration as precise as a forecast is."""
    if seconds < 90:
        return duration(max(5, 5 * round(seconds / 5)))
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _kind(model: DiffusionModel) -> str:
    info = model.info
    return f"{info.family} {info.resolution} {model.device}"


def _seconds(value: Any) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e6
    return float(value) if usable else None
