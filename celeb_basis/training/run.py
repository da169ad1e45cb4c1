"""Run training tasks on a loaded model: from people's photos to their identities, with progress events on the way.

:class:`TrainingSession` is the whole way through the method; :func:`run_local` runs tasks one after the other in this
process, :mod:`celeb_basis.training.ray_executor` spreads them over a cluster. Tasks and results are plain data, so that
they can travel to another process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from celeb_basis.basis import BasisOptions, BuiltBasis, build_bases, fitting_components
from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.errors import HostError, NotFiniteError, OutOfMemoryError, TrainingError, error_message, is_user_error
from celeb_basis.events import Event, Finished, PersonProgress, Preparing, StepDone, Warned, follow, until_set
from celeb_basis.faces.network import FaceNetwork, Portrait
from celeb_basis.faces.portraits import likeness_warnings, portrait
from celeb_basis.files import bases_cache
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Identity, check_note, identity_from_bytes, identity_to_bytes
from celeb_basis.method import Basis, ScaledCoefficients
from celeb_basis.names.lists import NameList
from celeb_basis.photos import open_photo
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.dataset import PortraitsFound as PortraitsFound
from celeb_basis.training.dataset import encode_views
from celeb_basis.training.first_guess import (
    FirstGuess,
    celebrity_faces_for,
    choose_preset,
    first_guesses,
    guess_for_portraits,
    unexplained,
)
from celeb_basis.training.memory import estimate
from celeb_basis.training.run_lock import running
from celeb_basis.training.state import StateSaver, read_summary, resume_trainer
from celeb_basis.training.tracking import KnownNames
from celeb_basis.training.trainer import Trainer

_log = logging.getLogger(__name__)

CHANGEABLE = frozenset(
    {"steps", "batch_size", "accumulation", "learning_rate", "weight_decay", "precision", "checkpointing"}
    | {"cuda_graph"}
    | {"describe", "early_stop", "settled"}
)
"""Settings that may change when a run is resumed. The others are part of what has been learned so far."""

# The views' random numbers come from a stream of their own: a trainer that is resumed does not draw them again.
_VIEWS_STREAM = 0x5EED_0000_0000


@dataclass(frozen=True)
class PhotoInput:
    """A person to learn, and the picture files to learn from."""

    name: str
    photos: tuple[Path, ...]
    faces: tuple[int | None, ...] = ()
    """Which face of each photo, in place of :attr:`TrainingTask.face`; empty if that applies to all photos."""


@dataclass(frozen=True)
class TrainingTask:
    """People who are learned in one run, and share the head if there is one.

    Raises:
        TrainingError: At construction, if two people have the same name.
        IdentityError: At construction, if no identity can store the note on consent.
    """

    people: tuple[PhotoInput, ...]
    settings: TrainingSettings
    face: int | None = None
    """Which face of each photo, counted from 0 by decreasing size; the largest if ``None``."""
    consent: str = ""
    """The user's note on the people's consent, stored in every identity."""
    state: Path | None = None
    """Where the trainer's state is saved on the way and when the run is interrupted or fails; nowhere if ``None``.

    After the last step it is for the caller to delete, as soon as the identities are saved."""
    begun: float = field(default_factory=time.time, compare=False)
    """When the user asked for it, a :func:`time.time`: who is deleted after that is not to come back."""
    if_prepared: TrainingSettings | None = None
    """Settings that are used instead where the checkpoint is prepared (:func:`celeb_basis.settings.if_prepared`)."""

    def __post_init__(self) -> None:
        names = [name.casefold() for name in self.names]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise TrainingError(f"Two people are both called {repeated[0]!r}: give each a name of their own.")
        check_note(self.consent, "note on consent")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the people."""
        return tuple(person.name for person in self.people)


@dataclass(frozen=True)
class TrainingResult:
    """How a training task ended."""

    names: tuple[str, ...]
    identities: tuple[bytes, ...] = ()
    """Content of the identity files, one per person; empty if the task failed or was interrupted."""
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
    """The sentence that says why the task failed, or what an interruption left; empty if there is nothing to say."""
    state: Path | None = None
    """The saved state, if there is one. After a run that was completed, it is of use only until its identities are saved."""


