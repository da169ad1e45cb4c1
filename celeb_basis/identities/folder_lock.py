"""One writer at a time in a library's folder, across threads and processes; the marks of deletions and renames; the sweep."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from celeb_basis.errors import CelebBasisError, FileError, printable
from celeb_basis.files import ASIDE, TEMPORARY, cache_folder, explained_os_errors, is_abandoned, write_bytes, write_json
from celeb_basis.reading import read_json

_log = logging.getLogger(__name__)

MARKS = ".deleted.json"
"""File name of the marks of deletions."""

_PATIENCE = 30.0
"""Seconds to wait for another writer. A write takes milliseconds."""

_MOST_MARKS = 4 << 20
"""Largest file of marks that is read, in bytes: a run reads it at every step."""

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
    with _MAKING:  # or two threads that come first would get a lock each
        lock = _lock_of(str(folder.absolute()))
    with lock.held():
        yield


class _FolderLock:
    """A lock for threads, and inside of it one for processes: of the folder itself, so that no file is left in it."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._threads = threading.RLock()
        self._locked = False
        """Whether this process has the lock, or tried to get it. Only the thread that holds ``_threads`` asks."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with self._threads, contextlib.ExitStack() as stack:
            if not self._locked and self._folder.is_dir():  # it may be made while the outer of two is held
                self._lock_for_processes(stack)
                self._locked = True
                stack.callback(setattr, self, "_locked", False)
            yield

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
    handle = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, handle)
    lock_file(handle, stack, _PATIENCE)


def lock_file(handle: int, stack: contextlib.ExitStack, patience: float) -> None:
    """Hold the lock of an open file or folder until ``stack`` ends; not on Windows.

    Args:
        handle: Its file descriptor, which ``stack`` closes.
        stack: Releases the lock.
        patience: Seconds to try.

    Raises:
        TimeoutError: Another process holds it.
        OSError: The file system has no locks.
    """
    import fcntl

    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Closing alone would leave the lock to a process that was forked in the meantime.
            stack.callback(_unlock, handle)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError from None
            time.sleep(0.005)


def _unlock(handle: int) -> None:
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)


def _lock_by_name(folder: Path, stack: contextlib.ExitStack) -> None:
    """Windows locks no folders: a file in the cache stands for it."""
    import filelock  # imports asyncio, which a start of the WebUI need not wait for

    path = cache_folder() / "locks" / (hashlib.sha256(str(folder).casefold().encode()).hexdigest()[:32] + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    stack.enter_context(filelock.FileLock(str(path), timeout=_PATIENCE))


_MAKING = threading.Lock()


@functools.cache
def _lock_of(folder: str) -> _FolderLock:
    return _FolderLock(folder)


# Temporary files of writers that were killed


def is_temporary(path: Path) -> bool:
    """Whether ``path`` is a temporary file of :func:`celeb_basis.files.atomic_path`, in use or left by a killed writer."""
    return path.name.startswith(TEMPORARY) and path.is_file() and not path.is_symlink()


def temporary_files(folder: Path) -> tuple[Path, ...]:
    """The temporary files in ``folder``, in use or not; none if it cannot be read."""
    with contextlib.suppress(OSError):
        return tuple(path for path in sorted(folder.iterdir()) if is_temporary(path))
    return ()


def sweep(folder: Path) -> None:
    """Delete the temporary files in ``folder`` that no writer needs. What cannot be deleted stays, with a warning in the log.

    A file that :func:`celeb_basis.files.replace_file` had moved away when it was killed is put back if nothing took its place.
    """
    problem: object = None
    for path in temporary_files(folder):
        try:
            target = path.with_name(path.name.removeprefix(ASIDE))
            if path.name.startswith(ASIDE) and not os.path.lexists(target):
                os.rename(path, target)
            elif path.name.startswith(ASIDE) or is_abandoned(path):
                path.unlink(missing_ok=True)
        except FileNotFoundError:  # another program has swept it
            pass
        except OSError as error:
            problem = error
    if problem is not None:
        _log.warning("Temporary files in %s could not be deleted: %s", printable(str(folder)), problem)


# Marks: who was deleted and who was renamed, for runs that began before that and end after it


@dataclass(frozen=True)
class Renamed:
    """One name that a person of the library had before."""

    former: str
    """Hash of the former name's key."""
    key: str
    """Hash of the present name's key."""
    name: str
    """The present name."""
    when: float
    """When the former name was given up, a :func:`time.time`."""
    ours: bool = True
    """Whether this installation renamed the person. Marks from elsewhere may give anybody's runs to anybody."""


@dataclass(frozen=True)
class Marks:
    """The marks in a library's folder.

    A person who was deleted is a hash of the name, which is kept for 30 days. The former names of those who are in the
    library are hashes as well, which are kept until they are deleted.
    """

    deleted: Mapping[str, float] = field(default_factory=dict)
    """When a name was deleted, or given up by a person who was deleted later, by the hash of its key."""
    renamed: Sequence[Renamed] = ()

    def was_deleted(self, key: str, begun: float) -> bool:
        """Whether the person who had the name with this ``key`` at the time ``begun`` was deleted after it."""
        deleted = self.deleted.get(_hash(key))
        return deleted is not None and deleted >= begun and self.name_now(key, begun) is None

    def name_now(self, key: str, begun: float) -> str | None:
        """What a person is called now who had the name with this ``key`` at the time ``begun``; ``None`` for the same."""
        former = _hash(key)
        found = [one for one in self.renamed if one.ours and one.former == former and one.when >= begun]
        return min(found, key=lambda one: one.when).name if found else None


