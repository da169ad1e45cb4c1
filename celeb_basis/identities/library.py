"""The library: a folder of identity files, each named like its identity, with the sidecar files beside them."""

from __future__ import annotations

import logging
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from celeb_basis.errors import CelebBasisError, FileError, IdentityError, printable
from celeb_basis.files import checked_name, expanded, explained_os_errors, write_all
from celeb_basis.identities.folder_lock import deleted_since, mark_renamed, marks_of, sweep, writing
from celeb_basis.identities.identity import SUFFIX, Identity, identity_to_bytes, load_identity, save_identity

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IdentityStatus:
    """What is known about one identity file: its identity, or why there is none."""

    name: str
    path: Path
    identity: Identity | None = None
    """As it was read, or as it was fitted to the loaded checkpoint; ``None`` if that was not possible."""
    problem: str = ""
    """Why the file cannot be read; else empty."""
    reason: str = ""
    """Why prompts cannot use the identity on the loaded checkpoint; else empty. The ``problem``, if there is one."""

    @property
    def placeholder_token(self) -> str:
        """How prompts name the identity."""
        return f"<{self.name}>"

    @property
    def available(self) -> bool:
        """Whether prompts can use the identity."""
        return not self.reason

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, without the thumbnail."""
        status: dict[str, Any] = {
            "name": self.name,
            "word": self.placeholder_token,
            "problem": self.problem,
            "available": self.available,
            "reason": self.reason,
        }
        if self.identity is None:
            return status
        metadata = self.identity.metadata
        return status | {
            "hash": self.identity.content_hash,
            "base_model": metadata.base_model,
            "family": metadata.family,
            "learned_on": metadata.learned_on or metadata.base_model,
            "face_model": metadata.face_model,
            "steps": metadata.steps,
            "settings": dict(metadata.settings),
            "consent": metadata.consent,
            "notes": metadata.notes,
            "source": metadata.source,
            "created": metadata.created,
            "has_thumbnail": metadata.thumbnail is not None,
        }


class Library:
    """The identity files of one folder. The folder is made when the first identity is added.

    Names that differ only in case, or in how accents are composed, are one name, since file systems disagree on them.
    """

    def __init__(self, folder: Path) -> None:
        folder = Path(folder)
        self.folder = expanded(folder) if folder.parts[:1] == ("~",) else folder

    def names(self) -> tuple[str, ...]:
        """Names of all identity files, intact or broken, in order; none if there is no such folder.

        Raises:
            FileError: The folder cannot be read.
        """
        return tuple(name for name, _ in self._files())

    def files(self) -> tuple[tuple[str, Path], ...]:
        """Names and paths of all identity files, intact or broken, in order. No file is read.

        Raises:
            FileError: The folder cannot be read.
        """
        return tuple(self._files())

    def entries(self) -> tuple[IdentityStatus, ...]:
        """Every identity file, read. A broken one comes with its problem and hides no other."""
        found: list[IdentityStatus] = []
        names: dict[str, str] = {}
        for name, path in self._files():
            if (status := self.entry(name, path)) is None:
                continue
            if (first := names.setdefault(name_key(name), name)) != name:
                reason = f"{first!r} counts as the same name: rename one of them."
                status = replace(status, reason=status.reason or reason)
            found.append(status)
        return tuple(found)

    def entry(self, name: str, path: Path) -> IdentityStatus | None:
        """One of :meth:`files`, read. A broken one comes with its problem; ``None`` for one that was deleted just now."""
        try:
            return IdentityStatus(name, path, self._read(name, path))
        except CelebBasisError as error:
            return IdentityStatus(name, path, problem=str(error), reason=str(error)) if path.exists() else None

    def path_of(self, name: str) -> Path:
        """The file of ``name``: the existing one, or where it would be written.

        Raises:
            IdentityError: The name is unusable.
        """
        return self._existing(name) or self.folder / (checked_name(name) + SUFFIX)

    def load(self, name: str) -> Identity:
        """The identity called ``name``.

        Raises:
            IdentityError: There is none, or its file is broken.
        """
        path = self._present(name)
        try:
            return self._read(_name_of(path), path)
        except FileError:
            self._present(name)  # which raises, if the person was deleted just now
            raise

    def add(self, identity: Identity, *, replace: bool = False, begun: float | None = None) -> Path:
        """Write ``identity`` into the folder, and return its file. Of several who add a name at once, one succeeds.

        Args:
            identity: The identity.
            replace: Whether an identity of that name is replaced.
            begun: When the work on it began, by :func:`time.time`: a person who was deleted since then is not added.

        Raises:
            IdentityError: The name is taken, and ``replace`` is off; or the person was deleted in the meantime.
            FileError: The folder cannot be written to.
        """
        (path,) = self.add_all([identity], replace=replace, begun=begun)
        return path

    def add_all(
        self, identities: Sequence[Identity], *, replace: bool = False, begun: float | None = None
    ) -> tuple[Path, ...]:
        """Write several identities into the folder, all of them or none, and return their files. See :meth:`add`.

        Raises:
            IdentityError: A name is taken, and ``replace`` is off; or a person was deleted in the meantime.
            FileError: The folder cannot be written to.
        """
        with writing(self.folder, create=True):
            keys = [name_key(identity.name) for identity in identities]
            before = [self._existing(identity.name) for identity in identities]
            for identity, taken, key in zip(identities, before, keys, strict=True):
                if keys.count(key) > 1:
                    raise IdentityError(f"Two people are both called {identity.name!r}: give each a name of their own.")
                if taken is not None and not replace:
                    raise self._taken(identity.name, taken)
                self.check_not_deleted(identity.name, begun)
            paths = [self.folder / (identity.name + SUFFIX) for identity in identities]
            write_all(dict(zip(paths, map(identity_to_bytes, identities), strict=True)))
            for previous, path in zip(before, paths, strict=True):
                if previous is not None and previous.exists() and not previous.samefile(path):  # another spelling
                    with explained_os_errors(previous, "delete"):
                        previous.unlink()
            return tuple(paths)

    def was_deleted(self, name: str, begun: float) -> bool:
        """Whether the person who was called ``name`` at the time ``begun``, a :func:`time.time`, was deleted after it."""
        return deleted_since(self.folder, name_key(name), begun)

    def name_now(self, name: str, begun: float) -> str:
        """What the person is called now who was called ``name`` at the time ``begun``: ``name``, unless renamed since."""
        return marks_of(self.folder).name_now(name_key(name), begun) or name

    def work_on(self, people: Iterable[str]) -> Callable[[Iterable[str], float], bool]:
        """A function that says whether work on certain names, which began at a certain time, is about any of ``people``.

        Who was renamed is known by the former name to work that began before.
        """
        wanted, marks = set(map(name_key, people)), marks_of(self.folder)

        def is_about(names: Iterable[str], begun: float) -> bool:
            return any(name_key(marks.name_now(name_key(name), begun) or name) in wanted for name in names)

        return is_about

    def check_not_deleted(self, name: str, begun: float | None) -> None:
        """Do nothing, unless ``name`` was deleted after ``begun``.

        Raises:
            IdentityError: It was.
        """
        if begun is not None and self.was_deleted(name, begun):
            raise IdentityError(
                f"{name!r} was deleted after this had begun, so nothing of it was kept: to have the person again, start a "
                "new run."
            )

    def update(self, name: str, change: Callable[[Identity], Identity]) -> Path:
        """Write the identity called ``name`` again as ``change`` gives it, with no other writer in between.

        Raises:
            IdentityError: There is none (any more), or its file is broken.
            FileError: The folder cannot be written to.
        """
        with writing(self.folder):
            return self.add(change(self.load(name)), replace=True)

    def rename(self, name: str, new_name: str) -> Path:
        """Rename an identity, and return its new file.

        Raises:
            IdentityError: There is none called ``name``, or the new name is taken or unusable.
        """
        new_name = checked_name(new_name)
        with writing(self.folder):
            sweep(self.folder)
            path = self._present(name)
            if (taken := self._existing(new_name)) is not None and taken != path:
                raise self._taken(new_name, taken)
            identity = load_identity(path)
            # Renamed on the disk instead of written again and deleted: "Ada" and "ada" are one file on many file systems.
            save_identity(replace(identity, name=new_name), path)
            target = self.folder / (new_name + SUFFIX)
            with explained_os_errors(path, "rename"):
                path.rename(target)
            mark_renamed(self.folder, name_key(name), name_key(new_name), new_name)
            return target

    def delete(self, name: str) -> None:
        """Delete the identity called ``name``, intact or broken.

        Raises:
            IdentityError: There is none.
            FileError: It cannot be deleted.
        """
        with writing(self.folder):
            sweep(self.folder)
            path = self._present(name)
            with explained_os_errors(path, "delete"):
                path.unlink()

    def sweep(self) -> None:
        """Delete the temporary files of writers that were killed; what cannot be deleted stays, with a warning in the log."""
        if not self.folder.is_dir():
            return
        try:
            with writing(self.folder):
                sweep(self.folder)
        except CelebBasisError as error:
            _log.warning("Temporary files in %s could not be deleted: %s", self.folder, error)

    def _files(self) -> Iterator[tuple[str, Path]]:
        with explained_os_errors(self.folder, "list"):
            try:
                everything = sorted(self.folder.iterdir())
            except (FileNotFoundError, NotADirectoryError) as error:
                if not self.folder.is_file():
                    return
                raise FileError(f"{self.folder} is a file, not a folder: give the folder of the identities.") from error
            paths = [
                path
                for path in everything
                if path.suffix.lower() == SUFFIX and not path.name.startswith(".") and path.is_file()
            ]
        for path in paths:
            yield _name_of(path), path

    def _read(self, name: str, path: Path) -> Identity:
        # The file's name counts: a user may have renamed it in a file manager.
        return replace(load_identity(path), name=name)

    def _existing(self, name: str) -> Path | None:
        name = checked_name(name)
        wanted = name_key(name)
        paths = {other: path for other, path in self._files() if name_key(other) == wanted}
        # Where two files differ only in case, each is found by its own spelling.
        return paths.get(name) or next(iter(paths.values()), None)

    def _present(self, name: str) -> Path:
        path = self._existing(name)
        if path is None:
            known = ", ".join(self.names()[:20]) or "nobody yet"
            raise IdentityError(f"There is no identity {name!r} in {self.folder}: it holds {known}.")
        return path

    def _taken(self, name: str, path: Path) -> IdentityError:
        same = "" if _name_of(path) == name else f" as {_name_of(path)!r}, which counts as the same name"
        return IdentityError(
            f"There is already an identity {name!r} in {self.folder}{same}: choose another name or replace it."
        )


def _name_of(path: Path) -> str:
    return unicodedata.normalize("NFC", path.name[: -len(SUFFIX)])


_LONGEST = 1024
"""Characters; no longer text names anybody."""


def name_key(name: str) -> str:
    """The key of a name: the same for spellings that differ only in case or in how accents are composed."""
    if len(name) > _LONGEST:  # composing takes time that grows with the square of a text's length
        return name
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


# Sidecar files: the host's cards put a preview and the user's own description beside an identity

_PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "avif", "jxl")
_ENDINGS = (".json", *(f".preview.{kind}" for kind in _PICTURES), *(f".{kind}" for kind in _PICTURES))


def sidecar_files(path: Path) -> tuple[Path, ...]:
    """The sidecar files of the identity file ``path``."""
    return tuple(file for _, file in _sidecars(path))


def move_sidecars(path: Path, target: Path) -> None:
    """Rename the sidecar files of the identity file ``path``, which is called ``target`` now.

    A file that cannot be renamed stays, with a warning in the log: the identity is renamed already.
    """
    for ending, file in _sidecars(path):
        try:
            file.replace(target.with_name(_stem(target) + ending))
        except OSError as error:
            _log.warning("%s could not be renamed with %s: %s", printable(str(file)), target.name, error)


def _sidecars(path: Path) -> list[tuple[str, Path]]:
    found = [(ending, path.with_name(_stem(path) + ending)) for ending in _ENDINGS]
    return [(ending, file) for ending, file in found if file.is_file()]


def _stem(path: Path) -> str:
    return path.name[: -len(path.suffix)]


# Listing: for every prompt that is read, the names in a library's folder

_COARSEST_CLOCK = 2.0
"""Seconds between FAT's time stamps. A folder changed more recently may change again under the same stamp."""