class TaskRunner(Protocol):
    """What an executor needs: something that runs one task. :class:`TrainingSession` is the real one."""

    def learn(self, task: TrainingTask, interrupt: threading.Event) -> Generator[Event, None, TrainingResult]:
        """Learn the people of a task, yielding progress.

        Raises:
            CelebBasisError: For whatever is wrong with the task.
        """


class TrainingSession(TaskRunner):
    """A loaded model with face networks and a list of names, on which tasks run one after the other."""

    def __init__(
        self,
        model: DiffusionModel,
        names: NameList,
        faces: FaceNetwork | None,
        *,
        known_faces: Sequence[Path] = (),
        on_step: Callable[[Trainer], None] | None = None,
    ) -> None:
        """Prepare a session; nothing is built yet.

        Args:
            model: The model to learn on.
            names: The celebrities' names from which bases are built, once for each number of components.
            faces: May be ``None`` if runs are only resumed: their views are encoded already.
            known_faces: Folders with files of celebrities' faces that come with a model; they need not be generated.
            on_step: Called with the trainer after every step, for example to generate a preview; it must not change it.
        """
        self.model, self.names, self.faces = model, names, faces
        self._known_faces, self._on_step = tuple(known_faces), on_step
        self._built: dict[int, tuple[BuiltBasis, ...]] = {}

    def built_bases(self, components: int) -> tuple[BuiltBasis, ...]:
        """The model's bases with ``components`` components, one per text encoder.

        Raises:
            NamesError: If the list has too few usable names.
            BasisError: If the names span too few dimensions.
        """
        if components not in self._built:
            options = BasisOptions(components=components)
            self._built[components] = build_bases(self.model.text_encoders, self.names, options, cache=bases_cache())
        return self._built[components]

    def learn(self, task: TrainingTask, interrupt: threading.Event) -> Generator[Event, None, TrainingResult]:
        """Learn the people of a task, yielding progress.

        Args:
            task: The people, their photos and the settings.
            interrupt: Cooperative cancellation flag, checked between steps.

        Raises:
            CelebBasisError: For whatever is wrong with the task.
            NotFiniteError: If the loss or a gradient is not finite; the last good state was saved to ``task.state``.
            OutOfMemoryError: If memory ran out, HostError: if the checkpoint was switched during the run; likewise.
        """
        if self.faces is None:
            raise TrainingError("Learning needs a face model pack: give one.")
        task, warnings = self._limit_components(task)
        bases = [built.basis for built in self.built_bases(task.settings.components)]
        if task.if_prepared is not None:
            choice = task.settings, task.if_prepared
            settings, chosen = choose_preset(self.model, bases, self.faces, choice, self._known_faces)
            task = replace(task, settings=settings)
            yield chosen
        settings = task.settings
        self._check_end(task, bases)
        need = estimate(self.model, settings)
        if warning := need.note if need.fits else need.sentence():
            yield Warned(warning)  # before anything takes time

        portraits = self._make_portraits(task, self.faces)
        yield PortraitsFound(portraits)
        warnings += tuple(text for of_person in portraits.values() for one in of_person for text in one.warnings)
        warnings += tuple(text for of_person in portraits.values() for text in likeness_warnings(of_person))

        guesses: tuple[FirstGuess, ...] = ()
        if settings.start == "guess":
            work = celebrity_faces_for(self.model, bases, self.faces, settings, self._known_faces)
            if (celebrity_faces := (yield from until_set(work, interrupt))) is None:
                return TrainingResult(task.names, reason="interrupted", warnings=warnings)
            guesses = first_guesses(bases, celebrity_faces)
            if warning := unexplained(bases, guesses):
                yield Warned(warning)
                warnings += (warning,)
            if not any(guess.informative for guess in guesses):
                settings = replace(settings, start="mean")  # what is recorded in the identity is what was done

        preparing = prepare_trainer(self.model, bases, portraits, self.faces, settings, guesses=guesses)
        if (trainer := (yield from until_set(preparing, interrupt))) is None:
            return TrainingResult(task.names, reason="interrupted", warnings=warnings)
        trainer.begun = task.begun
        return (yield from self._train(trainer, StateSaver(task.state, task.consent), warnings, interrupt))

    def resume(
        self,
        path: Path,
        changes: Mapping[str, Any],
        interrupt: threading.Event,
        *,
        consent: str = "",
        state: Path | None = None,
    ) -> Generator[Event, None, TrainingResult]:
        """Continue the run whose state was saved to ``path``.

        Args:
            path: The saved state.
            changes: Settings that replace the saved ones; only :data:`CHANGEABLE` may change.
            interrupt: Cooperative cancellation flag, checked between steps.
            consent: Replaces the note on consent that the run was started with, unless empty.
            state: Where the state is saved if the run is interrupted again; ``path`` if ``None``.

        Raises:
            TrainingError: For an unusable state, another model, or a setting that cannot change.
        """
        saved = read_summary(path)
        check_note(consent, "note on consent")
        settings = saved.settings.changed(changes)
        for name in sorted(set(changes) - CHANGEABLE):
            if getattr(settings, name) != (before := getattr(saved.settings, name)):
                raise TrainingError(
                    f"{path.name} was started with {name} = {before}, which cannot change when a run is resumed: leave "
                    "that setting out, or start again from the photos."
                )
        bases = [built.basis for built in self.built_bases(settings.components)]
        trainer = resume_trainer(path, self.model, bases)
        trainer.change_settings(changes)
        same = state is None or state.absolute() == path.absolute()
        saver = StateSaver(state or path, consent or saved.consent, saved=trainer.step if same else None)
        return (yield from self._train(trainer, saver, (), interrupt))

    def _check_end(self, task: TrainingTask, bases: Sequence[Basis]) -> None:
        """Raise now what would be raised when the identities are saved, which may be hours later."""
        nothing = [torch.zeros(basis.positions, basis.size) for basis in bases]
        for name in task.names:
            identity = new_identity(
                name, nothing, bases, self.model.info, settings=task.settings.as_dict(), consent=task.consent
            )
            identity_from_bytes(identity_to_bytes(identity))

    def _limit_components(self, task: TrainingTask) -> tuple[TrainingTask, tuple[str, ...]]:
        """The task with components that fit the model, and a warning if that changes a choice."""
        wanted = task.settings.components
        fitting = fitting_components(self.model.text_encoders, wanted)
        if wanted == fitting:
            return task, ()
        default = TrainingSettings().components  # which nobody has chosen
        warning = (
            f"{wanted} components are more than this model's token vectors have numbers: {fitting} are learned instead."
        )
        other = None if task.if_prepared is None else replace(task.if_prepared, components=fitting)
        limited = replace(task, settings=replace(task.settings, components=fitting), if_prepared=other)
        return limited, () if wanted == default else (warning,)

    def _make_portraits(self, task: TrainingTask, faces: FaceNetwork) -> dict[str, list[Portrait]]:
        """One portrait per photo, by the person's name."""
        size = training_size(self.model, task.settings)
        return {
            person.name: [
                portrait(open_photo(path), faces, size=size, choose=face, source=path.name)
                for path, face in zip(person.photos, person.faces or (task.face,) * len(person.photos), strict=True)
            ]
            for person in task.people
        }

    def _train(
        self, trainer: Trainer, saver: StateSaver, warnings: tuple[str, ...], interrupt: threading.Event
    ) -> Generator[Event, None, TrainingResult]:
        """Run the training loop to its end and make the identities, saving the state on the way."""
        names = tuple(person.name for person in trainer.pool.people)
        reason = ""
        try:
            if warning := saver.save_if_due(trainer):
                yield Warned(warning)
            for event in trainer.run(interrupt):
                yield event
                if isinstance(event, Finished):
                    reason = event.reason
                elif isinstance(event, StepDone):
                    if warning := saver.save_if_due(trainer):
                        yield Warned(warning)
                    if self._on_step is not None:
                        self._on_step(trainer)
        except (NotFiniteError, OutOfMemoryError, HostError) as error:
            if saver.path is None:
                raise
            if not saver.save(trainer):
                raise type(error)(f"{error} {saver.problem} {saver.where().capitalize()}.") from error
            raise type(error)(f"{error} To go on from there, resume {saver.path}.") from error
        # At the end as well, if saving failed before: the identities may meet the same full disk.
        if (reason == "interrupted" or saver.problem) and saver.path is not None and not saver.save(trainer):
            warnings += (f"The run could not be saved. {saver.problem} {saver.where().capitalize()}.",)
        state = None if saver.saved is None else saver.path
        if reason == "interrupted":
            return TrainingResult(names, reason=reason, steps=trainer.step, warnings=warnings, state=state)
        return TrainingResult(
            names,
            identities=tuple(map(identity_to_bytes, make_identities(trainer, consent=saver.consent))),
            progress={
                name: KnownNames(trainer.bases).progress(coefficients, trainer.tracker.movement(index))
                for index, (name, coefficients) in enumerate(trainer.results().items())
            },
            reason=reason,
            steps=trainer.step,
            seconds=trainer.seconds,
            warnings=warnings,
            state=state,
        )


