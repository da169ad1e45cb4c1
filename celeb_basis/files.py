"""Files: atomic writing, safe names, content hashes, and errors of the system as sentences."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from celeb_basis.errors import FileError, IdentityError

MAX_NAME_LENGTH = 64
"""Longest name of an identity, in characters: it becomes a file name and a placeholder token."""

_LONGEST_SPELLING = 16 * MAX_NAME_LENGTH
"""Longest spelling of a name, in characters, before it is composed and trimmed."""

_LONGEST_ON_WINDOWS = 260
"""Number of characters at which Windows claims that a path does not exist, where long paths are not enabled."""

_WINDOWS_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}
)
_FORBIDDEN_IN_NAMES = re.compile(r'[<>:"/\\|?*()\[\]{}]')


@contextlib.contextmanager
def explained_os_errors(path: Path, action: str) -> Iterator[None]:
    """Turn an ``OSError`` on ``path`` into a :class:`FileError` that says what to do.

    Args:
        path: The file or folder, for the message.
        action: Completes "Could not ... PATH", e.g. ``"write"``.
    """
    try:
        yield
    except OSError as error:
        reason = {
            errno.ENOSPC: "the disk is full: free some space and try again",
            errno.EDQUOT: "your disk quota is used up: free some space and try again",
            errno.EACCES: "permission is denied: choose another folder or change its permissions",
            errno.EPERM: "permission is denied: choose another folder or change its permissions",
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.ENOENT: "it does not exist: check the path",
            errno.ENOTDIR: "part of the path is a file, not a folder: check the path",
            errno.EISDIR: "it is a folder, not a file: check the path",
            errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
        }.get(error.errno or 0, f"{error.strerror or error}: check the path and try again")
        if (
            error.errno == errno.ENOENT
            and os.name == "nt"
            and (length := len(str(Path(path).absolute()))) >= _LONGEST_ON_WINDOWS
        ):
            reason = (
                f"its path has {length} characters, and Windows takes {_LONGEST_ON_WINDOWS - 1} unless long paths are enabled: "
                "choose a folder nearer to the drive's root"
            )
        raise FileError(f"Could not {action} {path}: {reason}.") from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success flush it to the disk and rename it to ``path``.

    On any error the temporary file is removed and ``path`` stays as it was. Missing parent folders are created.

    Raises:
        FileError: For a full disk, a read-only folder and the like.
    """
    path = Path(path)
    if path.parts[:1] == ("~",):  # what is left of a default where there is no home folder
        path = expanded(path)
    with explained_os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A short name of its own: a long target name must not make the temporary one too long.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(), suffix=path.suffix)
        os.close(handle)
        try:
            yield Path(temporary)
            flush_to_disk(Path(temporary))
            with contextlib.suppress(OSError):  # shares without permissions of their own refuse, and lose nothing
                os.chmod(temporary, 0o666 & ~_UMASK)
            replace_file(Path(temporary), path)
            _sync_folder(path.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


_UNSUPPORTED = frozenset(
    getattr(errno, name) for name in ("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOTTY") if hasattr(errno, name)
)
"""How file systems answer that do not have what they are asked for."""

_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between attempts to replace a file that another program, such as a virus scanner, has open on Windows."""


def flush_to_disk(path: Path) -> None:
    """Have a file's content written to the disk, where the file system can be asked to."""
    with open(path, "rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise


def replace_file(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``, which may exist. On shares that cannot rename over a file, that one is moved away first.

    Raises:
        OSError: It is not possible; ``target`` is as it was.
    """
    for pause in (*_PAUSES, None):
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if os.name == "nt" and isinstance(error, PermissionError) and pause is not None and not target.is_dir():
                time.sleep(pause)
                continue
            if error.errno not in (errno.EEXIST, errno.EPERM) or not target.is_file():
                raise
            break
    # Named so that a sweep can put it back, if this process is killed while there is no ``target``.
    aside = aside_of(target)
    if aside.exists() or len(os.fsencode(aside.name)) > _LONGEST_FILE_NAME:
        aside = target.with_name(f"{_prefix()}{time.monotonic_ns()}{target.suffix}")
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except OSError:
        os.rename(aside, target)
        raise
    with contextlib.suppress(FileNotFoundError):  # another program has swept it
        os.unlink(aside)


# Temporary files of writers that were killed

TEMPORARY = ".tmp-"
"""How the names of temporary files begin."""
ASIDE = ".tmp-old."
"""How the names of those begin that :func:`replace_file` moves away."""
_WRITER = re.compile(r"\.tmp-([0-9a-f]{12})-([0-9]{1,10})-")
_LONGEST_FILE_NAME = 255

ABANDONED = 3600.0
"""Seconds without a change after which a temporary file is taken for one of a writer that was killed."""


@functools.cache
def _machine() -> str:
    """What the number of a process counts within: this start of this machine, and the container in it. Empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        numbers = os.readlink("/proc/self/ns/pid")
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(f"{boot}|{numbers}|{platform.node()}".encode()).hexdigest()[:12]


def _prefix() -> str:
    """How the names of this process's temporary files begin."""
    machine = _machine()
    return f"{TEMPORARY}{machine}-{os.getpid()}-" if machine else TEMPORARY


def aside_of(path: Path) -> Path:
    """Where :func:`replace_file` moves ``path`` for a moment, on shares that cannot rename over a file."""
    return path.with_name(ASIDE + path.name)


def is_abandoned(path: Path) -> bool:
    """Whether no writer needs the temporary file ``path``: its process has ended, or it has not changed for an hour.

    A lock cannot tell: on a network share, other machines may write without noticing it.
    """
    found = _WRITER.match(path.name)
    if found and found[1] == _machine() and _has_ended(int(found[2])):
        return True
    try:
        return time.time() - path.stat().st_mtime > ABANDONED
    except OSError:  # it is gone
        return False


def _has_ended(process: int) -> bool:
    """Whether there is no such process. Only for Linux: on Windows, ``os.kill`` ends whatever it is given."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is another user's, or no number of a process
        return False
    return False


def expanded(path: Path | str) -> Path:
    """``path`` with ``~`` at its start replaced by the home folder.

    Raises:
        FileError: There is no such home folder, as in a container that runs under any number.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        if len(user := Path(path).parts[0]) > 1:
            raise FileError(
                f"{path}: there is no user {user[1:]} whose home folder it could be in: check the path."
            ) from error
        raise FileError(
            f"{path} is in the home folder, and the user of this process has none: set HOME to a folder, or "
            "CELEB_BASIS_LIBRARY and CELEB_BASIS_CACHE, or give a path without ~."
        ) from error


SPARE = 16 << 20
"""Bytes that have to be free where results will be saved."""


def check_space(folder: Path) -> None:
    """Check, before long work, that its results can be written into ``folder``, which may have to be created first.

    Raises:
        FileError: The folder cannot be written, or the disk is nearly full.
    """
    folder = expanded(folder).absolute()
    with explained_os_errors(folder, "write into"):
        standing = next((place for place in (folder, *folder.parents) if place.exists()), None)
        if standing is None:  # the letter of a drive that does not exist
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not standing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(standing, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    try:
        free = shutil.disk_usage(standing).free
    except OSError:  # some network shares do not say
        return
    if free < SPARE:
        raise FileError(
            f"The disk of {folder} is nearly full: {free >> 20} MB are free, and {SPARE >> 20} MB are needed to save what will "
            "be learned. Free some space, then start again."
        )


def check_writable(folder: Path) -> None:
    """Create a file in the existing ``folder``, and delete it again.

    Raises:
        OSError: That is not possible.
    """
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".tmp-")
    os.close(handle)
    os.unlink(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write several files, all of them or none: they are on the disk before the first of them gets its name.

    Raises:
        FileError: For a full disk, a read-only folder and the like. All files are as they were.
    """
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    try:
        with contextlib.ExitStack() as stack:
            for path, data in files.items():
                stack.enter_context(atomic_path(path)).write_bytes(data)
    except BaseException:
        for path, content in before.items():
            with contextlib.suppress(OSError, FileError):
                if content is None:
                    path.unlink(missing_ok=True)
                elif not path.is_file() or path.read_bytes() != content:
                    write_bytes(path, content)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8 with Unix line endings."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically, as indented UTF-8 JSON."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def open_regular(path: Path, *, buffered: bool = True) -> BinaryIO:
    """Open the file ``path`` for reading. A named pipe, which would block, a device and a folder are refused.

    Args:
        path: The file.
        buffered: Whether it is read in pieces; faster without for a few large ones.

    Raises:
        FileError: It cannot be opened, or is not an ordinary file.
    """
    with explained_os_errors(path, "read"):
        # A pipe that nobody writes to would block without O_NONBLOCK; ordinary files ignore it.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        handle = os.open(path, flags)
        try:
            mode = os.fstat(handle).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                what = "a named pipe" if stat.S_ISFIFO(mode) else "a device"
                raise FileError(f"Could not read {path}: it is {what}, not a file: choose a file.")
            return open(handle, "rb", -1 if buffered else 0)
        except BaseException:
            os.close(handle)
            raise


def read_bytes(path: Path, most: int) -> bytes:
    """Read the ordinary file ``path``, and no more than one byte beyond ``most``: a longer result is too large a file.

    Raises:
        FileError: It cannot be read, or is not an ordinary file.
    """
    with open_regular(path) as file, explained_os_errors(path, "read"):
        return file.read(most + 1)


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in chunks."""
    digest = hashlib.sha256()
    with explained_os_errors(path, "read"), open_regular(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def checked_name(name: str) -> str:
    """Return ``name`` trimmed and in Unicode's composed form (NFC), if it can name an identity, a file and a token.

    Raises:
        IdentityError: For an empty or overlong name, path parts, control characters, characters with a meaning in prompts
            or file systems, and names that Windows reserves.
    """
    # Composing a text takes time that grows with its square: no longer one than can become a name is composed.
    cleaned = unicodedata.normalize("NFC", name).strip() if len(name) <= _LONGEST_SPELLING else name
    shown = ascii(name[:40])
    if not cleaned:
        raise IdentityError("The name is empty: give the person a name such as person1.")
    if len(cleaned) > MAX_NAME_LENGTH:
        raise IdentityError(f"The name {shown}... has {len(cleaned)} characters: use at most {MAX_NAME_LENGTH}.")
    if any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for char in cleaned):
        raise IdentityError(
            f"The name {shown} contains control or invisible characters: use letters, digits and spaces."
        )
    if bad := _FORBIDDEN_IN_NAMES.search(cleaned):
        raise IdentityError(
            f"The name {shown} contains {bad.group()!r}, which is not possible in file names or prompts: leave it out."
        )
    if cleaned.startswith(".") or cleaned.endswith(".") or cleaned.split(".")[0].casefold() in _WINDOWS_RESERVED:
        raise IdentityError(f"The name {shown} cannot be a file name on every system: choose another one.")
    return cleaned


def now() -> str:
    """The current time as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def cache_folder() -> Path:
    """Folder for files that can be recreated: ``$CELEB_BASIS_CACHE``, or ``celeb-basis`` in the user's cache folder."""
    if chosen := os.environ.get("CELEB_BASIS_CACHE"):
        return expanded(chosen)
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or "~\\AppData\\Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(base) / "celeb-basis"


def bases_cache() -> Path:
    """The folder of bases that were built before, within :func:`cache_folder`."""
    return cache_folder() / "bases"


def _read_umask() -> int:
    """The process's mask of permissions. Linux names it; elsewhere it can only be read by setting it for a moment."""
    with (
        contextlib.suppress(OSError, ValueError, IndexError, StopIteration),
        open("/proc/self/status", encoding="utf-8") as status,
    ):
        return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _read_umask()
"""Read once, while no other thread writes files: what it was when this module was imported."""


def _sync_folder(folder: Path) -> None:
    """Have a rename in ``folder`` written to the disk, where that is possible: network shares and WSL refuse in many ways."""
    if os.name == "nt":
        return  # Windows cannot open a folder; its rename is journaled
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
