"""The program with its queue shared out: a wait that can be given up, and looks at the model beside a job that holds it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import StoppedError

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.hosts.a1111.app import HostApp
    from celeb_basis.prompts.registry import Checkpoint
    from celeb_basis.webui.jobs import Job

_LOOK = 0.1
"""Seconds between two looks at whether somebody who waits has been stopped."""


class HostQueue:
    """A :class:`HostApp` with two ways in: :meth:`exclusive` for who works with the model, :meth:`looking` for who reads it.

    Readers wait for the program's queue as everybody does, unless one of our own jobs holds it: they look beside that, and
    the job does not give the queue back before they are done.
    """

    def __init__(self, program: HostApp) -> None:
        self._program = program
        self._changed = threading.Condition()
        self._held = False
        self._readers = 0

    @contextlib.contextmanager
    def write_lock(self, job: Job | None) -> Iterator[None]:
        """As the program's own, except that an interrupted job waits no longer.

        Raises: :class:`StoppedError` if ``job`` was interrupted before its turn came.
        """
        turn = _Turn(self._program, job)
        while not turn.came.wait(_LOOK):
            if job is not None and job.interrupt.is_set():
                turn.end(wait=False)
                raise StoppedError("It was interrupted while it waited for the WebUI, before it began.")
        with turn:
            with self._changed:
                self._held = True
                self._changed.notify_all()
            try:
                yield
            finally:
                with self._changed:
                    self._held = False
                    self._changed.wait_for(lambda: not self._readers)

    @contextlib.contextmanager
    def read_lock(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """The model to read from, while nobody else than one of our own jobs works with it.

        Raises: :class:`StoppedError` if ``stopped`` says so during the wait.
        """
        if self._join():
            yield from self._beside()
            return
        turn = _Turn(self._program, None)
        while not turn.came.wait(_LOOK):
            if self._join():  # it came before us
                turn.end(wait=False)
                yield from self._beside()
                return
            if stopped():
                turn.end(wait=False)
                raise StoppedError("It was interrupted while it waited for the WebUI, before it began.")
        with turn:
            yield

    def _join(self) -> bool:
        with self._changed:
            self._readers += self._held
            return self._held

    def _beside(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    # The rest is the program's own

    def loaded_model(self) -> DiffusionModel:
        """See :class:`HostApp`."""
        return self._program.loaded_model()

    def model_key(self) -> object | None:
        """See :class:`HostApp`."""
        return self._program.model_key()

    def stop_reason(self) -> str:
        """See :class:`HostApp`."""
        return self._program.stop_reason()

    def reload_began(self) -> None:
        """See :class:`HostApp`."""
        self._program.reload_began()

    def stop_generation(self) -> None:
        """See :class:`HostApp`."""
        self._program.stop_generation()

    def sampling_step(self) -> int:
        """See :class:`HostApp`."""
        return self._program.sampling_step()

    def report(self, job: Job) -> None:
        """See :class:`HostApp`."""
        self._program.report(job)

    def embedding_names(self) -> frozenset[str]:
        """See :class:`HostApp`."""
        return self._program.embedding_names()

    def embeddings_folder(self) -> Path:
        """See :class:`HostApp`."""
        return self._program.embeddings_folder()

    def checkpoint(self) -> Checkpoint | None:
        """See :class:`HostApp`."""
        return self._program.checkpoint()


class _Turn:
    """A place in the program's queue, held by a thread of its own: a lock's own wait cannot be given up."""

    def __init__(self, program: HostApp, job: Job | None) -> None:
        self.came = threading.Event()
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._hold, args=(program, job), name="celeb-basis turn", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        if self._error is not None:
            raise self._error

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, *, wait: bool = True) -> None:
        """Give the turn back, or up if it has not come."""
        self._over.set()
        if not wait:
            return
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _hold(self, program: HostApp, job: Job | None) -> None:
        try:
            with program.write_lock(job):
                self.came.set()
                self._over.wait()
        except BaseException as error:
            self._error = error
        finally:
            self.came.set()
