"""Learning as a job: photos kept only as long as they are needed, interrupted runs kept over a restart."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import (
    CelebBasisError,
    HostError,
    NotFiniteError,
    StoppedError,
    TrainingError,
    error_message,
    is_user_error,
)
from celeb_basis.events import Event, follow
from celeb_basis.files import checked_name, now, write_bytes, write_json
from celeb_basis.hosts.a1111.app import HostApp, open_loaded_model
from celeb_basis.identities.identity import Identity
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.provenance import marked
from celeb_basis.training.run import PhotoInput, PortraitsFound, TrainingResult, TrainingTask
from celeb_basis.webui.faces import told_download
from celeb_basis.webui.host_queue import HostQueue
from celeb_basis.webui.jobs import Job, JobQueue
from celeb_basis.webui.options import Paths
from celeb_basis.webui.schemas import LearnRequest
from celeb_basis.webui.tasks.evaluate import stopped_with

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.hosts.a1111.app import HostApp
    from celeb_basis.identities.library import Library
    from celeb_basis.names.lists import NameList
    from celeb_basis.training.trainer import Trainer
    from celeb_basis.webui.faces import Faces


# FOLDED: Pictures of the people while they are being learned, drawn between two steps through the same checkpoint.

_log = logging.getLogger(__name__)

KEPT = 24
"""Newest pictures of a job that are kept."""

_STEPS = 20
_PROMPT = "a photo of {}"


def previews(job: Job, host: HostApp, every: int, times: int = 0) -> Callable[[Trainer], None] | None:
    """What draws everybody of ``job`` with one seed, so that the pictures can be compared.

    Parameters: ``every`` is a number of steps; where it is 0, ``times`` of a whole run are spread over it evenly.
    """
    if every < 1 and times < 1:
        return None
    going_on = True

    def draw(trainer: Trainer) -> None:
        nonlocal going_on
        if not going_on or not is_due(trainer.step, trainer.total, every, times):
            return
        try:
            _draw(job, host, trainer)
        except Exception as error:  # of any kind: a preview is no reason to lose a run
            going_on = False
            told = error_message(error) if is_user_error(error) else f"{type(error).__name__}: {error}"
            _log.warning("No more previews of %s: %s", ", ".join(job.people), told, exc_info=not is_user_error(error))
            job.say("Learning", warnings=(*job.progress().warnings, f"There are no more previews: {told}"))

    return draw


def is_due(step: int, total: int, every: int, times: int) -> bool:
    """Whether there is a preview after ``step`` of ``total`` steps; see :func:`previews`."""
    if every:
        return step % every == 0 or step == total
    return step * times // total > (step - 1) * times // total


def _draw(job: Job, host: HostApp, trainer: Trainer) -> None:
    from celeb_basis.diffusion_model import GenerationRequest

    side = trainer.settings.size or trainer.model.info.resolution
    try:
        people = trainer.results()
    except TrainingError:  # somebody has not been in a step yet
        return
    for name, coefficients in people.items():
        if job.interrupt.is_set():
            return
        job.say(f"Drawing a preview of {name}")
        word = f"<{name}>"
        vectors = [basis.expand(one) for basis, one in zip(trainer.bases, coefficients, strict=True)]
        request = GenerationRequest(
            _PROMPT.format(word), placeholder_tokens={word: vectors}, seed=0, steps=_STEPS, width=side, height=side
        )
        with stopped_with(job, host):
            for image in trainer.model.generate(request):
                if job.interrupt.is_set() or host.stop_reason():
                    return  # this one may be half drawn
                image.info["title"] = f"{word} after {trainer.step} steps"
                job.pictures = (*job.pictures, marked(image, [word]))[-KEPT:]
    job.say("Learning")


_JOB_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class _Kept:
    """What going on needs beside the learner's state."""

    people: tuple[str, ...]
    consent: str
    notes: str
    replace: bool
    created: float
    preview_every: int = 0
    previews: int = 0
    """Where no number of steps was asked for: times in the run."""


