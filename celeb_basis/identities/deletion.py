"""Deleting an identity with everything derived from it: blends, interrupted runs, sidecar and generated files.

Generated files are what this package wrote about people outside of the library: pictures, reports, exports. Each library
keeps a record of them, in which :func:`delete_person` finds them.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from celeb_basis.errors import CelebBasisError, IdentityError, printable
from celeb_basis.files import (
    cache_folder,
    checked_name,
    expanded,
    explained_os_errors,
    sha256_of_file,
    write_bytes,
    write_json,
)
from celeb_basis.identities.blending import blends_of
from celeb_basis.identities.folder_lock import mark_deleted, writing
from celeb_basis.identities.library import Library, is_leftover, name_key, sidecar_files
from celeb_basis.reading import parse_json, read_json, safetensors_metadata

_log = logging.getLogger(__name__)

RECORD = ".derived.json"
"""File name of the record in the library's folder. No identity can have this name."""

_FORMAT = 1
_RUN = re.compile(r"[0-9a-f]{12}")
_KEY = "record.key"
"""File in the cache folder with the secret by which this installation knows its own notes again."""


@dataclass(frozen=True)
class GeneratedFile:
    """A file that was written about people, outside of the library."""

    path: Path
    kind: str
    """For the user to read: ``"picture"``, ``"report"``, ``"export"`` and the like."""
    people: tuple[str, ...]
    sha256: str
    """Hash of what was written: a file that has changed since is not ours to delete. Empty for files that we change."""
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
        if not self._path.is_file():
            return ()
        try:
            kept, secret = read_json(self._path), _secret()
            return tuple(_read(entry, secret) for entry in kept["files"])
        except (CelebBasisError, OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("%s cannot be read, so files noted in it are not known: %s", printable(str(self._path)), error)
            return ()

    def of(self, name: str) -> tuple[GeneratedFile, ...]:
        """Files about ``name``."""
        return tuple(file for file in self.all() if file.is_about(name))

    def note(self, files: Iterable[Path], kind: str, people: Sequence[str], *, changes: bool = False) -> None:
        """Add files to the record. If that fails there is a warning in the log: the files are written already.

        Args:
            files: Files that have just been written.
            kind: What they are, for the user to read.
            people: The names of those they are about.
            changes: Whether this package writes them again, so that their hash changes.
        """
        try:
            new = [
                GeneratedFile(path, kind, tuple(people), "" if changes else sha256_of_file(path))
                for path in (expanded(file).absolute() for file in files)
            ]
            if new:
                with writing(self._path.parent, create=True):
                    paths = {file.path for file in new}
                    self._write([*(file for file in self.all() if file.path not in paths), *new])
        except CelebBasisError as error:
            _log.warning("Deleting %s will not find these files: %s", ", ".join(people), error)

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
        secret = _secret()
        write_json(self._path, {"format": _FORMAT, "files": [_written(file, secret) for file in files]})


def _read(entry: Any, secret: bytes) -> GeneratedFile:
    people = tuple(str(name) for name in entry["people"])
    file = GeneratedFile(Path(entry["path"]), str(entry["kind"]), people, str(entry["sha256"]))
    return replace(file, ours=hmac.compare_digest(_signature(file, secret), str(entry.get("signature", ""))))


def _written(file: GeneratedFile, secret: bytes) -> dict[str, Any]:
    entry = {"path": str(file.path), "kind": file.kind, "people": list(file.people), "sha256": file.sha256}
    return entry | {"signature": _signature(file, secret)} if file.ours else entry


def _signature(file: GeneratedFile, secret: bytes) -> str:
    """What only this installation can write beside a note."""
    text = json.dumps([str(file.path), file.kind, list(file.people), file.sha256])
    return hmac.new(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _secret() -> bytes:
    """32 random bytes of this installation, made when they are first needed."""
    path = cache_folder() / _KEY
    with contextlib.suppress(OSError):
        if path.is_file() and len(kept := path.read_bytes()) == 32:
            return kept
    with writing(path.parent, create=True):
        if not path.is_file() or path.stat().st_size != 32:
            write_bytes(path, secrets.token_bytes(32))
            with contextlib.suppress(OSError):
                path.chmod(0o600)
        return path.read_bytes()


def _renamed(file: GeneratedFile, name: str, new_name: str) -> GeneratedFile:
    wanted = name_key(name)
    return replace(file, people=tuple(new_name if name_key(one) == wanted else one for one in file.people))


@dataclass(frozen=True)
class Traces:
    """Everything that there is about an identity."""

    name: str
    mixtures: tuple[str, ...]
    """Identities of the library that were blended from it."""
    identities: tuple[Path, ...]
    """Its identity file, and those of the blends that are deleted with it."""
    beside: tuple[Path, ...]
    """Sidecar files of the identity files."""
    states: tuple[Path, ...]
    """States of interrupted runs, which hold the views of the photos, and records of those that have no state yet."""
    files: tuple[GeneratedFile, ...]
    """Generated files."""
    leftovers: tuple[Path, ...] = ()
    """Temporary files that a writer left when it was killed: each may be a whole identity or state."""

    def __bool__(self) -> bool:
        return bool(self.identities or self.beside or self.states or self.files or self.leftovers)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "name": self.name,
            "mixtures": list(self.mixtures),
            "identities": [path.name for path in self.identities],
            "beside": [path.name for path in self.beside],
            "unfinished": len(self.states),
            "leftovers": [path.name for path in self.leftovers],
            "files": [{"path": str(file.path), "kind": file.kind, "people": list(file.people)} for file in self.files],
        }

    def sentence(self) -> str:
        """What would be deleted, for the user."""
        kinds = [file.kind for file in self.files]
        counted = [(kinds.count(kind), kind) for kind in dict.fromkeys(kinds)]
        counted += [(len(self.states), "unfinished run"), (len(self.beside), "card file")]
        counted.append((len(self.leftovers), "temporary file"))
        parts = [f"the identity of {path.stem}" for path in self.identities]
        parts += [_counted(count, what) for count, what in counted if count]
        listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts) or "nothing"
        return f"Deletes {listed}."