def training_size(model: DiffusionModel, settings: TrainingSettings) -> int:
    """Side of the training pictures in pixels: the setting's, or the checkpoint's own."""
    return settings.size or model.info.resolution


def prepare_trainer(
    model: DiffusionModel,
    bases: Sequence[Basis],
    portraits: Mapping[str, Sequence[Portrait]],
    faces: FaceNetwork,
    settings: TrainingSettings,
    *,
    guesses: Sequence[FirstGuess] = (),
) -> Generator[Preparing, None, Trainer]:
    """Encode everyone's views, yielding progress, and return a trainer that is ready to run.

    Args:
        model: The model to learn on.
        bases: One per text encoder.
        portraits: By the person's name; squares of :func:`training_size` pixels.
        faces: The face network that embeds the views.
        settings: The recipe.
        guesses: One per text encoder: where coefficients start if ``settings.start`` is ``"guess"``.
    """
    generator = torch.Generator().manual_seed(settings.seed + _VIEWS_STREAM)
    pool = yield from encode_views(
        model, portraits, faces, views=settings.views, smallest=settings.smallest, generator=generator
    )
    trainer = Trainer(model, bases, pool, settings)
    if settings.start == "guess" and isinstance(trainer.module, ScaledCoefficients):
        starts = [guess_for_portraits(bases, guesses, one, shared=settings.shared) for one in portraits.values()]
        trainer.module.initialize_from(torch.stack(starts))
    return trainer


