"""A loaded model with face networks and names, that learns one job after the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from celeb_basis.basis import BasisOptions, BuiltBasis, build_bases, most_components
from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.errors import HostError, NotFiniteError, TrainingError, error_message, is_user_error
from celeb_basis.events import Event, Finished, PersonProgress, Preparing
from celeb_basis.faces.portraits import portrait
from celeb_basis.faces.types import FaceNetwork
from celeb_basis.files import cache_folder
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Identity, identity_to_bytes
from celeb_basis.method import Basis, ScaledCoefficients
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.names.lists import NameList
from celeb_basis.photos import open_photo
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.dataset import Person, encode_views
from celeb_basis.training.first_guess import FirstGuess, first_guesses, generate_celebrity_faces, guessed
from celeb_basis.training.precision import make_scaler, resolve_precision
from celeb_basis.training.state import resume_trainer, save_state, state_consent, state_settings
from celeb_basis.training.trainer import Trainer, person_progress

# FOLDED: The units of work that executors hand out: plain data, so that they travel to another process as they
# FOLDED: are.

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PhotoInput:
    """Somebody to learn, and the picture files to learn from."""

    name: str
    photos: tuple[Path, ...]
    faces: tuple[int | None, ...] = ()
    """Which face of each photo, in place of :attr:`Job.face`; empty where that serves all of them."""


@dataclass(frozen=True)
class TrainingTask:
    """People who are learned in one run and share its head."""

    people: tuple[PhotoInput, ...]
    settings: TrainingSettings
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


class TaskRunner(Protocol):
    """What an executor needs of a worker; :class:`celeb_basis.training.run.Worker` is the real one."""

    def learn(self, job: TrainingTask, interrupt: threading.Event) -> Generator[Event, None, Outcome]:
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


# FOLDED: The two ends of learning: from people's portraits to a learner, and from a learner to identities.

# The views' random numbers come from a stream of their own: a learner that is resumed does not draw them again.
_VIEWS_STREAM = 0x5EED_0000_0000


def training_size(model: DiffusionModel, settings: TrainingSettings) -> int:
    """Side of the training pictures in pixels: the setting's, or the checkpoint's own."""
    return settings.size or model.info.resolution


def prepare_trainer(
    model: DiffusionModel,
    bases: Sequence[Basis],
    people: Sequence[Person],
    faces: FaceNetwork,
    settings: TrainingSettings,
    *,
    guesses: Sequence[FirstGuess] = (),
) -> Generator[Preparing, None, Trainer]:
    """Encode everybody's views, yielding progress, and return the learner that is ready to run.

    The people's portraits are squares of :func:`training_size` pixels. ``guesses``, one a text encoder, say where
    coefficients begin if the settings' start is a guess.
    """
    generator = torch.Generator().manual_seed(settings.seed + _VIEWS_STREAM)
    pool = yield from encode_views(
        model, people, faces, views=settings.views, smallest=settings.smallest, generator=generator
    )
    trainer = Trainer(model, bases, pool, settings)
    if settings.start == "guess" and isinstance(trainer.module, ScaledCoefficients):
        trainer.module.initialize_from(
            torch.stack([_guess(bases, guesses, person, settings.shared) for person in people])
        )
    return trainer


def _guess(bases: Sequence[Basis], guesses: Sequence[FirstGuess], person: Person, shared: bool) -> torch.Tensor:
    """``(G, E, K)``: where one person's photos say that learning begins."""
    vector = torch.from_numpy(np.mean([one.vector for one in person.portraits], axis=0))
    coefficients = torch.stack(guessed(bases, guesses, torch.nn.functional.normalize(vector, dim=0)))
    return coefficients.mean(dim=0, keepdim=True) if shared else coefficients


def make_identities(trainer: Trainer, *, consent: str = "", notes: str = "") -> tuple[Identity, ...]:
    """What ``learner`` has learned so far, as identities for the model it learned on.

    Parameters: ``consent`` is the user's note on the people's consent, kept in every identity.
    """
    settings = trainer.settings
    return tuple(
        new_identity(
            learned.name,
            learned.coefficients,
            trainer.bases,
            trainer.model.info,
            face_model=trainer.pool.face_model if settings.mode == "head" or settings.start == "guess" else "",
            steps=trainer.step,
            settings=settings.as_dict(),
            consent=consent,
            notes=notes,
            thumbnail=learned.thumbnail or None,
        )
        for learned in trainer.results()
    )


