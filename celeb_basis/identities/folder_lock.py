"""One writer at a time in a library's folder, across threads and processes, and the marks that deletions leave there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from celeb_basis.errors import CelebBasisError, FileError
from celeb_basis.files import cache_folder, explained_os_errors, write_json
from celeb_basis.reading import read_json

_log = logging.getLogger(__name__)

MARKS = ".deleted.json"
"""File name of the marks of deletions."""

_PATIENCE = 30.0
"""Seconds to wait for another writer. A write takes milliseconds."""

_FORMAT = 1
_KEPT = 30 * 24 * 3600.0
"""Seconds after which a mark is removed: no run takes longer."""


@contextlib.contextmanager
def writing(folder: Path, *, create: bool = False) -> Iterator[None]:
    """Be the only one who changes ``folder``, among threads and processes. May be nested. Reading needs no lock.

    A folder that does not exist is locked for threads only, and so is one on a file system without locks.

    Args:
        folder: The library's folder.
        create: Make the folder if there is none.

    Raises:
        FileError: Another program has been writing for half a minute, or the folder cannot be made.
    """
    if create:
        with explained_os_errors(folder, "write"):
            folder.mkdir(parents=True, exist_ok=True)
    with _lock_of(str(folder.absolute())).held():
        yield


class _FolderLock:
    """A lock for threads, and inside of it one for processes: of the folder itself, so that no file is left in it."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._threads = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with self._threads, contextlib.ExitStack() as stack:
            if self._depth == 0 and self._folder.is_dir():
                self._lock_for_processes(stack)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def _lock_for_processes(self, stack: contextlib.ExitStack) -> None:
        """Lock the folder until ``stack`` ends. Where file systems have no locks, threads alone take turns."""
        try:
            if os.name == "nt":
                _lock_by_name(self._folder, stack)
            else:
                _lock_folder(self._folder, stack)
        except TimeoutError:
            raise FileError(
                f"Another program has been changing {self._folder} for {_PATIENCE:.0f} seconds: let it finish, and try again."
            ) from None
        except (OSError, NotImplementedError) as error:
            _log.debug("%s cannot be locked: %s", self._folder, error)


def _lock_folder(folder: Path, stack: contextlib.ExitStack) -> None:
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, handle)  # which unlocks
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError from None
            time.sleep(0.005)


def _lock_by_name(folder: Path, stack: contextlib.ExitStack) -> None:
    """Windows locks no folders: a file in the cache stands for it."""
    import filelock  # imports asyncio, which a start of the WebUI need not wait for

    path = cache_folder() / "locks" / (hashlib.sha256(str(folder).casefold().encode()).hexdigest()[:32] + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    stack.enter_context(filelock.FileLock(str(path), timeout=_PATIENCE))


@functools.cache
def _lock_of(folder: str) -> _FolderLock:
    return _FolderLock(folder)


def mark_deleted(folder: Path, keys: Iterable[str]) -> None:
    """Note that people were deleted just now, so that a run that is still learning them does not bring them back.

    Only a hash of each name is kept, for 30 days. Where nothing can be written, there is a warning in the log.

    Args:
        folder: The library's folder.
        keys: Keys of the names, by :func:`~celeb_basis.identities.library.name_key`.
    """
    now = time.time()
    try:
        with writing(folder, create=True):  # a first run may have been deleted before there was a folder
            marks = {mark: when for mark, when in _marks(folder).items() if now - when < _KEPT}
            marks |= {_mark(key): now for key in keys}
            write_json(folder / MARKS, {"format": _FORMAT, "deleted": marks})
    except CelebBasisError as error:
        _log.warning("A run that is still learning a deleted person may bring them back: %s", error)


def deleted_since(folder: Path, key: str, begun: float) -> bool:
    """Whether a person was deleted after ``begun``, a :func:`time.time`."""
    return _marks(folder).get(_mark(key), 0.0) >= begun


def _mark(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _marks(folder: Path) -> dict[str, float]:
    path = folder / MARKS
    if not path.is_file():
        return {}
    try:
        return {str(mark): float(when) for mark, when in read_json(path)["deleted"].items()}
    except (CelebBasisError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("The marks of deletions in %s cannot be read: %s", folder, error)
        return {}
