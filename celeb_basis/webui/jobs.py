"""Long work in the background: jobs with progress and events, and the queue that runs them while pages come and go."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from celeb_basis.errors import CelebBasisError, StoppedError, error_message, is_user_error
from celeb_basis.events import DrawingNames, Event, PersonProgress, Preparing, StepDone, Warned
from celeb_basis.hosts.a1111.app import HostProgress
from celeb_basis.webui.schemas import NoSuchJobError

_log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "interrupted"]
Kind = Literal["learn", "evaluate", "preview", "blend", "basis", "faces", "invent", "prepare"]

MAX_EVENTS = 4000
"""Events kept of a job. A late reader gets the newest ones and sees the gap by their indices."""
MAX_CURVE = 1000
"""Points kept of the loss curve; every second one is dropped when there are more."""
MAX_FINISHED = 50
"""Finished jobs that are remembered."""
MAX_WITH_PICTURES = 8
"""Newest finished jobs whose images are kept: twelve of SDXL's take 40 MB."""


@dataclass(frozen=True)
class JobProgress:
    """The progress of a job."""

    stage: str
    """What is being done, in a few words for the user."""
    step: int = 0
    total: int = 0
    """0 while it is unknown."""
    loss: float | None = None
    average_loss: float | None = None
    curve: tuple[tuple[int, float, float], ...] = ()
    """Step, loss and average loss so far; long runs are thinned evenly."""
    people: Mapping[str, PersonProgress] = field(default_factory=dict)
    seconds_left: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Share of the steps that are done, 0 to 1."""
        return self.step / self.total if self.total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"fraction": self.fraction}


class Job:
    """A piece of long work. Safe to read from every thread."""

    def __init__(self, kind: Kind, people: tuple[str, ...], job_id: str | None = None) -> None:
        self.id = job_id or uuid.uuid4().hex[:12]
        self.kind: Kind = kind
        self.people = people
        self.created = time.time()
        self.interrupt = threading.Event()
        self.result: dict[str, Any] = {}
        """The result, JSON-ready; empty until the job is done."""
        self.outcome: Any = None
        """The result as an object, where the page shows more of it than the API."""
        self.pictures: tuple[Any, ...] = ()
        """PIL images generated so far, and contact sheets, each marked with whom it shows (:mod:`celeb_basis.provenance`)."""
        self.faces: dict[str, Any] = {}
        """``(S, S, 3)`` portraits of the people who are learned, by their names; empty until they are found."""
        self.resumable = False
        """Whether it can be resumed."""
        self._state: State = "queued"
        self._error = ""
        self._changed = threading.Condition()
        self._progress = JobProgress("Waiting for its turn")
        self._curve: list[tuple[int, float, float]] = []
        self._stride = 1
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._next = 0
        self._append({"event": "State", "state": "queued", "error": ""})

    @property
    def state(self) -> State:
        """``"queued"``, ``"running"``, or how it ended."""
        return self._state

    @property
    def error(self) -> str:
        """Why it failed or was interrupted, as a sentence; else empty."""
        return self._error

    @property
    def finished(self) -> bool:
        """Whether it has ended; it may still be resumed."""
        return self._state in ("done", "failed", "interrupted")

    @property
    def task(self) -> str:
        """Its id in the host's own progress API."""
        return f"task(celeb-basis-{self.id})"

    @property
    def changed(self) -> float:
        """Time of the last event, in seconds since the epoch."""
        with self._changed:
            return float(self._events[-1]["time"])

    def progress(self) -> JobProgress:
        """The progress now."""
        with self._changed:
            return self._progress

    def host_progress(self) -> HostProgress:
        """The progress now, for the host's own display."""
        now = self.progress()
        return HostProgress(now.step, now.total, now.stage, self.people, now.average_loss)

    def check_interrupted(self) -> None:
        """Raise :class:`StoppedError` once the job is interrupted."""
        if self.interrupt.is_set():
            raise StoppedError("It was interrupted; nothing was changed.")

    def events_after(self, index: int = -1) -> list[dict[str, Any]]:
        """Events after the event ``index``, oldest first; each holds its own ``"index"``."""
        with self._changed:
            return [event for event in self._events if event["index"] > index]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; returns whether it has, within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.finished, timeout)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, without events and images."""
        with self._changed:
            return {
                "id": self.id,
                "kind": self.kind,
                "people": list(self.people),
                "state": self._state,
                "error": self._error,
                "resumable": self.resumable,
                "created": self.created,
                "progress": self._progress.as_dict(),
                "result": self.result,
            }

    def set_state(self, state: State, error: str = "") -> None:
        """Change the state, as an event."""
        assert state in get_args(State)
        with self._changed:
            self._state, self._error = state, error
            self._append({"event": "State", "state": state, "error": error})

    def report(self, stage: str, **changes: Any) -> None:
        """Set the stage and other fields of the progress, as an event.

        Args:
            stage: What is being done, in a few words for the user.
            **changes: Other fields of :class:`JobProgress`.
        """
        with self._changed:
            self._progress = replace(self._progress, stage=stage, **changes)
            self._append({"event": "Stage", "stage": stage, "step": self._progress.step, "total": self._progress.total})

    def add_event(self, event: Event) -> None:
        """Append an event of learning, and take its progress over."""
        with self._changed:
            before = self._progress
            if isinstance(event, (Preparing, DrawingNames)):
                stage = "Preparing the views" if isinstance(event, Preparing) else "Generating the celebrities, once"
                self._progress = JobProgress(
                    stage, event.done, event.total, warnings=before.warnings, curve=before.curve
                )
            elif isinstance(event, StepDone):
                self._add_point(event)
                self._progress = JobProgress(
                    stage="Learning",
                    step=event.step,
                    total=event.total,
                    loss=event.loss,
                    average_loss=event.average_loss,
                    curve=tuple(self._curve),
                    people=before.people if event.people is None else event.people,
                    seconds_left=event.seconds_left,
                    warnings=before.warnings,
                )
            elif isinstance(event, Warned):
                self._progress = replace(before, warnings=(*before.warnings, event.message))
            self._append(event.as_dict())

    def _add_point(self, event: StepDone) -> None:
        if event.step % self._stride == 0 or event.step == event.total or not self._curve:
            self._curve.append((event.step, event.loss, event.average_loss))
        if len(self._curve) > MAX_CURVE:
            del self._curve[1::2]
            self._stride *= 2

    def _append(self, event: dict[str, Any]) -> None:
        with self._changed:  # re-entrant
            self._events.append({"index": self._next, "time": time.time(), **event})
            self._next += 1
            self._changed.notify_all()


class JobQueue:
    """Runs jobs one after another, in a thread of its own that exists only while there is work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[tuple[Job, Callable[[Job], None]]] = deque()
        self._thread: threading.Thread | None = None
        self._running: Job | None = None

    @property
    def running(self) -> Job | None:
        """The job that is running."""
        return self._running

    def jobs(self) -> list[Job]:
        """All jobs that are remembered, newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)

    def job(self, job_id: str) -> Job:
        """The job with this id.

        Raises:
            NoSuchJobError: There is none.
        """
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            raise NoSuchJobError(f"There is no job {job_id[:40]!a}: it was forgotten, or never started.")
        return job

    def remember(self, job: Job) -> None:
        """List ``job`` without running it."""
        with self._lock:
            self._jobs.setdefault(job.id, job)

    def submit(self, job: Job, work: Callable[[Job], None]) -> None:
        """Run ``work`` when everything that was submitted before is done.

        When ``work`` returns, the job is done, unless ``work`` has set another final state. An exception becomes the job's
        error.
        """
        with self._lock:
            self._jobs[job.id] = job
            self._drop_old()
            self._waiting.append((job, work))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_queue, name="celeb-basis jobs", daemon=True)
                self._thread.start()

    def start(self, job: Job, work: Callable[[Job], None]) -> None:
        """Run ``work`` at once, beside the queue: for work of a few moments that only reads the model."""
        with self._lock:
            self._jobs[job.id] = job
            self._drop_old()
        threading.Thread(target=self._run, args=(job, work), name=f"celeb-basis {job.kind}", daemon=True).start()

    def interrupt(self, job_id: str) -> None:
        """Interrupt a job: a waiting one at once, a running one after its present step."""
        job = self.job(job_id)
        with self._lock:
            waiting = [pair for pair in self._waiting if pair[0] is job]
            for pair in waiting:
                self._waiting.remove(pair)
        job.interrupt.set()
        if waiting:
            job.set_state("interrupted", "It was taken out of the queue before it began.")

    def forget(self, job_id: str) -> None:
        """Drop a finished job."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and job.finished:
                del self._jobs[job_id]

    def _run_queue(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = self._running = None
                    return
                job, work = self._waiting.popleft()
                self._running = job
            self._run(job, work)

    def _run(self, job: Job, work: Callable[[Job], None]) -> None:
        job.set_state("running")
        try:
            work(job)
        except StoppedError as error:
            job.set_state("interrupted", str(error))
        except CelebBasisError as error:
            job.set_state("failed", str(error))
        except BaseException as error:  # the thread goes on with the next job
            if not is_user_error(error):
                _log.exception("the job %s failed", job.id)
            job.set_state("failed", error_message(error))
        else:
            if not job.finished:
                job.set_state("done")

    def _drop_old(self) -> None:
        """Drop the oldest of too many finished jobs, with the lock held; those that can be resumed stay."""
        ended = [job for job in self._jobs.values() if job.finished and not job.resumable]
        ended.sort(key=lambda job: job.created)
        for job in ended[: max(0, len(ended) - MAX_FINISHED)]:
            del self._jobs[job.id]
        newest = {job.kind: job for job in ended}.values()  # the page shows these
        for job in ended[:-MAX_WITH_PICTURES]:
            if job not in newest:
                job.pictures = ()
