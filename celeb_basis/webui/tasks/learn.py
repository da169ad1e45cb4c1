"""Learning as a job: photos are kept only as long as they are needed, interrupted runs survive a restart of the host."""

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

from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.errors import CelebBasisError, HostError, NotFiniteError, StoppedError, TrainingError
from celeb_basis.events import Event, follow
from celeb_basis.files import checked_name, now, write_bytes, write_json
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.identities.identity import Identity, identity_from_bytes
from celeb_basis.identities.library import Library
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.training.run import PhotoInput, PortraitsFound, TrainingResult, TrainingSession, TrainingTask
from celeb_basis.training.trainer import Trainer
from celeb_basis.webui.face_models import FaceModels, download_progress
from celeb_basis.webui.host_queue import HostQueue
from celeb_basis.webui.jobs import Job, JobQueue
from celeb_basis.webui.options import Workspace
from celeb_basis.webui.schemas import LearnRequest, PhotoUpload
from celeb_basis.webui.tasks.generation import preview_callback

_log = logging.getLogger(__name__)

_JOB_ID = re.compile(r"[0-9a-f]{12}")
_UNDER_WAY = "This job is still under way: interrupt it first, or let it end."


@dataclass(frozen=True)
class _SavedRun:
    """What resuming a run needs beside the trainer's state; the JSON file beside that state."""

    people: tuple[str, ...]
    consent: str
    notes: str
    replace: bool
    created: float
    preview_every: int = 0
    previews: int = 0
    """How many previews are spread over the run, where ``preview_every`` is 0."""