@dataclass(frozen=True)
class Deleted:
    """What was deleted, and what was not."""

    people: tuple[str, ...]
    """Names of the deleted identities: the one that was asked for, and blends."""
    files: tuple[Path, ...]
    """Every file that was deleted."""
    left: tuple[tuple[Path, str], ...]
    """Files that could not be deleted, each with the reason."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "people": list(self.people),
            "files": [str(path) for path in self.files],
            "left": [{"path": str(path), "reason": reason} for path, reason in self.left],
        }

    def sentence(self) -> str:
        """The same for the user."""
        who = " and ".join(f"<{name}>" for name in self.people)
        text = f"{who} {'is' if len(self.people) == 1 else 'are'} deleted, with {_counted(len(self.files), 'file')} in all."
        for path, reason in self.left:
            text += f" Still there: {path} ({reason})."
        return text


def traces_of(library: Library, name: str, unfinished: Sequence[Path] = (), *, mixtures: bool = True) -> Traces:
    """Everything about ``name``, whether or not the library has an identity of that name.

    Args:
        library: The library.
        name: The name.
        unfinished: Folders of interrupted runs.
        mixtures: Whether blends are deleted with their parts.

    Raises:
        IdentityError: The name is unusable.
    """
    name = checked_name(name)
    mixed = blends_of(library, [name])
    people = (name, *(mixed if mixtures else ()))
    files = [library.path_of(one) for one in people]
    noted = GeneratedFiles(library.folder).all()
    return Traces(
        name,
        mixed,
        tuple(path for path in files if path.is_file()),
        tuple(path for file in files for path in sidecar_files(file)),
        tuple(path for folder in unfinished for path in _states(folder, people)),
        tuple(file for file in noted if any(file.is_about(one) for one in people)),
        tuple(path for folder in (library.folder, *unfinished) for path in _leftovers(folder, people)),
    )


def delete_person(library: Library, name: str, unfinished: Sequence[Path] = (), *, mixtures: bool = True) -> Deleted:
    """Delete everything that :func:`traces_of` finds, the identity last.

    Files that cannot be deleted are listed in the result, and stay in the record.

    Args:
        library: The library.
        name: The name.
        unfinished: Folders of interrupted runs.
        mixtures: Whether blends are deleted with their parts.

    Raises:
        IdentityError: There is nothing about ``name``.
        FileError: The identity cannot be deleted.
    """
    with writing(library.folder):
        return _delete(library, traces_of(library, name, unfinished, mixtures=mixtures), mixtures)


def _delete(library: Library, traces: Traces, mixtures: bool) -> Deleted:
    if not traces:
        known = ", ".join(library.names()[:20]) or "nobody yet"
        raise IdentityError(f"There is nothing about {traces.name!r} in {library.folder}: it holds {known}.")
    people = (traces.name, *(traces.mixtures if mixtures else ()))
    mark_deleted(library.folder, map(name_key, people))
    gone: list[Path] = []
    left: list[tuple[Path, str]] = []
    forgotten = []
    for file in traces.files:
        reason = _removed(file.path, file.sha256, gone) if file.ours or not file.path.exists() else _NOT_OURS
        if reason is None:
            forgotten.append(file)
        else:
            left.append((file.path, reason))
    for path in (
        *traces.beside,
        *(part for state in traces.states for part in _files_of_run(state)),
        *traces.leftovers,
    ):
        if (reason := _removed(path, "", gone)) is not None:
            left.append((path, reason))
    for state in traces.states:
        _remove_empty_folders(_photos_of_run(state))
    for path in traces.identities:
        with explained_os_errors(path, "delete"):
            path.unlink(missing_ok=True)
        gone.append(path)
    library.sweep()
    GeneratedFiles(library.folder).forget(forgotten)
    return Deleted(people, tuple(gone), tuple(left))


_NOT_OURS = (
    "the note of it came with this folder from elsewhere, or from version 0.1.0, so it is left to you: delete it if it shows "
    "the person"
)


def _removed(path: Path, sha256: str, gone: list[Path]) -> str | None:
    """Delete ``path`` if it is there, and return why that was not possible."""
    if not path.is_file():
        return None
    try:
        if sha256 and sha256_of_file(path) != sha256:
            return "it was changed after it was written here, so it is left to you"
        with explained_os_errors(path, "delete"):
            path.unlink()
    except CelebBasisError as error:
        return str(error)
    gone.append(path)
    return None


def _leftovers(folder: Path, people: Sequence[str]) -> Iterator[Path]:
    """Temporary files in ``folder`` that hold any of ``people``."""
    wanted = {name_key(name) for name in people}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if is_leftover(path) and (_names_in_identity(path) | _names_in_state(path)) & wanted:
            yield path


def _states(folder: Path, people: Sequence[str]) -> Iterator[Path]:
    """States of runs in ``folder`` that hold any of ``people``, and the records of those that have no state yet."""
    wanted = {name_key(name) for name in people}
    paths = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    records = sorted(folder.glob("*.json")) if folder.is_dir() else []
    for path in (*paths, *(record for record in records if not record.with_suffix(".safetensors").exists())):
        names = _names_in_record(path) if path.suffix == ".json" else _names_in_state(path)
        if names & wanted:
            yield path


_NOT_READABLE = (CelebBasisError, OSError, KeyError, ValueError, TypeError)


def _names_in_identity(path: Path) -> set[str]:
    """Key of the name in an identity file, or in the beginning of one; nothing for any other file."""
    try:
        return {name_key(str(parse_json(safetensors_metadata(path)["identity"])["name"]))}
    except _NOT_READABLE:
        return set()


def _names_in_state(path: Path) -> set[str]:
    """Keys of the people in the state of a run, or in the beginning of one; nothing for any other file."""
    try:
        described = parse_json(safetensors_metadata(path)["state"])
        return {name_key(str(person["name"])) for person in described["people"]}
    except _NOT_READABLE:
        return set()


def _names_in_record(path: Path) -> set[str]:
    """Keys of the people in the record of a run; nothing for any other file."""
    try:
        return {name_key(str(name)) for name in read_json(path)["people"]}
    except _NOT_READABLE:
        return set()


def _files_of_run(state: Path) -> tuple[Path, ...]:
    """The files of the run whose state or record is ``state``: its photos, the state, and last the record."""
    photos = sorted(_photos_of_run(state).rglob("*")) if _RUN.fullmatch(state.stem) else []
    return (*photos, state.with_suffix(".safetensors"), state.with_suffix(".json"))


def _photos_of_run(state: Path) -> Path:
    """Where the WebUI stores the photos of a run until its state is saved."""
    return state.parent.parent / "uploads" / state.stem


def _remove_empty_folders(folder: Path) -> None:
    if not _RUN.fullmatch(folder.name):
        return
    for path in sorted((folder, *folder.rglob("*")), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
