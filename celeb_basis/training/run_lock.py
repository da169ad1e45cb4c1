"""Which runs are running now, in whatever program: a lock for each, which ends with its process however that ends."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from celeb_basis.errors import TrainingError
from celeb_basis.identities.folder_lock import lock_file

_log = logging.getLogger(__name__)

_PREFIX, _SUFFIX = ".run-", ".lock"

_PATIENCE = 1.0
"""Seconds to try for a lock: another program that only looks holds it for a moment."""


class RunningError(TrainingError):
    """The run is under way in another program."""


@contextlib.contextmanager
def running(state: Path | None, whose: str = "") -> Iterator[None]:
    """Hold the lock of a run, so that every program on its folder knows that it is under way.

    A folder that cannot be written, and a file system without locks, are passed over.

    Args:
        state: The file that the run saves itself to, whether or not it exists; ``None`` for a run that is not saved.
        whose: Names of its people, for the message.

    Raises:
        RunningError: Another program is running it.
    """
    with contextlib.ExitStack() as stack:
        if state is not None:
            hold(state, stack, whose)
        yield


def hold(state: Path, stack: contextlib.ExitStack, whose: str = "") -> None:
    """Hold the lock of a run until ``stack`` ends.

    Args:
        state: The file that the run saves itself to.
        stack: Releases the lock.
        whose: Names of its people, for the message.

    Raises:
        RunningError: Another program is running it.
    """
    path = _lock_file(state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.name == "nt":
            _hold_by_name(path, stack)
        else:
            _hold_file(path, stack)
    except TimeoutError:
        raise RunningError(under_way(whose or state.name)) from None
    except (OSError, NotImplementedError) as error:
        _log.debug("%s cannot be locked: %s", path, error)


class RunLocks:
    """The locks that a front end holds for longer than one call, by the run's id. Safe in threads."""

    def __init__(self) -> None:
        self._stacks: dict[str, contextlib.ExitStack] = {}

    def held(self) -> tuple[str, ...]:
        """Ids of the runs whose locks are held."""
        return tuple(self._stacks)

    def hold(self, run: str, state: Path, whose: str) -> None:
        """Hold a run's lock until :meth:`release`.

        Raises:
            RunningError: Another program is running it.
        """
        stack = contextlib.ExitStack()
        hold(state, stack, whose)
        self._stacks[run] = stack

    def release(self, run: str) -> None:
        """Release a run's lock, if it is held."""
        if (stack := self._stacks.pop(run, None)) is not None:
            stack.close()

    @contextlib.contextmanager
    def released_after(self, run: str) -> Iterator[None]:
        """Release a run's lock at the end of a block, however that ends."""
        try:
            yield
        finally:
            self.release(run)


def is_running(state: Path) -> bool:
    """Whether any program, this one included, holds the lock of the run that saves itself to ``state``."""
    return _is_locked(_lock_file(state))


def check_not_running(states: Iterable[Path], whose: str) -> None:
    """Check that nothing of ``whose`` is being learned in another program, before it is deleted.

    Args:
        states: Files that their runs save themselves to, or records beside them.
        whose: Names of the people, for the message.

    Raises:
        RunningError: One of the runs is under way.
    """
    if any(is_running(state) for state in states):
        raise RunningError(under_way(whose))


def sweep_locks(folder: Path) -> None:
    """Delete the lock files in ``folder`` of programs that ended without deleting them."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            _is_locked(path)


def under_way(whose: str) -> str:
    """The message that the run of ``whose`` is under way elsewhere."""
    return (
        f"The run of {whose} is under way in another program, such as a second WebUI or the command line: interrupt it there, "
        "or let it end, and try again."
    )


def _lock_file(state: Path) -> Path:
    """The lock's file, beside the state: programs that share the folder may have different caches. It names nobody."""
    place = Path(os.path.realpath(state))
    return place.with_name(
        _PREFIX + hashlib.sha256(place.stem.encode("utf-8", "surrogatepass")).hexdigest()[:24] + _SUFFIX
    )


def _hold_file(path: Path, stack: contextlib.ExitStack) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        with contextlib.ExitStack() as attempt:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            attempt.callback(os.close, handle)
            lock_file(handle, attempt, end - time.monotonic())
            if _is_file(handle, path):  # else it was deleted between opening and locking it
                attempt.callback(_delete, path)
                stack.push(attempt.pop_all())
                return


def _hold_by_name(path: Path, stack: contextlib.ExitStack) -> None:
    import filelock  # imports asyncio, which a start of the WebUI need not wait for

    stack.callback(_delete, path)  # after the lock is released: Windows deletes no file that is open
    stack.enter_context(filelock.FileLock(str(path), timeout=_PATIENCE))


def _is_locked(path: Path) -> bool:
    """Whether the lock is held. If it is not, its file is deleted."""
    if not path.is_file():
        return False
    try:
        if os.name == "nt":
            with contextlib.ExitStack() as stack:
                _hold_by_name(path, stack)
            return False
        import fcntl

        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: several may look at once
            if _is_file(handle, path):
                _delete(path)
        finally:
            os.close(handle)
    except (BlockingIOError, TimeoutError):
        return True
    except (OSError, NotImplementedError) as error:
        _log.debug("%s cannot be locked: %s", path, error)
    return False


def _is_file(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
