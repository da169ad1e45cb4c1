"""Which files we wrote about people outside of the library: pictures, reports, exports. Deleting a person finds them here."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from celeb_basis.errors import CelebBasisError
from celeb_basis.files import sha256_of_file, write_json
from celeb_basis.identities.library import name_key

_log = logging.getLogger(__name__)

RECORD = ".derived.json"
"""In the library's folder. No person can be called so."""

_FORMAT = 1
_lock = threading.Lock()


@dataclass(frozen=True)
class DerivedFile:
    """A file that was written about people."""

    path: Path
    kind: str
    """For people to read: ``"picture"``, ``"report"``, ``"export"`` and the like."""
    people: tuple[str, ...]
    sha256: str
    """Of what was written: a file that is another one by now is not ours to delete. Empty for what we ourselves change."""

    def is_about(self, name: str) -> bool:
        """Whether ``name`` is one of its people."""
        return name_key(name) in map(name_key, self.people)


class DerivedFiles:
    """The record of one library. Safe in threads."""

    def __init__(self, folder: Path) -> None:
        self._path = Path(folder) / RECORD

    def all(self) -> tuple[DerivedFile, ...]:
        """Everything that was noted and not forgotten. A damaged record is told in the log, and counts as empty."""
        try:
            kept = json.loads(self._path.read_text("utf-8"))
            return tuple(_read(entry) for entry in kept["files"])
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("%s cannot be read, so files noted in it are not known: %s", self._path, error)
            return ()

    def of(self, name: str) -> tuple[DerivedFile, ...]:
        """Files about ``name``."""
        return tuple(file for file in self.all() if file.is_about(name))

    def note(self, files: Iterable[Path], kind: str, people: Sequence[str], *, changes: bool = False) -> None:
        """Remember that ``files``, which are written, are about ``people``. What cannot be noted is told in the log: the
        work is done already.

        Parameters: ``changes`` says that we ourselves write them again.
        """
        try:
            new = [
                DerivedFile(path, kind, tuple(people), "" if changes else sha256_of_file(path))
                for path in (Path(file).expanduser().absolute() for file in files)
            ]
            if new:
                with _lock:
                    paths = {file.path for file in new}
                    self._write([*(file for file in self.all() if file.path not in paths), *new])
        except CelebBasisError as error:
            _log.warning("Deleting %s will not find these files: %s", ", ".join(people), error)

    def rename(self, name: str, new_name: str) -> None:
        """Who was called ``name`` is called ``new_name`` now."""
        with _lock:
            known = self.all()
            if any(file.is_about(name) for file in known):
                self._write([_renamed(file, name, new_name) for file in known])

    def forget(self, files: Iterable[DerivedFile]) -> None:
        """Know ``files`` no longer; the record goes with the last of them."""
        with _lock:
            gone = {file.path for file in files}
            known = self.all()
            kept = [file for file in known if file.path not in gone]
            if len(kept) < len(known):
                self._write(kept)

    def _write(self, files: Sequence[DerivedFile]) -> None:
        if not files:
            self._path.unlink(missing_ok=True)
            return
        entries = [
            {"path": str(file.path), "kind": file.kind, "people": list(file.people), "sha256": file.sha256}
            for file in files
        ]
        write_json(self._path, {"format": _FORMAT, "files": entries})


def _read(entry: Any) -> DerivedFile:
    people = tuple(str(name) for name in entry["people"])
    return DerivedFile(Path(entry["path"]), str(entry["kind"]), people, str(entry["sha256"]))


def _renamed(file: DerivedFile, name: str, new_name: str) -> DerivedFile:
    wanted = name_key(name)
    return replace(file, people=tuple(new_name if name_key(one) == wanted else one for one in file.people))
