"""Learning as a job: photos are kept only as long as they are needed, interrupted runs survive a restart of the host."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from celeb_basis.basis import basis_names
from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.errors import (
    CelebBasisError,
    DownloadError,
    FacePackError,
    FileError,
    HostError,
    IdentityError,
    MissingPackageError,
    StoppedError,
    TrainingError,
)
from celeb_basis.events import Event, PresetChosen, StepDone, follow
from celeb_basis.faces.network import Portrait
from celeb_basis.files import bases_cache, cache_folder, check_space, checked_name, now
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.identities.folder_lock import sweep
from celeb_basis.identities.library import name_key
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.training.celebrity_faces import stored_celebrity_faces
from celeb_basis.training.first_guess import faces_folder
from celeb_basis.training.run import PortraitsFound, TrainingResult, TrainingSession, TrainingTask
from celeb_basis.training.run_lock import RunLocks, RunningError, is_running, running, under_way
from celeb_basis.training.trainer import Trainer
from celeb_basis.webui.face_models import FaceModels, download_progress
from celeb_basis.webui.host_queue import HostQueue
from celeb_basis.webui.jobs import Job, JobQueue
from celeb_basis.webui.options import Workspace
from celeb_basis.webui.schemas import LearnRequest, NoSuchJobError, SavedRun
from celeb_basis.webui.tasks.generation import preview_callback
from celeb_basis.webui.tasks.learned import LikenessTask, add_people
from celeb_basis.webui.tasks.saved_runs import RunFiles, RunRecord
from celeb_basis.webui.timings import Timings

_NOT_THE_PHOTOS = (HostError, FacePackError, FileError, DownloadError, MissingPackageError)
"""Errors after which a run that has not begun may begin again from its photos, once their cause is mended."""

_UNDER_WAY = "This job is still under way: interrupt it first, or let it end."


class LearnTasks:
    """Starts, runs, saves and resumes learning jobs, and knows all jobs with the saved runs among them."""

    def __init__(self, host_queue: HostQueue, jobs: JobQueue, faces: FaceModels, workspace: Workspace) -> None:
        self._host_queue, self._host = host_queue, host_queue.app
        self._queue, self._faces, self._workspace = jobs, faces, workspace
        self._saved: dict[str, RunRecord] = {}
        self._portraits: dict[str, Mapping[str, Sequence[Portrait]]] = {}
        """What the people of the running job are learned from, by the job's id."""
        self._results: dict[str, TrainingResult] = {}
        """Results that could not be saved, by the job's id."""
        self.timings = Timings(cache_folder() / "timings.json")
        self._locks = RunLocks()
        """Of the runs that are queued or running here, by the job's id."""
        self._searched: set[Path] = set()
        self._elsewhere: dict[str, RunRecord] = {}
        """The runs that another program was running when they were last looked for, by their ids."""
        self._searching = threading.Lock()

    # Jobs

    def start(self, request: LearnRequest) -> Job:
        """Queue a run. Its photos are opened when its turn comes.

        Raises:
            CelebBasisError: The request cannot be right.
            FileError: Photos or identities cannot be written.
        """
        request.check()
        check_space(self._workspace.paths.people)
        self._find_saved_runs()  # deletes photos of no run, and these are of none until the record is written
        job = Job("learn", tuple(checked_name(person.name) for person in request.people))
        options, other = self._workspace.options(), request.settings_if_prepared()
        note = request.consent_note.strip() or f"Consent was confirmed by the user on {now()[:10]}."
        record = RunRecord(
            job.people,
            note,
            request.notes,
            request.replace,
            job.created,
            preview_every=0 if request.preview_every is None else max(0, request.preview_every),
            previews=options.previews if request.preview_every is None else 0,
            settings=request.learn_settings().as_dict(),
            if_prepared=None if other is None else other.as_dict(),
            likeness=options.likeness if request.likeness is None else request.likeness,
            faces=tuple(tuple(photo.face for photo in person.photos) for person in request.people),
        )
        try:
            self._lock(job)
            # The photos are on the disk from now on: they are not held in memory for as long as the job waits.
            record = replace(record, photos=self._files.save_photos(job.id, request))
            self._files.save_record(job.id, record)
            for name in job.people:  # until now, a deletion could not find the photos
                self._workspace.library.check_not_deleted(name, job.created)
        except BaseException:
            self._files.delete(job.id)
            self._locks.release(job.id)
            raise
        self._saved[job.id] = record
        self._queue.submit(job, self._learn)
        return job

    def resume(self, job_id: str) -> Job:
        """Queue an interrupted run again. It goes on from its state, or begins again if it had none yet.

        Raises:
            TrainingError: The job is under way, here or in another program, or nothing of it was saved.
        """
        job = self.job(job_id)
        if not job.finished:
            raise TrainingError(_UNDER_WAY)
        if not job.resumable:
            raise TrainingError("This job cannot go on: nothing of it was saved, so start a new one.")
        self._lock(job)
        if not self._can_go_on(job):
            self._locks.release(job.id)
            job.resumable = False
            raise TrainingError("This job cannot go on: another program has finished or discarded it.")
        work = self._resume if self._files.state(job.id).is_file() else self._learn
        if (result := self._results.get(job.id)) is not None:

            def work(job: Job) -> None:
                with self._locks.released_after(job.id):
                    self._finish(job, result)

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
            self._locks.release(job.id)
            job.resumable = self._can_go_on(job)

    def forget(self, job_id: str) -> None:
        """Delete what was saved of a finished job.

        Raises:
            NoSuchJobError: There is no such job.
            TrainingError: The job is under way, here or in another program.
        """
        job = self.job(job_id)
        if not job.finished:
            raise TrainingError(_UNDER_WAY)
        with running(self._files.state(job.id) if job.kind == "learn" else None, ", ".join(job.people)):
            job.resumable = False
            self._saved.pop(job.id, None)
            self._results.pop(job.id, None)
            if job.kind == "learn":
                self._files.delete(job.id)
        self._queue.forget(job_id)

    def saved_files(self, job: Job) -> tuple[Path, ...]:
        """The files of a run that can be resumed."""
        return self._files.all_files(job.id)

    def saved_runs(self) -> list[SavedRun]:
        """The runs that can be resumed or discarded, newest first, and those that another program is running now."""
        files = self._files
        jobs = [job for job in self.jobs() if job.kind == "learn" and job.finished and job.resumable]
        busy = {job.id for job in jobs if is_running(files.state(job.id))}
        known = {job.id: self._saved[job.id] for job in jobs if job.id in busy or self._can_go_on(job)}
        runs = sorted((known | self._elsewhere).items(), key=lambda run: run[1].created, reverse=True)
        return [files.describe(run, record, running=run in busy or run in self._elsewhere) for run, record in runs]

    def saved_run(self, name: str) -> SavedRun:
        """The run with the id ``name``, or the newest one that learns the person ``name``.

        Raises:
            NoSuchJobError: There is none.
            RunningError: Another program is running it.
        """
        runs = self.saved_runs()
        found = [run for run in runs if run.id == name]
        found += [run for run in runs if name_key(name) in map(name_key, (*run.people, run.name))]
        if found and found[0].running:
            raise RunningError(under_way(found[0].name))
        if not found:
            known = "; ".join(run.name for run in runs[:20]) or "none"
            raise NoSuchJobError(f"There is no interrupted run of {name[:80]!a}. Interrupted runs: {known}.")
        return found[0]

    def is_prepared(self) -> bool | None:
        """Whether the loaded checkpoint is prepared: the celebrities' faces are here, as it renders them.

        Returns:
            ``None`` while that is unknown: no checkpoint or no face models are loaded.
        """
        faces = self._faces.name
        if faces is None or self._host.model_key() is None:
            return None
        try:
            model = open_loaded_model(self._host)
            names = basis_names(model.text_encoders[0], self._workspace.names(), bases_cache())
            _, prepared = stored_celebrity_faces(model, names, faces, faces_folder(), known=[CELEBRITY_FACES])
        except CelebBasisError:  # the run itself says what is wrong
            return None
        return prepared

    def _find_saved_runs(self) -> None:
        """List the runs that were saved before the last start of the host, and delete photos that no run needs."""
        paths = self._workspace.paths
        with self._searching:
            if paths.data in self._searched and not self._elsewhere:
                return
            library = self._workspace.library
            files = RunFiles(paths)
            known = {job.id for job in self._queue.jobs()}
            if paths.data not in self._searched:
                library.sweep()
                sweep(paths.unfinished)
                files.delete_orphans(known)
            elsewhere = {}
            for run, record, runs in files.find({*known, *self._locks.held()}):
                if runs:
                    elsewhere[run] = record
                    continue
                if any(library.was_deleted(name, record.created) for name in record.people):
                    files.delete(run)  # the host was killed before the run could notice
                    continue
                job = Job("learn", record.people, run)
                job.created, job.resumable = record.created, True
                job.set_state("interrupted", "It was interrupted before the last start.")
                self._saved[job.id] = record
                self._queue.remember(job)
            self._searched.add(paths.data)
            self._elsewhere = elsewhere

    # Their work

    def _learn(self, job: Job) -> None:
        with self._locks.released_after(job.id):
            self._learn_from_photos(job)

    def _learn_from_photos(self, job: Job) -> None:
        self._check_not_deleted(job)
        record, files = self._saved[job.id], self._files
        try:
            people = files.people(job.id, record)
            if not people:
                raise TrainingError("The photos of this run are gone: start a new one.")
            job.report("Loading the face models")
            faces = self._faces.network(download_progress(job))
            task = TrainingTask(
                people,
                record.learn_settings(),
                consent=record.consent,
                state=files.state(job.id),
                begun=job.created,
                if_prepared=record.settings_if_prepared(),
            )

            def begin(model: DiffusionModel) -> Generator[Event, None, TrainingResult]:
                session = TrainingSession(
                    model, self._workspace.names(), faces, known_faces=[CELEBRITY_FACES], on_step=self._previews(job)
                )
                return session.learn(task, job.interrupt)

            self._run(job, begin)
        except StoppedError as error:  # while the face models were downloaded
            self._interrupted(job, str(error))
        except _NOT_THE_PHOTOS:
            job.resumable = job.resumable or self._can_go_on(job)
            raise
        except BaseException:
            if not job.resumable:
                files.delete(job.id)
            raise

    def _resume(self, job: Job) -> None:
        def begin(model: DiffusionModel) -> Generator[Event, None, TrainingResult]:
            session = TrainingSession(model, self._workspace.names(), None, on_step=self._previews(job))
            return session.resume(self._files.state(job.id), {}, job.interrupt, consent=self._saved[job.id].consent)

        with self._locks.released_after(job.id):
            self._run(job, begin)

    def _previews(self, job: Job) -> Callable[[Trainer], None] | None:
        saved = self._saved[job.id]
        return preview_callback(job, self._host, saved.preview_every, saved.previews)

    def _run(self, job: Job, begin: Callable[[DiffusionModel], Generator[Event, None, TrainingResult]]) -> None:
        """Run to the end with the host's queue held, and save what came of it."""
        self._check_not_deleted(job)
        job.report("Waiting for the WebUI to finish its work", step=0, total=0)
        stopped_by, photos_needed = "", True
        try:
            with self._host_queue.write_lock(job.task, job.interrupt), contextlib.ExitStack() as stack:
                job.report("Preparing")
                model = open_loaded_model(self._host)
                if isinstance(model, contextlib.AbstractContextManager):
                    stack.enter_context(model)
                key = self._host.model_key()

                def on_event(event: Event) -> None:
                    nonlocal stopped_by, photos_needed
                    watch.add(event)
                    self._show(job, event)
                    if photos_needed and isinstance(event, StepDone):
                        photos_needed = not self._drop_photos(job)
                    if not job.interrupt.is_set() and (stopped_by := self._reason_to_stop(job, key)):
                        job.interrupt.set()

                with self.timings.measuring(model, self._saved[job.id].learn_settings()) as watch:
                    result = follow(begin(model), on_event)
                portraits = self._portraits.get(job.id, {})
        except StoppedError as error:
            self._interrupted(job, str(error))
            return
        except Exception as error:
            self._keep(job)  # the last good state, if there is one: a wrong checkpoint at Resume must not cost it
            if isinstance(error, (TrainingError, HostError)) and job.resumable:
                text = str(error).replace(f"resume {self._files.state(job.id)}", "press Resume")
                raise type(error)(text) from error
            raise
        finally:
            self._portraits.pop(job.id, None)
        if result.reason == "interrupted":
            self._interrupted(job, stopped_by)
        else:
            self._finish(job, result)
            if self._saved[job.id].likeness:
                LikenessTask(self._host_queue, self._faces, self._workspace).run(job, portraits, key)

    def _show(self, job: Job, event: Event) -> None:
        job.add_event(event)
        if isinstance(event, PresetChosen):
            job.result = job.result | {"preset": event.preset}
        elif isinstance(event, PortraitsFound):
            self._portraits[job.id] = event.portraits
            job.faces = {name: portraits[0].picture for name, portraits in event.portraits.items()}
            found = [one for portraits in event.portraits.values() for one in portraits]
            warnings = tuple(f"{one.source}: {text}" for one in found for text in one.warnings)
            job.report("Preparing the views", warnings=warnings)
        self._host.report(job.host_progress())

    def _reason_to_stop(self, job: Job, model: object) -> str:
        if self._host.model_key() != model:
            return (
                "The checkpoint was switched during learning, so learning stopped and its state was saved: load the "
                "checkpoint that it began with and press Resume."
            )
        if any(self._workspace.library.was_deleted(name, job.created) for name in job.people):
            return "The person was deleted."  # by another program, as the page refuses it
        return self._host.stop_reason()

    def _check_not_deleted(self, job: Job) -> None:
        """Raise if a person was deleted since the run was started, after deleting what there is of the run."""
        try:
            for name in job.people:
                self._workspace.library.check_not_deleted(name, job.created)
        except IdentityError:
            job.resumable = False
            self._saved.pop(job.id, None)
            self._results.pop(job.id, None)
            self._files.delete(job.id)
            raise

    def _interrupted(self, job: Job, stopped_by: str) -> None:
        self._check_not_deleted(job)
        self._keep(job)
        job.resumable = job.resumable or self._can_go_on(job)
        self._locks.release(job.id)  # before it can be resumed
        job.set_state("interrupted", stopped_by or "It was interrupted.")

    def _drop_photos(self, job: Job) -> bool:
        """Delete the photos if there is a state, from which the run can be resumed without them; returns whether."""
        if not self._files.state(job.id).is_file():
            return False
        self._files.delete_photos(job.id)
        return True

    def _keep(self, job: Job) -> None:
        if self._drop_photos(job):
            job.resumable = True

    def _finish(self, job: Job, result: TrainingResult) -> None:
        """Save what was learned. If that is impossible the run stays, to be saved when the cause is mended."""
        self._check_not_deleted(job)
        try:
            add_people(job, result, self._saved[job.id], self._workspace.library)
        except CelebBasisError as error:
            self._results[job.id] = result
            self._drop_photos(job)
            job.resumable = True
            raise type(error)(f"{error} Nothing that was learned is lost: press Resume after that.") from error
        self._results.pop(job.id, None)
        self._files.delete(job.id)

    # Their files

    @property
    def _files(self) -> RunFiles:
        return RunFiles(self._workspace.paths)

    def _can_go_on(self, job: Job) -> bool:
        if job.id not in self._saved:
            return False
        return job.id in self._results or self._files.can_go_on(job.id, self._saved[job.id])

    def _lock(self, job: Job) -> None:
        """Have every program on the data folder know that the run is under way, until the lock is released."""
        self._locks.hold(job.id, self._files.state(job.id), ", ".join(job.people))
