"""Long work in the background: one job at a time, watched from anywhere, going on when the page is closed."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from celeb_basis.errors import CelebBasisError, StoppedError, error_message, is_user_error
from celeb_basis.events import DrawingNames, Event, PersonProgress, Preparing, StepDone
from celeb_basis.hosts.a1111.app import HostProgress
from celeb_basis.webui.schemas import NoSuchJobError

_log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "interrupted"]
Kind = Literal["learn", "evaluate", "preview", "blend", "basis", "faces"]

MAX_EVENTS = 4000
"""Events kept of a job; who asks later gets the newest and can tell the gap by their indices."""
MAX_CURVE = 1000
"""Points of the loss curve that are kept; every second one is dropped when there are more."""
MAX_FINISHED = 50
"""Ended jobs that are remembered."""
MAX_WITH_PICTURES = 8
"""Newest ended jobs whose pictures are kept: twelve of SDXL's take 40 MB."""


@dataclass(frozen=True)
class JobProgress:
    """Where a job stands."""

    stage: str
    """A few words for people."""
    step: int = 0
    total: int = 0
    """0 while it is not known."""
    loss: float | None = None
    average_loss: float | None = None
    curve: tuple[tuple[int, float, float], ...] = ()
    """Step, loss and average loss so far, thinned evenly in long runs."""
    people: Mapping[str, PersonProgress] = field(default_factory=dict)
    seconds_left: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.step / self.total if self.total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"fraction": self.fraction}


