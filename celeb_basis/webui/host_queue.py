"""The host's queue, shared by our jobs: one of them writes to the model while others may read beside it.

A host lets one piece of work at a time use the model. :class:`HostQueue` adds two things: waiting for that turn can be
interrupted, and readers, who only look at weights and tokenizers, join a job of ours instead of waiting for its end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from celeb_basis.errors import StoppedError
from celeb_basis.hosts.a1111.app import HostApp

_POLL = 0.1
"""Seconds between two checks whether a wait was interrupted."""


class HostQueue:
    """Turns at the model of ``app``: :meth:`write_lock` for work with it, :meth:`read_lock` for a look at it.

    Readers wait for the host's queue like everything else, unless one of our own jobs holds it: then they read beside
    that job, and the job does not give the queue back before they are done.
    """

    def __init__(self, app: HostApp) -> None:
        self.app = app
        self._changed = threading.Condition()
        self._held = False
        self._readers = 0

    @contextlib.contextmanager
    def write_lock(self, task: str | None = None, interrupt: threading.Event | None = None) -> Iterator[None]:
        """Hold the host's queue, as :meth:`HostApp.write_lock` does.

        Args:
            task: The id under which the host's progress display shows the work.
            interrupt: Ends the wait when it is set.

        Raises:
            StoppedError: ``interrupt`` was set before the turn came.
        """
        turn = _Turn(self.app, task)
        while not turn.came.wait(_POLL):
            if interrupt is not None and interrupt.is_set():
                turn.end(wait=False)
                raise _interrupted()
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
    def read_lock(self, interrupt: threading.Event | None = None) -> Iterator[None]:
        """Keep everything but our own jobs from changing the model.

        Args:
            interrupt: Ends the wait when it is set.

        Raises:
            StoppedError: ``interrupt`` was set during the wait.
        """
        if self._join():
            yield from self._beside_a_job()
            return
        turn = _Turn(self.app, None)
        while not turn.came.wait(_POLL):
            if self._join():  # one of our jobs came first
                turn.end(wait=False)
                yield from self._beside_a_job()
                return
            if interrupt is not None and interrupt.is_set():
                turn.end(wait=False)
                raise _interrupted()
        with turn:
            yield

    def _join(self) -> bool:
        with self._changed:
            self._readers += self._held
            return self._held

    def _beside_a_job(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()


class _Turn:
    """A place in the host's queue, held by a thread of its own: a lock's own wait cannot be given up."""

    def __init__(self, app: HostApp, task: str | None) -> None:
        self.came = threading.Event()
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._hold, args=(app, task), name="celeb-basis turn", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        if self._error is not None:
            raise self._error

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, *, wait: bool = True) -> None:
        """Give the turn back, or give it up if it has not come."""
        self._over.set()
        if not wait:
            return
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _hold(self, app: HostApp, task: str | None) -> None:
        try:
            with app.write_lock(task):
                self.came.set()
                self._over.wait()
        except BaseException as error:
            self._error = error
        finally:
            self.came.set()


def _interrupted() -> StoppedError:
    return StoppedError("It was interrupted while it waited for the WebUI, before it began.")