class LearnTasks:
    """Starts, runs, saves and resumes learning jobs, and knows all jobs with the saved runs among them."""

    def __init__(self, host_queue: HostQueue, jobs: JobQueue, faces: FaceModels, workspace: Workspace) -> None:
        self._host_queue, self._host = host_queue, host_queue.app
        self._queue, self._faces, self._workspace = jobs, faces, workspace
        self._requests: dict[str, tuple[LearnRequest, tuple[PhotoInput, ...]]] = {}
        self._saved: dict[str, _SavedRun] = {}
        self._searched: set[Path] = set()

    # Jobs

    def start(self, request: LearnRequest) -> Job:
        """Queue a run. Its photos are opened when its turn comes.

        Raises:
            CelebBasisError: The request cannot be right.
        """
        request.check()
        job = Job("learn", tuple(checked_name(person.name) for person in request.people))
        folder = self._workspace.paths.uploads / job.id
        people = tuple(_written(person, folder / str(number)) for number, person in enumerate(request.people))
        # The photos are on the disk now: they are not held in memory for as long as the job waits.
        self._requests[job.id] = replace(request, people=()), people
        consent = request.consent_note.strip() or f"Consent was confirmed by the user on {now()[:10]}."
        every = 0 if request.preview_every is None else max(0, request.preview_every)
        times = self._workspace.options().previews if request.preview_every is None else 0
        self._saved[job.id] = _SavedRun(job.people, consent, request.notes, request.replace, job.created, every, times)
        self._queue.submit(job, self._learn)
        return job

    def resume(self, job_id: str) -> Job:
        """Queue an interrupted run again. It goes on from its state, or begins again if it had none yet.

        Raises:
            TrainingError: The job is under way, or nothing of it was saved.
        """
        job = self.job(job_id)
        if not job.finished:
            raise TrainingError(_UNDER_WAY)
        if not job.resumable:
            raise TrainingError("This job cannot go on: nothing of it was saved, so start a new one.")
        work = self._resume if self._state(job).is_file() else self._learn
        job.interrupt = threading.Event()
        job.resumable = False
        job.set_state("queued")
        self._queue.submit(job, work)
        return job

    def job(self, job_id: str) -> Job:
        """The job with this id.

        Raises:
            NoSuchJobError: There is none.
        """
        self._find_saved_runs()
        return self._queue.job(job_id)

    def jobs(self) -> list[Job]:
        """All jobs, newest first, with the runs that were saved before the last start of the host."""
        self._find_saved_runs()
        return self._queue.jobs()

    def interrupt(self, job_id: str) -> None:
        """Interrupt a job. A run saves its state; a job that waited can be resumed as it was."""
        self._queue.interrupt(job_id)
        job = self._queue.job(job_id)
        if job.kind == "learn" and job.state == "interrupted" and not job.resumable:
            job.resumable = self._state(job).is_file() or self._can_begin(job)

    def forget(self, job_id: str) -> None:
        """Delete what was saved of a finished job.

        Raises:
            NoSuchJobError: There is no such job.
            TrainingError: The job is under way.
        """
        job = self.job(job_id)
        if not job.finished:
            raise TrainingError(_UNDER_WAY)
        job.resumable = False
        self._saved.pop(job.id, None)
        self._delete_photos(job)
        self._delete_state(job)
        self._queue.forget(job_id)

    def saved_files(self, job: Job) -> tuple[Path, ...]:
        """The files of a run that can be resumed."""
        state = self._state(job)
        return tuple(path for path in (state, state.with_suffix(".json")) if path.is_file())

    def _find_saved_runs(self) -> None:
        """List the runs that were saved before the last start of the host, and delete the photos left from before it."""
        paths = self._workspace.paths
        if paths.data in self._searched:
            return
        self._searched.add(paths.data)
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
                saved = _SavedRun(**described | {"people": tuple(map(checked_name, described["people"]))})
            except (OSError, ValueError, TypeError, KeyError, CelebBasisError) as error:
                _log.warning("%s is unusable: %s", path, error)
                continue
            job = Job("learn", saved.people, path.stem)
            job.created, job.resumable = saved.created, True
            job.set_state("interrupted", "It was interrupted before the last start.")
            self._saved[job.id] = saved
            self._queue.remember(job)

    # Their work

    def _learn(self, job: Job) -> None:
        request, people = self._requests[job.id]
        settings = request.learn_settings()
        try:
            job.report("Loading the face models")
            faces = self._faces.network(download_progress(job))
            task = TrainingTask(people, settings, consent=self._saved[job.id].consent, state=self._state(job))

            def begin(model: DiffusionModel) -> Generator[Event, None, TrainingResult]:
                session = TrainingSession(
                    model, self._workspace.names(), faces, known_faces=[CELEBRITY_FACES], on_step=self._previews(job)
                )
                return session.learn(task, job.interrupt)

            self._run(job, begin)
        except StoppedError as error:  # while the face models were downloaded
            self._interrupted(job, str(error))
        except BaseException:
            self._delete_photos(job)
            raise

    def _resume(self, job: Job) -> None:
        def begin(model: DiffusionModel) -> Generator[Event, None, TrainingResult]:
            session = TrainingSession(model, self._workspace.names(), None, on_step=self._previews(job))
            return session.resume(self._state(job), {}, job.interrupt, consent=self._saved[job.id].consent)

        self._run(job, begin)

    def _previews(self, job: Job) -> Callable[[Trainer], None] | None:
        saved = self._saved[job.id]
        return preview_callback(job, self._host, saved.preview_every, saved.previews)

    def _run(self, job: Job, begin: Callable[[DiffusionModel], Generator[Event, None, TrainingResult]]) -> None:
        """Run to the end with the host's queue held, and save what came of it."""
        job.report("Waiting for the WebUI to finish its work", step=0, total=0)
        stopped_by = ""
        try:
            with self._host_queue.write_lock(job.task, job.interrupt), contextlib.ExitStack() as stack:
                job.report("Preparing")
                model = open_loaded_model(self._host)
                if isinstance(model, contextlib.AbstractContextManager):
                    stack.enter_context(model)
                key = self._host.model_key()

                def on_event(event: Event) -> None:
                    nonlocal stopped_by
                    self._show(job, event)
                    if not job.interrupt.is_set() and (stopped_by := self._reason_to_stop(key)):
                        job.interrupt.set()

                result = follow(begin(model), on_event)
        except StoppedError as error:
            self._interrupted(job, str(error))
            return
        except Exception as error:
            self._save(job)  # the last good state, if there is one: a wrong checkpoint at Resume must not cost it
            if isinstance(error, (NotFiniteError, HostError)) and job.resumable:
                text = str(error).replace(f"resume {self._state(job)}", "press Resume")
                raise type(error)(text) from error
            raise
        if result.reason == "interrupted":
            self._interrupted(job, stopped_by)
        else:
            self._add(job, result)

    def _show(self, job: Job, event: Event) -> None:
        job.add_event(event)
        if isinstance(event, PortraitsFound):
            found = [one for portraits in event.portraits.values() for one in portraits]
            warnings = tuple(f"{one.source}: {text}" for one in found for text in one.warnings)
            job.report("Preparing the views", warnings=warnings)
        self._host.report(job.host_progress())

    def _reason_to_stop(self, model: object) -> str:
        if self._host.model_key() != model:
            return (
                "The checkpoint was switched during learning, so learning stopped and its state was saved: load the "
                "checkpoint that it began with and press Resume."
            )
        return self._host.stop_reason()

    def _interrupted(self, job: Job, stopped_by: str) -> None:
        self._save(job)
        job.resumable = job.resumable or self._can_begin(job)
        job.set_state("interrupted", stopped_by or "It was interrupted.")

    def _can_begin(self, job: Job) -> bool:
        return job.id in self._requests and self._workspace.paths.uploads.joinpath(job.id).is_dir()

    def _save(self, job: Job) -> None:
        """Where a state was left: write what resuming needs beside it, and delete the photos."""
        if not self._state(job).is_file():
            return
        saved = self._saved[job.id]
        write_json(self._state(job).with_suffix(".json"), saved.__dict__ | {"people": list(saved.people)})
        self._delete_photos(job)
        job.resumable = True

    def _add(self, job: Job, result: TrainingResult) -> None:
        """Add the identities to the library, and make them the job's result."""
        saved, library = self._saved[job.id], self._workspace.library
        rows = []
        for content in result.identities:
            identity = identity_from_bytes(content)
            progress = result.progress[identity.name]
            identity = replace(identity, metadata=replace(identity.metadata, notes=saved.notes))
            identity = _with_free_name(identity, library, replaces=saved.replace)
            path = library.add(identity, replace=saved.replace)
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
            "reason": result.reason,
            "steps": result.steps,
            "seconds": result.seconds,
            "warnings": list(result.warnings),
        }
        shown = job.progress().warnings
        more = tuple(text for text in result.warnings if not any(text in before for before in shown))
        job.report(f"Done: {result.reason}", seconds_left=0.0, warnings=(*shown, *more))
        self._delete_photos(job)
        self._delete_state(job)

    # Their files

    def _state(self, job: Job) -> Path:
        return self._workspace.paths.unfinished / f"{job.id}.safetensors"

    def _delete_photos(self, job: Job) -> None:
        self._requests.pop(job.id, None)
        shutil.rmtree(self._workspace.paths.uploads / job.id, ignore_errors=True)

    def _delete_state(self, job: Job) -> None:
        for path in (self._state(job), self._state(job).with_suffix(".json")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _written(person: PhotoUpload, folder: Path) -> PhotoInput:
    """The photos of ``person`` as files in ``folder``."""
    files = []
    for index, photo in enumerate(person.photos):
        path = folder / str(index) / _file_name(photo.name)
        write_bytes(path, photo.file_content())
        files.append(path)
    return PhotoInput(checked_name(person.name), tuple(files), tuple(photo.face for photo in person.photos))


def _with_free_name(identity: Identity, library: Library, *, replaces: bool) -> Identity:
    """``identity`` with a number behind its name, if that was taken during learning: it must not cost the run."""
    name, number = identity.name, 2
    while not replaces and library.path_of(name).exists():
        name, number = f"{identity.name}-{number}", number + 1
    return identity if name == identity.name else replace(identity, name=name)


def _file_name(name: str) -> str:
    """The user's own file name as far as every file system takes it; it appears in messages."""
    plain = re.sub(r"[^\w. -]", "_", Path(name.replace("\\", "/")).name).strip(". ")[-80:]
    return plain if plain and not plain.startswith(".") else "photo"