class Job:
    """A piece of long work; safe to look at from every thread."""

    def __init__(self, kind: Kind, people: tuple[str, ...], job_id: str | None = None) -> None:
        self.id = job_id or uuid.uuid4().hex[:12]
        self.kind: Kind = kind
        self.people = people
        self.created = time.time()
        self.interrupt = threading.Event()
        self.result: dict[str, Any] = {}
        """What came of it, JSON-ready; empty until it is done."""
        self.outcome: Any = None
        """The same as it is, where the page shows more than the API tells."""
        self.pictures: tuple[Any, ...] = ()
        """PIL pictures drawn so far, previews and contact sheets; each knows whom it shows (:mod:`celeb_basis.provenance`)."""
        self.resumable = False
        """Whether :meth:`Service.resume` can go on with it."""
        self._state: State = "queued"
        self._error = ""
        self._changed = threading.Condition()
        self._progress = JobProgress("Waiting for its turn")
        self._curve: list[tuple[int, float, float]] = []
        self._stride = 1
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._next = 0
        self._note({"event": "State", "state": "queued", "error": ""})

    @property
    def state(self) -> State:
        """Where it is between the queue and its end."""
        return self._state

    @property
    def error(self) -> str:
        """The sentence that says why it failed or was stopped; else empty."""
        return self._error

    @property
    def finished(self) -> bool:
        """Whether nothing more happens, unless it is resumed."""
        return self._state in ("done", "failed", "interrupted")

    @property
    def task(self) -> str:
        """The id under which the host's own progress API knows it."""
        return f"task(celeb-basis-{self.id})"

    @property
    def changed(self) -> float:
        """When something last happened, in seconds since the epoch."""
        with self._changed:
            return float(self._events[-1]["time"])

    def progress(self) -> JobProgress:
        """Where it stands now."""
        with self._changed:
            return self._progress

    def host_progress(self) -> HostProgress:
        """The same for the host's own progress display."""
        now = self.progress()
        return HostProgress(now.step, now.total, now.stage, self.people, now.average_loss)

    def check_interrupted(self) -> None:
        """Raise :class:`StoppedError` once the job is interrupted."""
        if self.interrupt.is_set():
            raise StoppedError("It was interrupted; nothing was changed.")

    def events_after(self, index: int = -1) -> list[dict[str, Any]]:
        """Everything that happened after the event ``index``, oldest first; each holds its own ``"index"``."""
        with self._changed:
            return [event for event in self._events if event["index"] > index]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; answers whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self.finished, timeout)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, without events and pictures."""
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
        """Change the state, which everybody who watches is told."""
        assert state in get_args(State)
        with self._changed:
            self._state, self._error = state, error
            self._note({"event": "State", "state": state, "error": error})

    def say(self, stage: str, **changes: Any) -> None:
        """Say what is being done, with changes to the progress."""
        with self._changed:
            told = {name: getattr(self._progress, name) for name in JobProgress.__dataclass_fields__}
            self._progress = JobProgress(**(told | changes | {"stage": stage}))
            self._note({"event": "Stage", "stage": stage, "step": self._progress.step, "total": self._progress.total})

    def take(self, event: Event) -> None:
        """Take over what learning tells."""
        with self._changed:
            before = self._progress
            if isinstance(event, (Preparing, DrawingNames)):
                stage = "Preparing the views" if isinstance(event, Preparing) else "Drawing the celebrities, once"
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
            self._note(event.as_dict())

    def _add_point(self, event: StepDone) -> None:
        if event.step % self._stride == 0 or event.step == event.total or not self._curve:
            self._curve.append((event.step, event.loss, event.average_loss))
        if len(self._curve) > MAX_CURVE:
            del self._curve[1::2]
            self._stride *= 2

    def _note(self, event: dict[str, Any]) -> None:
        """With the lock held, or before anybody else knows the job."""
        with self._changed:  # re-entrant
            self._events.append({"index": self._next, "time": time.time(), **event})
            self._next += 1
            self._changed.notify_all()


class JobQueue:
    """Does jobs one after the other, in a thread of its own that is there only while there is work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[tuple[Job, Callable[[Job], None]]] = deque()
        self._thread: threading.Thread | None = None
        self._running: Job | None = None

    @property
    def running(self) -> Job | None:
        """The job that is being done."""
        return self._running

    def jobs(self) -> list[Job]:
        """All that are remembered, newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)

    def job(self, job_id: str) -> Job:
        """The job with this id.

        Raises: :class:`NoSuchJobError` if there is none.
        """
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            raise NoSuchJobError(f"There is no job {job_id[:40]!a}: it was forgotten, or never begun.")
        return job

    def remember(self, job: Job) -> None:
        """Know ``job`` without doing anything for it."""
        with self._lock:
            self._jobs.setdefault(job.id, job)

    def submit(self, job: Job, work: Callable[[Job], None]) -> None:
        """Do ``work`` when all that was submitted before is done.

        ``work`` ends normally when it has set the job's end state itself, or when the job is done; an error is told as the
        job's sentence.
        """
        with self._lock:
            self._jobs[job.id] = job
            self._forget()
            self._waiting.append((job, work))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work_off, name="celeb-basis jobs", daemon=True)
                self._thread.start()

    def begin(self, job: Job, work: Callable[[Job], None]) -> None:
        """Do ``work`` at once, beside the others: for what is done in moments and only looks at the model."""
        with self._lock:
            self._jobs[job.id] = job
            self._forget()
        threading.Thread(target=self._do, args=(job, work), name=f"celeb-basis {job.kind}", daemon=True).start()

    def interrupt(self, job_id: str) -> None:
        """End a job: a waiting one at once, a running one after the step under way."""
        job = self.job(job_id)
        with self._lock:
            waiting = [pair for pair in self._waiting if pair[0] is job]
            for pair in waiting:
                self._waiting.remove(pair)
        job.interrupt.set()
        if waiting:
            job.set_state("interrupted", "It was taken out of the queue before it began.")

    def forget(self, job_id: str) -> None:
        """Remember an ended job no longer."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and job.finished:
                del self._jobs[job_id]

    def _work_off(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = self._running = None
                    return
                job, work = self._waiting.popleft()
                self._running = job
            self._do(job, work)

    def _do(self, job: Job, work: Callable[[Job], None]) -> None:
        job.set_state("running")
        try:
            work(job)
        except StoppedError as error:
            job.set_state("interrupted", str(error))
        except CelebBasisError as error:
            job.set_state("failed", str(error))
        except BaseException as error:  # the thread must go on with the next job
            if not is_user_error(error):
                _log.exception("the job %s failed", job.id)
            job.set_state("failed", error_message(error))
        else:
            if not job.finished:
                job.set_state("done")

    def _forget(self) -> None:
        """With the lock held: drop the oldest of too many ended jobs; who can go on stays."""
        ended = [job for job in self._jobs.values() if job.finished and not job.resumable]
        ended.sort(key=lambda job: job.created)
        for job in ended[: max(0, len(ended) - MAX_FINISHED)]:
            del self._jobs[job.id]
        newest = {job.kind: job for job in ended}.values()  # the page shows these
        for job in ended[:-MAX_WITH_PICTURES]:
            if job not in newest:
                job.pictures = ()
