"""The units of work that executors hand out: plain data, so that they travel to another process as they are."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from celeb_basis.learning.events import Event, PersonProgress
from celeb_basis.settings import LearnSettings
from celeb_basis.views.pool import Person

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PersonPhotos:
    """Somebody to learn, and the picture files to learn from."""

    name: str
    photos: tuple[Path, ...]
    faces: tuple[int | None, ...] = ()
    """Which face of each photo, in place of :attr:`Job.face`; empty where that serves all of them."""


@dataclass(frozen=True)
class Job:
    """People who are learned in one run and share its head."""

    people: tuple[PersonPhotos, ...]
    settings: LearnSettings
    face: int | None = None
    """Which face of each photo, counted from 0 by falling size; the largest if ``None``."""
    consent: str = ""
    state: Path | None = None
    """Where the learner's state is kept when it is interrupted or fails; nowhere if ``None``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the people."""
        return tuple(person.name for person in self.people)


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    names: tuple[str, ...]
    identities: tuple[bytes, ...] = ()
    """Content of the identity files, one a person; empty if it failed or was interrupted."""
    progress: Mapping[str, PersonProgress] = field(default_factory=dict)
    """Where each person's coefficients ended."""
    reason: str = ""
    """``"all steps done"``, ``"settled"`` or ``"interrupted"``."""
    steps: int = 0
    seconds: float = 0.0
    """Time spent in steps."""
    warnings: tuple[str, ...] = ()
    """Sentences about the photos."""
    error: str = ""
    """The sentence that says why it failed, or what an interruption left; empty if there is nothing to say."""
    state: Path | None = None
    """The state that was kept, if one was."""


@dataclass(frozen=True)
class PortraitsFound(Event):
    """Everybody's face has been found; views are encoded next."""

    people: tuple[Person, ...]

    def as_dict(self) -> dict[str, Any]:
        """Names and warnings, without the pictures."""
        return {
            "event": type(self).__name__,
            "people": {
                person.name: [warning for portrait in person.portraits for warning in portrait.warnings]
                for person in self.people
            },
        }


class Interrupt:
    """A wish to stop that is looked at between two steps; safe to state in a signal handler or another thread."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self) -> None:
        """End the run under way after its step, and begin no other."""
        self.asked = True


class LearnsPeople(Protocol):
    """What an executor needs of a worker; :class:`celeb_basis.executors.worker.Worker` is the real one."""

    def learn(self, job: Job, interrupt: Interrupt) -> Generator[Event, None, Outcome]:
        """Learn a job's people, yielding what happens.

        Raises: :class:`CelebBasisError` for whatever is wrong with the job.
        """


def follow(running: Generator[Event, None, _Result], on_event: Callable[[Event], None]) -> _Result:
    """Run to the end, tell ``on_event`` everything on the way, and return the result."""
    while True:
        try:
            event = next(running)
        except StopIteration as done:
            result: _Result = done.value
            return result
        on_event(event)
