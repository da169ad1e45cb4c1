"""The record of generated files: what this package wrote about people outside of the library, such as pictures and exports.

Each library has one, in which deleting a person finds these files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from celeb_basis.errors import CelebBasisError, FileError, printable
from celeb_basis.files import expanded, explained_os_errors, sha256_of_file, write_json
from celeb_basis.identities.folder_lock import installation_secret, is_equal, signature, writing
from celeb_basis.identities.library import Library, name_key
from celeb_basis.reading import read_json

_log = logging.getLogger(__name__)

RECORD = ".derived.json"
"""File name of the record in the library's folder. No identity can have this name."""

_FORMAT = 1
_UNREADABLE = (CelebBasisError, OSError, ValueError, TypeError, KeyError)


@dataclass(frozen=True)
class GeneratedFile:
    """A file that was written about people, outside of the library."""

    path: Path
    kind: str
    """For the user to read: ``"picture"``, ``"report"``, ``"export"`` and the like."""
    people: tuple[str, ...]
    sha256: str
    """Hash of what was written: a file that has changed since is not ours to delete. Empty for runs, which go on."""
    ours: bool = True
    """Whether this installation wrote the note. A record from elsewhere may name any file of the disk."""

    def is_about(self, name: str) -> bool:
        """Whether ``name`` is one of its people."""
        return name_key(name) in map(name_key, self.people)


class GeneratedFiles:
    """The record of one library. Safe in threads and processes.

    Each note is signed with a secret of this installation. Notes without a valid signature are listed, and their files are
    left alone: they came with the folder from elsewhere, or from version 0.1.0.
    """

    def __init__(self, folder: Path) -> None:
        self._path = Path(folder) / RECORD

    def all(self) -> tuple[GeneratedFile, ...]:
        """All files in the record. A damaged record counts as empty, with a warning in the log."""
        try:
            return self._all()
        except _UNREADABLE as error:
            _log.warning("%s cannot be read, so files noted in it are not known: %s", printable(str(self._path)), error)
            return ()

    def _all(self) -> tuple[GeneratedFile, ...]:
        if not self._path.is_file():
            return ()
        kept, secret = read_json(self._path), installation_secret()
        return tuple(_read(entry, secret) for entry in kept["files"])

    def _all_to_change(self) -> tuple[GeneratedFile, ...]:
        """The same before a record is written again. A damaged one is moved aside: its notes are not to be lost."""
        try:
            return self._all()
        except (FileError, OSError):
            raise
        except _UNREADABLE as error:
            aside = self._path.with_name(f".derived-damaged-{time.time_ns()}.json")
            with explained_os_errors(self._path, "rename"):
                self._path.rename(aside)
            _log.warning("%s cannot be read, so it is kept as %s: %s", printable(str(self._path)), aside.name, error)
            return ()

    def of(self, name: str) -> tuple[GeneratedFile, ...]:
        """Files about ``name``."""
        return tuple(file for file in self.all() if file.is_about(name))

    def note(
        self,
        files: Iterable[Path],
        kind: str,
        people: Sequence[str],
        *,
        changes: bool = False,
        begun: float | None = None,
    ) -> None:
        """Add files to the record. If that fails there is a warning in the log: the files are written already.

        Args:
            files: Files that have just been written.
            kind: What they are, for the user to read.
            people: The names of those they are about.
            changes: Whether this package writes them again, so that their hash changes.
            begun: When the work on them began, by :func:`time.time`. Who was renamed since is noted by the new name, and
                who was deleted since leaves a warning in the log.
        """
        try:
            new = [
                GeneratedFile(path, kind, tuple(people), "" if changes else sha256_of_file(path))
                for path in (expanded(file).absolute() for file in files)
            ]
            if new:
                with writing(self._path.parent, create=True):
                    now = self._names_now(people, begun)
                    new = [replace(file, people=now) for file in new]
                    paths = {file.path for file in new}
                    self._write([*(file for file in self._all_to_change() if file.path not in paths), *new])
        except CelebBasisError as error:
            _log.warning("Deleting %s will not find these files: %s", ", ".join(people), error)

    def _names_now(self, people: Sequence[str], begun: float | None) -> tuple[str, ...]:
        """``people`` by the names that they have since work on them began."""
        if begun is None:
            return tuple(people)
        library = Library(self._path.parent)
        if gone := [name for name in people if library.was_deleted(name, begun)]:
            _log.warning(
                "%s was deleted while files about that person were being made: delete the person again, which deletes "
                "these files.",
                " and ".join(gone),
            )
        return tuple(library.name_now(name, begun) for name in people)

    def rename(self, name: str, new_name: str) -> None:
        """Rename an identity in the record."""
        with writing(self._path.parent):
            known = self.all()
            if any(file.is_about(name) for file in known):
                self._write([_renamed(file, name, new_name) for file in known])

    def forget(self, files: Iterable[GeneratedFile]) -> None:
        """Remove files from the record, which is deleted with the last of them."""
        with writing(self._path.parent):
            gone = {file.path for file in files}
            known = self.all()
            kept = [file for file in known if file.path not in gone]
            if len(kept) < len(known):
                self._write(kept)

    def _write(self, files: Sequence[GeneratedFile]) -> None:
        if not files:
            self._path.unlink(missing_ok=True)
            return
        secret = installation_secret()
        write_json(self._path, {"format": _FORMAT, "files": [_written(file, secret) for file in files]})


def _read(entry: Any, secret: bytes) -> GeneratedFile:
    people = tuple(str(name) for name in entry["people"])
    file = GeneratedFile(Path(entry["path"]), str(entry["kind"]), people, str(entry["sha256"]))
    return replace(file, ours=is_equal(_signature(file, secret), entry.get("signature")))


def _written(file: GeneratedFile, secret: bytes) -> dict[str, Any]:
    entry = {"path": str(file.path), "kind": file.kind, "people": list(file.people), "sha256": file.sha256}
    return entry | {"signature": _signature(file, secret)} if file.ours else entry


def _signature(file: GeneratedFile, secret: bytes) -> str:
    """What only this installation can write beside a note."""
    return signature(secret, str(file.path), file.kind, list(file.people), file.sha256)


def _renamed(file: GeneratedFile, name: str, new_name: str) -> GeneratedFile:
    wanted = name_key(name)
    return replace(file, people=tuple(new_name if name_key(one) == wanted else one for one in file.people))