def mark_deleted(folder: Path, keys: Iterable[str]) -> None:
    """Note that people were deleted just now, so that a run that is still learning them does not bring them back.

    A run that began under a name that one of them had before is held to belong to them as well. Where nothing can be
    written, there is a warning in the log.

    Args:
        folder: The library's folder.
        keys: Keys of the names, by :func:`~celeb_basis.identities.library.name_key`.
    """
    now = time.time()
    gone = {_hash(key) for key in keys}

    def change(marks: Marks) -> Marks:
        deleted = {mark: when for mark, when in marks.deleted.items() if now - when < _KEPT}
        for one in marks.renamed:
            if one.key in gone:
                # From that moment on, the former name may be another person's.
                deleted[one.former] = max(one.when, deleted.get(one.former, one.when))
        return Marks(deleted | dict.fromkeys(gone, now), [one for one in marks.renamed if one.key not in gone])

    _change(folder, change)


def mark_renamed(folder: Path, key: str, new_key: str, new_name: str) -> None:
    """Note that a person was renamed just now, so that runs that began before are known to be about them.

    Args:
        folder: The library's folder.
        key: Key of the former name.
        new_key: Key of the new one.
        new_name: The new name.
    """
    former, present = _hash(key), _hash(new_key)

    def change(marks: Marks) -> Marks:
        renamed = [replace(one, key=present, name=new_name) if one.key == former else one for one in marks.renamed]
        renamed.append(Renamed(former, present, new_name, time.time()))
        return Marks(marks.deleted, [one for one in renamed if one.former != one.key])

    if former != present:
        _change(folder, change)


def begun_of(state: Mapping[str, Any], path: Path) -> float:
    """When a saved run began, as a :func:`time.time` that deletions and renames are compared with.

    Args:
        state: What the run's file says about it. Version 0.1.0 noted when it was saved, and the first versions nothing.
        path: The run's file, whose own time counts then.

    Raises:
        ValueError: What the file says is no time.
        OSError: The file is gone.
    """
    try:
        if begun := state.get("begun"):
            return float(begun)
        return datetime.fromisoformat(state["saved"]).timestamp() if "saved" in state else path.stat().st_mtime
    except OverflowError:
        raise ValueError("no time") from None


def deleted_since(folder: Path, key: str, begun: float) -> bool:
    """Whether the person who had the name with this ``key`` at ``begun``, a :func:`time.time`, was deleted after it."""
    return marks_of(folder).was_deleted(key, begun)


def marks_of(folder: Path) -> Marks:
    """The marks in ``folder``. Damaged ones count as none, with a warning in the log."""
    path = folder / MARKS
    if not path.is_file():
        return Marks()
    try:
        content = read_json(path, most_bytes=_MOST_MARKS)
        deleted = {str(mark): float(when) for mark, when in content["deleted"].items()}
        entries = content.get("renamed", ())
        secret = installation_secret(create=False) if entries else b""
        renamed = [_read_renamed(one, secret) for one in entries]
        return Marks(deleted, renamed)
    except (CelebBasisError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("The marks of deletions in %s cannot be read: %s", printable(str(folder)), error)
        return Marks()


def _change(folder: Path, change: Callable[[Marks], Marks]) -> None:
    try:
        with writing(folder, create=True):  # a first run may have been deleted before there was a folder
            marks = change(marks_of(folder))
            secret = installation_secret() if any(one.ours for one in marks.renamed) else b""
            renamed = [_written_renamed(one, secret) for one in marks.renamed]
            write_json(folder / MARKS, {"format": _FORMAT, "deleted": dict(marks.deleted), "renamed": renamed})
    except CelebBasisError as error:
        _log.warning("A run that is still learning a deleted person may bring them back: %s", error)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _read_renamed(entry: Mapping[str, Any], secret: bytes) -> Renamed:
    one = Renamed(str(entry["former"]), str(entry["key"]), str(entry["name"]), float(entry["when"]))
    return replace(one, ours=bool(secret) and is_equal(_renamed_signature(one, secret), entry.get("signature")))


def _written_renamed(one: Renamed, secret: bytes) -> dict[str, Any]:
    entry = {"former": one.former, "key": one.key, "name": one.name, "when": one.when}
    return entry | {"signature": _renamed_signature(one, secret)} if one.ours else entry


def _renamed_signature(one: Renamed, secret: bytes) -> str:
    return signature(secret, "renamed", one.former, one.key, one.name, one.when)


# Signatures: what this installation noted is known from what came with a folder

_KEY = "record.key"
"""File in the cache folder with the secret by which this installation knows its own notes again."""


def signature(secret: bytes, *values: Any) -> str:
    """What only this installation can write beside ``values``, which are ready for JSON."""
    return hmac.new(secret, json.dumps(values).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def is_equal(valid: str, given: Any) -> bool:
    """Whether a signature that was read, and may be anything, is the valid one."""
    return hmac.compare_digest(valid.encode(), str(given).encode("utf-8", "surrogatepass"))


def installation_secret(*, create: bool = True) -> bytes:
    """32 random bytes of this installation, made when they are first needed.

    Args:
        create: Make them if there are none; otherwise the answer is empty.

    Raises:
        FileError: They cannot be written.
    """
    try:
        path = cache_folder() / _KEY
        with contextlib.suppress(OSError):
            if path.is_file() and len(kept := path.read_bytes()) == 32:
                return kept
    except FileError:  # there is no home folder
        if create:
            raise
    if not create:
        return b""
    with writing(path.parent, create=True), explained_os_errors(path, "write"):
        if not path.is_file() or path.stat().st_size != 32:
            write_bytes(path, secrets.token_bytes(32))
            with contextlib.suppress(OSError):
                path.chmod(0o600)
        return path.read_bytes()