def make_identities(trainer: Trainer, *, consent: str = "", notes: str = "") -> tuple[Identity, ...]:
    """What ``trainer`` has learned so far, as identities for the model it learned on.

    Args:
        trainer: The trainer; every person must have been in a step.
        consent: The user's note on the people's consent, stored in every identity.
        notes: The user's own notes, stored in every identity.
    """
    settings = trainer.settings
    thumbnails = {person.name: person.thumbnail for person in trainer.pool.people}
    return tuple(
        new_identity(
            name,
            coefficients,
            trainer.bases,
            trainer.model.info,
            face_model=trainer.pool.face_model if settings.mode == "head" or settings.start == "guess" else "",
            steps=trainer.step,
            settings=settings.as_dict(),
            consent=consent,
            notes=notes,
            thumbnail=thumbnails[name] or None,
        )
        for name, coefficients in trainer.results().items()
    )


def run_local(
    runner: TaskRunner,
    tasks: Sequence[TrainingTask],
    interrupt: threading.Event,
    on_event: Callable[[TrainingTask, Event], None],
) -> Iterator[TrainingResult]:
    """Run ``tasks`` in order and yield how each ended; one that fails does not stop the others.

    Args:
        runner: Runs one task.
        tasks: What to run.
        interrupt: Cooperative cancellation flag; no task is started once it is set.
        on_event: Called with each task's events.
    """
    for task in tasks:
        if interrupt.is_set():
            return
        try:
            result = run_one(runner, task, interrupt, on_event)
        except Exception as error:
            result = failed_result(task, error)
        yield result


def run_one(
    runner: TaskRunner,
    task: TrainingTask,
    interrupt: threading.Event,
    on_event: Callable[[TrainingTask, Event], None] | None = None,
) -> TrainingResult:
    """Run one task.

    Raises:
        CelebBasisError: If it fails, or another program is running it.
    """
    with running(task.state, ", ".join(task.names)):
        return follow(runner.learn(task, interrupt), None if on_event is None else lambda event: on_event(task, event))


def failed_result(task: TrainingTask, error: Exception) -> TrainingResult:
    """The result of a task that ended with ``error``."""
    if not is_user_error(error):
        _log.error("%s failed", ", ".join(task.names), exc_info=error)
    state = task.state if task.state is not None and task.state.is_file() else None
    return TrainingResult(task.names, error=error_message(error), state=state)