CHANGEABLE = frozenset(
    {"steps", "batch_size", "accumulation", "learning_rate", "weight_decay", "precision", "checkpointing"}
    | {"describe", "early_stop", "settled"}
)
"""Settings that may change when a run is resumed. The others are part of what has been learned so far."""


class Worker:
    """Learns people on one model. Bases are built once for each number of components.

    Parameters: ``faces`` may be ``None`` where only runs are resumed: their views are already encoded. ``watch`` is shown
    the learner after every step, to draw a preview, say; it changes nothing of it.
    """

    def __init__(
        self,
        model: DiffusionModel,
        names: NameList,
        faces: FaceNetwork | None,
        *,
        watch: Callable[[Trainer], None] | None = None,
    ) -> None:
        self.model, self.names, self.faces, self.watch = model, names, faces, watch
        self._built: dict[int, tuple[BuiltBasis, ...]] = {}

    def built_bases(self, components: int) -> tuple[BuiltBasis, ...]:
        """The model's bases with ``components`` components.

        Raises: :class:`NamesError` or :class:`BasisError` for a list that is too short for them.
        """
        if components not in self._built:
            options = BasisOptions(components=components)
            cache = cache_folder() / "bases"
            self._built[components] = build_bases(self.model.text_encoders, self.names, options, cache=cache)
        return self._built[components]

    def learn(self, job: TrainingTask, interrupt: threading.Event) -> Generator[Event, None, Outcome]:
        """Learn a job's people, yielding what happens.

        Raises: :class:`CelebBasisError` for whatever is wrong with the job; :class:`NotFiniteError`, and
        :class:`HostError` for a checkpoint that was switched meanwhile, after the last good state was kept in
        ``job.state``.
        """
        if self.faces is None:
            raise TrainingError("Learning needs a face model pack: give one.")
        job, warnings = self._fitted(job)
        bases = [built.basis for built in self.built_bases(job.settings.components)]
        people = tuple(self._portraits(job))
        yield PortraitsFound(people)
        warnings += tuple(warning for person in people for one in person.portraits for warning in one.warnings)
        guesses: tuple[FirstGuess, ...] = ()
        if job.settings.start == "guess":
            kept = cache_folder() / "name-faces"
            drawing = generate_celebrity_faces(self.model, bases[0].names, self.faces, kept, known=[CELEBRITY_FACES])
            if (drawn := (yield from _until(drawing, interrupt))) is None:
                return Outcome(job.names, reason="interrupted", warnings=warnings)
            guesses = first_guesses(bases, drawn)
        preparing = prepare_trainer(self.model, bases, people, self.faces, job.settings, guesses=guesses)
        if (trainer := (yield from _until(preparing, interrupt))) is None:
            return Outcome(job.names, reason="interrupted", warnings=warnings)
        return (yield from self._run(trainer, job.consent, job.state, warnings, interrupt))

    def resume(
        self,
        path: Path,
        changes: Mapping[str, Any],
        interrupt: threading.Event,
        *,
        consent: str = "",
        state: Path | None = None,
    ) -> Generator[Event, None, Outcome]:
        """Go on with the run kept in ``path``; its state is kept there again, or in ``state``.

        Parameters: ``changes`` are settings that replace the kept ones; only :data:`CHANGEABLE` may change. Without another
        ``consent``, the note that the run was begun with is kept.

        Raises: :class:`TrainingError` for a state of no use, another model, or a setting that cannot change.
        """
        settings = state_settings(path)
        wanted = settings.changed(changes)
        for name in sorted(set(changes) - CHANGEABLE):
            if getattr(wanted, name) != getattr(settings, name):
                raise TrainingError(
                    f"{path.name} was begun with {name} = {getattr(settings, name)}, which cannot change on the way: "
                    "leave that setting out, or learn anew."
                )
        bases = [built.basis for built in self.built_bases(settings.components)]
        trainer = resume_trainer(path, self.model, bases)
        _apply(trainer, {name: getattr(wanted, name) for name in changes})
        return (yield from self._run(trainer, consent or state_consent(path), state or path, (), interrupt))

    def _fitted(self, job: TrainingTask) -> tuple[TrainingTask, tuple[str, ...]]:
        """The job with no more components than the model's token vectors have numbers, and a sentence if that changes it."""
        widest = most_components(self.model.text_encoders)
        wanted = job.settings.components
        if wanted <= widest:
            return job, ()
        told = f"This model's token vectors have {widest} numbers: {widest} components are learned, not {wanted}."
        return replace(job, settings=replace(job.settings, components=widest)), (told,)

    def _portraits(self, job: TrainingTask) -> Generator[Person, None, None]:
        assert self.faces is not None
        size = training_size(self.model, job.settings)
        for person in job.people:
            chosen = person.faces or (job.face,) * len(person.photos)
            portraits = [
                portrait(open_photo(path), self.faces, size=size, choose=face, source=path.name)
                for path, face in zip(person.photos, chosen, strict=True)
            ]
            yield Person(person.name, portraits)

    def _run(
        self, trainer: Trainer, consent: str, state: Path | None, warnings: tuple[str, ...], interrupt: threading.Event
    ) -> Generator[Event, None, Outcome]:
        names = tuple(person.name for person in trainer.pool.people)
        reason = ""
        try:
            for event in trainer.run():
                yield event
                if isinstance(event, Finished):
                    reason = event.reason
                    continue
                if self.watch is not None:
                    self.watch(trainer)
                if interrupt.is_set():
                    trainer.interrupt()
        except (NotFiniteError, HostError) as error:
            if state is None:
                raise
            save_state(trainer, state, consent=consent)
            raise type(error)(f"{error} To go on from there, resume {state}.") from error
        if reason == "interrupted":
            if state is not None:
                save_state(trainer, state, consent=consent)
            return Outcome(names, reason=reason, steps=trainer.step, warnings=warnings, state=state)
        return Outcome(
            names,
            identities=tuple(identity_to_bytes(identity) for identity in make_identities(trainer, consent=consent)),
            progress={
                one.name: person_progress(trainer.bases, one.coefficients, trainer.tracker.movement(index))
                for index, one in enumerate(trainer.results())
            },
            reason=reason,
            steps=trainer.step,
            seconds=trainer.seconds,
            warnings=warnings,
        )