class LearningJobs:
    """Begins, runs, keeps and resumes learning jobs.

    Parameters: ``library``, ``paths`` and ``names`` answer what is chosen at that moment.
    """

    def __init__(
        self,
        host_queue: HostQueue,
        queue: JobQueue,
        faces: Faces,
        *,
        library: Callable[[], Library],
        paths: Callable[[], Paths],
        names: Callable[[], NameList],
        previews: Callable[[], int] = lambda: 0,
    ) -> None:
        self._host, self._host_queue = host_queue.app, host_queue
        self._queue, self._faces = queue, faces
        self._library, self._paths, self._names, self._previews = library, paths, names, previews
        self._requests: dict[str, tuple[LearnRequest, tuple[PhotoInput, ...]]] = {}
        self._kept: dict[str, _Kept] = {}
        self._found: set[Path] = set()

    def start(self, request: LearnRequest) -> Job:
        """Queue a run. Photos are read when its turn comes.

        Raises: :class:`CelebBasisError` for a request that cannot be right.
        """
        request.check()
        job = Job("learn", tuple(checked_name(person.name) for person in request.people))
        folder = self._paths().uploads / job.id
        people = []
        for number, person in enumerate(request.people):
            files = []
            for index, photo in enumerate(person.photos):
                path = folder / str(number) / str(index) / _file_name(photo.name)
                write_bytes(path, photo.file_content())
                files.append(path)
            people.append(PhotoInput(job.people[number], tuple(files), tuple(photo.face for photo in person.photos)))
        # The bytes are on the disk now: they are not held in memory for as long as the job waits.
        slim = replace(request, people=())
        self._requests[job.id] = slim, tuple(people)
        consent = request.consent_note.strip() or f"Consent was confirmed by the user on {now()[:10]}."
        every = 0 if request.preview_every is None else max(0, request.preview_every)
        times = self._previews() if request.preview_every is None else 0
        self._kept[job.id] = _Kept(job.people, consent, request.notes, request.replace, job.created, every, times)
        self._queue.submit(job, self._learn)
        return job

    def resume(self, job_id: str) -> Job:
        """Queue an interrupted run again; it goes on where it stood, or begins anew if it had not begun to learn.

        Raises: :class:`TrainingError` if there is nothing to go on with.
        """
        self.find_unfinished()
        job = self._queue.job(job_id)
        if not job.finished:
            raise TrainingError("This job is still under way: interrupt it first, or let it end.")
        if not job.resumable:
            raise TrainingError("This job cannot go on: nothing of it was kept, so start a new one.")
        work = self._go_on if self._state(job).is_file() else self._learn
        job.interrupt = threading.Event()
        job.resumable = False
        job.set_state("queued")
        self._queue.submit(job, work)
        return job

    def find_unfinished(self) -> None:
        """Remember the runs that an earlier start of the program kept, and throw away its photos."""
        paths = self._paths()
        if paths.data in self._found:
            return
        self._found.add(paths.data)
        known = {job.id for job in self._queue.jobs()}
        with contextlib.suppress(OSError):
            for folder in paths.uploads.iterdir():
                if folder.name not in known:
                    shutil.rmtree(folder, ignore_errors=True)
        for path in sorted(paths.unfinished.glob("*.json")):
            if path.stem in known or not _JOB_ID.fullmatch(path.stem) or not path.with_suffix(".safetensors").is_file():
                continue
            try:
                described = json.loads(path.read_text("utf-8"))
                kept = _Kept(**described | {"people": tuple(map(checked_name, described["people"]))})
            except (OSError, ValueError, TypeError, KeyError, CelebBasisError) as error:
                _log.warning("%s is of no use: %s", path, error)
                continue
            job = Job("learn", kept.people, path.stem)
            job.created, job.resumable = kept.created, True
            job.set_state("interrupted", "It was interrupted before the last start.")
            self._kept[job.id] = kept
            self._queue.remember(job)

    def kept_files(self, job: Job) -> tuple[Path, ...]:
        """What was kept of a run that can go on."""
        state = self._state(job)
        return tuple(path for path in (state, state.with_suffix(".json")) if path.is_file())

    def forget(self, job: Job) -> None:
        """Throw away what was kept of a job that has ended."""
        if not job.finished:
            raise TrainingError("This job is still under way: interrupt it first, or let it end.")
        job.resumable = False
        self._kept.pop(job.id, None)
        self._drop_photos(job)
        self._drop_state(job)

    def _learn(self, job: Job) -> None:
        request, people = self._requests[job.id]
        kept = self._kept[job.id]
        settings = request.learn_settings()
        try:
            job.say("Loading the face models")
            faces = self._faces.network(told_download(job))
            work = TrainingTask(people, settings, consent=kept.consent, state=self._state(job))

            def begin(model: DiffusionModel) -> Generator[Event, None, TrainingResult]:
                from celeb_basis.training.run import TrainingSession

                session = TrainingSession(
                    model, self._names(), faces, known_faces=[CELEBRITY_FACES], on_step=self._watch(job)
                )
                return session.learn(work, job.interrupt)

            self._follow(job, begin)
        except StoppedError as error:  # while the face models were downloaded
            self._interrupted(job, str(error))
        except BaseException:
            self._drop_photos(job)
            raise

    def _go_on(self, job: Job) -> None:
        kept = self._kept[job.id]

        def begin(model: DiffusionModel) -> Generator[Event, None, TrainingResult]:
            from celeb_basis.training.run import TrainingSession

            session = TrainingSession(model, self._names(), None, on_step=self._watch(job))
            return session.resume(self._state(job), {}, job.interrupt, consent=kept.consent)

        self._follow(job, begin)

    def _watch(self, job: Job) -> Callable[[Trainer], None] | None:
        kept = self._kept[job.id]
        return previews(job, self._host, kept.preview_every, kept.previews)

    def _follow(
        self, job: Job, begin: Callable[[DiffusionModel], Generator[Event, None, TrainingResult]]
    ) -> None:
        """Run to the end with the host's queue held, and take over what came of it."""
        job.say("Waiting for the WebUI to finish what it does", step=0, total=0)
        stopped_by = ""
        try:
            with self._host_queue.write_lock(job.task, job.interrupt), contextlib.ExitStack() as leaving:
                job.say("Preparing")
                model = open_loaded_model(self._host)
                if isinstance(model, contextlib.AbstractContextManager):
                    leaving.enter_context(model)
                key = self._host.model_key()

                def on_event(event: Event) -> None:
                    nonlocal stopped_by
                    self._take(job, event)
                    if not stopped_by and not job.interrupt.is_set():
                        stopped_by = self._reason_to_stop(key)
                    if stopped_by:
                        job.interrupt.set()

                outcome = follow(begin(model), on_event)
        except StoppedError as error:
            self._interrupted(job, str(error))
            return
        except Exception as error:
            self._keep(job)  # the last good state, if there is one: a wrong checkpoint at Resume must not cost it
            if isinstance(error, (NotFiniteError, HostError)) and job.resumable:
                text = str(error).replace(f"resume {self._state(job)}", "press Resume")
                raise type(error)(text) from error
            raise
        if outcome.reason == "interrupted":
            self._interrupted(job, stopped_by)
        else:
            self._add(job, outcome)

    def _take(self, job: Job, event: Event) -> None:
        job.take(event)
        if isinstance(event, PortraitsFound):
            found = [one for portraits in event.portraits.values() for one in portraits]
            job.say(
                "Preparing the views",
                warnings=tuple(f"{one.source}: {text}" for one in found for text in one.warnings),
            )
        self._host.report(job.host_progress())

    def _reason_to_stop(self, model: object) -> str:
        if self._host.model_key() != model:
            return (
                "The checkpoint was switched in the middle of learning, so learning stopped and its state was kept: load "
                "the checkpoint that it began with and press Resume."
            )
        return self._host.stop_reason()

    def _interrupted(self, job: Job, stopped_by: str) -> None:
        self._keep(job)
        job.resumable = job.resumable or self._can_begin(job)
        job.set_state("interrupted", stopped_by or "It was interrupted.")

    def taken_out(self, job: Job) -> None:
        """A job that was ended while it waited: with photos or a state on the disk it can go on."""
        if job.kind == "learn" and job.state == "interrupted" and not job.resumable:
            job.resumable = self._state(job).is_file() or self._can_begin(job)

    def _can_begin(self, job: Job) -> bool:
        return job.id in self._requests and self._paths().uploads.joinpath(job.id).is_dir()

    def _keep(self, job: Job) -> None:
        """After an end that left a state: write beside it what resuming needs, and let the photos go."""
        if not self._state(job).is_file():
            return
        kept = self._kept[job.id]
        write_json(self._state(job).with_suffix(".json"), kept.__dict__ | {"people": list(kept.people)})
        self._drop_photos(job)
        job.resumable = True

    def _add(self, job: Job, outcome: TrainingResult) -> None:
        from celeb_basis.identities.identity import identity_from_bytes

        kept, library = self._kept[job.id], self._library()
        rows = []
        for content in outcome.identities:
            identity = identity_from_bytes(content)
            identity = replace(identity, metadata=replace(identity.metadata, notes=kept.notes))
            identity = _with_free_name(identity, library, replaces=kept.replace)
            path = library.add(identity, replace=kept.replace)
            progress = outcome.progress[identity_from_bytes(content).name]
            rows.append(
                {
                    "name": identity.name,
                    "word": f"<{identity.name}>",
                    "hash": identity.content_hash,
                    "file": path.name,
                    "distance": progress.distance,
                    "movement": progress.movement,
                    "nearest": [list(pair) for pair in progress.nearest],
                }
            )
        job.result = {
            "people": rows,
            "reason": outcome.reason,
            "steps": outcome.steps,
            "seconds": outcome.seconds,
            "warnings": list(outcome.warnings),
        }
        told = job.progress().warnings
        more = tuple(text for text in outcome.warnings if not any(text in before for before in told))
        job.say(f"Done: {outcome.reason}", seconds_left=0.0, warnings=(*told, *more))
        self._drop_photos(job)
        self._drop_state(job)

    def _state(self, job: Job) -> Path:
        return self._paths().unfinished / f"{job.id}.safetensors"

    def _drop_photos(self, job: Job) -> None:
        self._requests.pop(job.id, None)
        shutil.rmtree(self._paths().uploads / job.id, ignore_errors=True)

    def _drop_state(self, job: Job) -> None:
        for path in (self._state(job), self._state(job).with_suffix(".json")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _with_free_name(identity: Identity, library: Library, *, replaces: bool) -> Identity:
    """A name that was taken while the person was learned must not cost the run: a number is put behind it."""
    name, number = identity.name, 2
    while not replaces and library.path_of(name).exists():
        name, number = f"{identity.name}-{number}", number + 1
    return identity if name == identity.name else replace(identity, name=name)


def _file_name(name: str) -> str:
    """The user's own file name as far as every file system takes it; it stands in messages."""
    plain = re.sub(r"[^\w. -]", "_", Path(name.replace("\\", "/")).name).strip(". ")[-80:]
    return plain if plain and not plain.startswith(".") else "photo"