class Listing:
    """Names and files of a library's folder, as :class:`Library` gives them, without reading a file. Safe in threads.

    Each question costs one ``stat`` of the folder, which is listed again only when its time stamp has changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._stamp: int | None = None
        self._files: dict[str, tuple[str, str]] = {}

    def find(self, text: str) -> tuple[str, str] | None:
        """Name and path of the identity called ``text``, as typed: in any case, with spaces around it. ``None`` for none."""
        return self._current().get(name_key(text.strip()))

    def names(self) -> tuple[str, ...]:
        """All names, in no order."""
        return tuple(name for name, _ in self._current().values())

    def files(self) -> tuple[tuple[str, Path], ...]:
        """All names with their files, in alphabetical order, from one listing of the folder."""
        found = sorted(self._current().values(), key=lambda one: (one[0].casefold(), one[0]))
        return tuple((name, Path(path)) for name, path in found)

    def keyed(self) -> Mapping[str, tuple[str, str]]:
        """Names and paths by the names' keys; the same object for as long as the folder has not changed."""
        return self._current()

    def _current(self) -> dict[str, tuple[str, str]]:
        try:
            stamp = os.stat(self.folder).st_mtime_ns
        except OSError:  # no folder yet
            return {}
        if stamp != self._stamp:
            with self._lock:
                # Read before the clock: a change in between makes the stamp too new, never too old.
                settled = time.time() - stamp / 1e9 > _COARSEST_CLOCK
                try:
                    self._files = _listed(self.folder)
                except OSError as error:
                    _log.warning("The folder of the identities %s cannot be listed: %s", self.folder, error)
                self._stamp = stamp if settled else None
        return self._files


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is an ordinary file, or a link to one: reading a named pipe would wait for ever."""
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _listed(folder: Path) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            file = entry.name
            if file[-len(SUFFIX) :].lower() == SUFFIX and not file.startswith(".") and _is_file(entry):
                name = unicodedata.normalize("NFC", file[: -len(SUFFIX)])
                found.setdefault(name_key(name), (name, entry.path))
    return found