def _until(
    running: Generator[Event, None, _Result], interrupt: threading.Event
) -> Generator[Event, None, _Result | None]:
    """What ``running`` returns; ``None``, and its end, as soon as somebody interrupts."""
    while True:
        try:
            event = next(running)
        except StopIteration as done:
            result: _Result = done.value
            return result
        yield event
        if interrupt.is_set():
            running.close()
            return None


def _apply(trainer: Trainer, changes: Mapping[str, Any]) -> None:
    """Change the settings of a learner that is about to go on; optimizer moments and averages stay."""
    trainer.settings = trainer.settings.changed(changes)
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.settings.learning_rate
        group["weight_decay"] = trainer.settings.weight_decay
    if "precision" in changes:
        trainer.precision = resolve_precision(trainer.settings.precision, trainer.model.dtype, trainer.model.device)
        trainer.scaler = make_scaler(trainer.model.device, trainer.precision)


# FOLDED: One job after the other, in this process.

_log = logging.getLogger(__name__)


def run_local(
    worker: TaskRunner,
    jobs: Sequence[TrainingTask],
    interrupt: threading.Event,
    on_event: Callable[[TrainingTask, Event], None],
) -> Iterator[Outcome]:
    """Learn ``jobs`` in their order and yield how each ended; one that fails stops no other.

    Parameters: ``on_event`` is told everything that happens meanwhile.
    """
    for job in jobs:
        if interrupt.is_set():
            return
        yield _outcome(worker, job, interrupt, on_event)


def run_one(
    worker: TaskRunner, job: TrainingTask, interrupt: threading.Event, on_event: Callable[[TrainingTask, Event], None]
) -> Outcome:
    """Learn one job.

    Raises: :class:`CelebBasisError` if it fails.
    """
    return follow(worker.learn(job, interrupt), lambda event: on_event(job, event))


def failure(job: TrainingTask, error: Exception) -> Outcome:
    """The outcome of a job that ended with ``error``."""
    if not is_user_error(error):
        _log.error("%s failed", ", ".join(job.names), exc_info=error)
    return Outcome(job.names, error=error_message(error))


def _outcome(
    worker: TaskRunner, job: TrainingTask, interrupt: threading.Event, on_event: Callable[[TrainingTask, Event], None]
) -> Outcome:
    try:
        return run_one(worker, job, interrupt, on_event)
    except Exception as error:
        return failure(job, error)
