"""A loaded model with face networks and names, that learns one job after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from celeb_basis.basis.build import BasisOptions, BuiltBasis, build_bases, most_components
from celeb_basis.errors import HostError, LearningError, NotFiniteError
from celeb_basis.executors.work import Interrupt, Job, Outcome, PortraitsFound
from celeb_basis.faces.portraits import portrait
from celeb_basis.faces.types import FaceNetwork
from celeb_basis.files import cache_folder
from celeb_basis.hosts.base import Host
from celeb_basis.identities.format import identity_to_bytes
from celeb_basis.learning.events import Event, Finished
from celeb_basis.learning.first_guess import FirstGuess, first_guesses
from celeb_basis.learning.learner import Learner
from celeb_basis.learning.name_faces import draw_name_faces
from celeb_basis.learning.people import make_identities, prepare_learner, training_size
from celeb_basis.learning.precision import make_scaler, resolve_precision
from celeb_basis.learning.progress import person_progress
from celeb_basis.learning.state import resume_learner, save_state, state_consent, state_settings
from celeb_basis.miniature.shipped import NAME_FACES
from celeb_basis.names.lists import NameList
from celeb_basis.photos import open_photo
from celeb_basis.views.pool import Person

_Result = TypeVar("_Result")

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
        host: Host,
        names: NameList,
        faces: FaceNetwork | None,
        *,
        watch: Callable[[Learner], None] | None = None,
    ) -> None:
        self.host, self.names, self.faces, self.watch = host, names, faces, watch
        self._built: dict[int, tuple[BuiltBasis, ...]] = {}

    def built_bases(self, components: int) -> tuple[BuiltBasis, ...]:
        """The model's bases with ``components`` components.

        Raises: :class:`NamesError` or :class:`BasisError` for a list that is too short for them.
        """
        if components not in self._built:
            options = BasisOptions(components=components)
            cache = cache_folder() / "bases"
            self._built[components] = build_bases(self.host.text_encoders, self.names, options, cache=cache)
        return self._built[components]

    def learn(self, job: Job, interrupt: Interrupt) -> Generator[Event, None, Outcome]:
        """Learn a job's people, yielding what happens.

        Raises: :class:`CelebBasisError` for whatever is wrong with the job; :class:`NotFiniteError`, and
        :class:`HostError` for a checkpoint that was switched meanwhile, after the last good state was kept in
        ``job.state``.
        """
        if self.faces is None:
            raise LearningError("Learning needs a face model pack: give one.")
        job, warnings = self._fitted(job)
        bases = [built.basis for built in self.built_bases(job.settings.components)]
        people = tuple(self._portraits(job))
        yield PortraitsFound(people)
        warnings += tuple(warning for person in people for one in person.portraits for warning in one.warnings)
        guesses: tuple[FirstGuess, ...] = ()
        if job.settings.start == "guess":
            kept = cache_folder() / "name-faces"
            drawing = draw_name_faces(self.host, bases[0].names, self.faces, kept, known=[NAME_FACES])
            if (drawn := (yield from _until(drawing, interrupt))) is None:
                return Outcome(job.names, reason="interrupted", warnings=warnings)
            guesses = first_guesses(bases, drawn)
        preparing = prepare_learner(self.host, bases, people, self.faces, job.settings, guesses=guesses)
        if (learner := (yield from _until(preparing, interrupt))) is None:
            return Outcome(job.names, reason="interrupted", warnings=warnings)
        return (yield from self._run(learner, job.consent, job.state, warnings, interrupt))

    def resume(
        self,
        path: Path,
        changes: Mapping[str, Any],
        interrupt: Interrupt,
        *,
        consent: str = "",
        state: Path | None = None,
    ) -> Generator[Event, None, Outcome]:
        """Go on with the run kept in ``path``; its state is kept there again, or in ``state``.

        Parameters: ``changes`` are settings that replace the kept ones; only :data:`CHANGEABLE` may change. Without another
        ``consent``, the note that the run was begun with is kept.

        Raises: :class:`LearningError` for a state of no use, another model, or a setting that cannot change.
        """
        settings = state_settings(path)
        wanted = settings.changed(changes)
        for name in sorted(set(changes) - CHANGEABLE):
            if getattr(wanted, name) != getattr(settings, name):
                raise LearningError(
                    f"{path.name} was begun with {name} = {getattr(settings, name)}, which cannot change on the way: "
                    "leave that setting out, or learn anew."
                )
        bases = [built.basis for built in self.built_bases(settings.components)]
        learner = resume_learner(path, self.host, bases)
        _apply(learner, {name: getattr(wanted, name) for name in changes})
        return (yield from self._run(learner, consent or state_consent(path), state or path, (), interrupt))

    def _fitted(self, job: Job) -> tuple[Job, tuple[str, ...]]:
        """The job with no more components than the model's token vectors have numbers, and a sentence if that changes it."""
        widest = most_components(self.host.text_encoders)
        wanted = job.settings.components
        if wanted <= widest:
            return job, ()
        told = f"This model's token vectors have {widest} numbers: {widest} components are learned, not {wanted}."
        return replace(job, settings=replace(job.settings, components=widest)), (told,)

    def _portraits(self, job: Job) -> Generator[Person, None, None]:
        assert self.faces is not None
        size = training_size(self.host, job.settings)
        for person in job.people:
            chosen = person.faces or (job.face,) * len(person.photos)
            portraits = [
                portrait(open_photo(path), self.faces, size=size, choose=face, source=path.name)
                for path, face in zip(person.photos, chosen, strict=True)
            ]
            yield Person(person.name, portraits)

    def _run(
        self, learner: Learner, consent: str, state: Path | None, warnings: tuple[str, ...], interrupt: Interrupt
    ) -> Generator[Event, None, Outcome]:
        names = tuple(person.name for person in learner.pool.people)
        reason = ""
        try:
            for event in learner.run():
                yield event
                if isinstance(event, Finished):
                    reason = event.reason
                    continue
                if self.watch is not None:
                    self.watch(learner)
                if interrupt.asked:
                    learner.interrupt()
        except (NotFiniteError, HostError) as error:
            if state is None:
                raise
            save_state(learner, state, consent=consent)
            raise type(error)(f"{error} To go on from there, resume {state}.") from error
        if reason == "interrupted":
            if state is not None:
                save_state(learner, state, consent=consent)
            return Outcome(names, reason=reason, steps=learner.step, warnings=warnings, state=state)
        return Outcome(
            names,
            identities=tuple(identity_to_bytes(identity) for identity in make_identities(learner, consent=consent)),
            progress={
                one.name: person_progress(learner.bases, one.coefficients, learner.tracker.movement(index))
                for index, one in enumerate(learner.results())
            },
            reason=reason,
            steps=learner.step,
            seconds=learner.seconds,
            warnings=warnings,
        )


def _until(running: Generator[Event, None, _Result], interrupt: Interrupt) -> Generator[Event, None, _Result | None]:
    """What ``running`` returns; ``None``, and its end, as soon as somebody interrupts."""
    while True:
        try:
            event = next(running)
        except StopIteration as done:
            result: _Result = done.value
            return result
        yield event
        if interrupt.asked:
            running.close()
            return None


def _apply(learner: Learner, changes: Mapping[str, Any]) -> None:
    """Change the settings of a learner that is about to go on; optimizer moments and averages stay."""
    learner.settings = learner.settings.changed(changes)
    for group in learner.optimizer.param_groups:
        group["lr"] = learner.settings.learning_rate
        group["weight_decay"] = learner.settings.weight_decay
    if "precision" in changes:
        learner.precision = resolve_precision(learner.settings.precision, learner.host.dtype, learner.host.device)
        learner.scaler = make_scaler(learner.host.device, learner.precision)
