"""Deleting an identity with everything derived from it: blends, interrupted runs, sidecar and generated files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from celeb_basis.errors import CelebBasisError, IdentityError
from celeb_basis.files import (
    aside_of,
    cache_folder,
    checked_name,
    explained_os_errors,
    sha256_of_file,
)
from celeb_basis.identities.blending import blends_of
from celeb_basis.identities.folder_lock import begun_of, mark_deleted, sweep, temporary_files, writing
from celeb_basis.identities.generated_files import GeneratedFile, GeneratedFiles
from celeb_basis.identities.identity import Floats, Identity, load_without_thumbnail
from celeb_basis.identities.library import Library, name_key, sidecar_files
from celeb_basis.provenance import read_parameters
from celeb_basis.reading import parse_json, read_json, safetensors_metadata

_RUN = re.compile(r"[0-9a-f]{12}")

_IsAbout = Callable[[Iterable[str], float], bool]
Left = tuple[tuple[Path, str], ...]
"""Files that stay, each with the reason."""


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
    stay: Left = ()
    """Those of :attr:`files` that are left to the user."""
    same_person: tuple[str, ...] = ()
    """Identities of the library that are the same person under another name, as imported from an export. They stay."""

    def __bool__(self) -> bool:
        return bool(self.identities or self.beside or self.states or self.files or self.leftovers)

    def paths(self) -> tuple[Path, ...]:
        """Every file that goes."""
        stay = {path for path, _ in self.stay}
        noted = [file.path for file in self.files if file.path not in stay]
        runs = [path for state in self.states for path in _files_of_run(state)]
        found = (*self.identities, *self.beside, *runs, *noted, *self.leftovers)
        return tuple(path for path in dict.fromkeys(found) if path.is_file())

    def as_dict(self, data: Path | None = None) -> dict[str, Any]:
        """JSON-ready values. With a data folder, paths in it are relative to it, but for those of generated files."""
        runs = [path for state in self.states for path in _files_of_run(state) if path.is_file()]
        return {
            "name": self.name,
            "mixtures": list(self.mixtures),
            "identities": [path.name for path in self.identities],
            "beside": [path.name for path in self.beside],
            "unfinished": len(self.states),
            "unfinished_files": [_relative(path, data) for path in runs],
            "leftovers": [path.name for path in self.leftovers],
            "files": [{"path": str(file.path), "kind": file.kind, "people": list(file.people)} for file in self.files],
            "goes": [_relative(path, data) for path in self.paths()],
            "stays": [{"path": str(path), "reason": reason} for path, reason in self.stay],
            "same_person": list(self.same_person),
        }

    def lines(self) -> list[str]:
        """The paths of all files that go, and of those that stay with the reason, for the user."""
        return [*map(str, self.paths()), *(f"stays: {path} ({reason})" for path, reason in self.stay)]

    def sentence(self) -> str:
        """What would be deleted, for the user."""
        stay = {path for path, _ in self.stay}
        kinds = [file.kind for file in self.files if file.path not in stay]
        counted = [(kinds.count(kind), kind) for kind in dict.fromkeys(kinds)]
        counted += [(len(self.states), "unfinished run"), (len(self.beside), "card file")]
        counted.append((len(self.leftovers), "temporary file"))
        parts = [f"the identity of {path.stem}" for path in self.identities]
        parts += [_counted(count, what) for count, what in counted if count]
        listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts) or "nothing"
        stays = f" Leaves {_counted(len(stay), 'file')} to you." if stay else ""
        return f"Deletes {listed}.{stays}{_same_person_sentence(self.same_person)}"


@dataclass(frozen=True)
class Deleted:
    """What was deleted, and what was not."""

    people: tuple[str, ...]
    """Names of the deleted identities: the one that was asked for, and blends."""
    files: tuple[Path, ...]
    """Every file that was deleted."""
    left: Left
    """Files that could not be deleted, each with the reason."""
    same_person: tuple[str, ...] = ()
    """Identities of the library that are the same person under another name. They are still there."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "people": list(self.people),
            "files": [str(path) for path in self.files],
            "left": [{"path": str(path), "reason": reason} for path, reason in self.left],
            "same_person": list(self.same_person),
        }

    def sentence(self) -> str:
        """The same for the user."""
        who = " and ".join(f"<{name}>" for name in self.people)
        text = f"{who} {'is' if len(self.people) == 1 else 'are'} deleted, with {_counted(len(self.files), 'file')} in all."
        for path, reason in self.left:
            text += f" Still there: {path} ({reason})."
        return text + _same_person_sentence(self.same_person)


def traces_of(
    library: Library, name: str, unfinished: Sequence[Path] = (), *, mixtures: bool = True, checked: bool = True
) -> Traces:
    """Everything about ``name``, whether or not the library has an identity of that name.

    Args:
        library: The library.
        name: The name.
        unfinished: Folders of interrupted runs.
        mixtures: Whether blends are deleted with their parts.
        checked: Whether to find out which files stay, and who is the same person under another name. That reads them.

    Raises:
        IdentityError: The name is unusable.
    """
    name = checked_name(name)
    mixed = blends_of(library, [name])
    people = (name, *(mixed if mixtures else ()))
    identities = [library.path_of(one) for one in people]
    is_about = library.work_on(people)
    noted = GeneratedFiles(library.folder).all()
    files = tuple(file for file in noted if any(map(file.is_about, people)))
    judge = _Judge(library, noted, is_about) if checked and files else None
    reasons = ((file.path, judge.reason_to_stay(file)) for file in files) if judge else ()
    return Traces(
        name,
        mixed,
        tuple(path for path in identities if path.is_file()),
        tuple(path for file in identities for path in sidecar_files(file)),
        tuple(path for folder in unfinished for path in _states(folder, is_about)),
        files,
        tuple(path for folder in (library.folder, *unfinished) for path in _leftovers(folder, people, is_about))
        + tuple(path for path in map(aside_of, identities) if path.is_file()),
        tuple((path, reason) for path, reason in reasons if reason is not None),
        _same_person(library, people, mixed) if checked else (),
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
        traces = traces_of(library, name, unfinished, mixtures=mixtures)
        deleted = _delete(library, traces, mixtures)
    for folder in unfinished:
        sweep(folder)
    return deleted


def _delete(library: Library, traces: Traces, mixtures: bool) -> Deleted:
    if not traces:
        known = ", ".join(library.names()[:20]) or "nobody yet"
        raise IdentityError(f"There is nothing about {traces.name!r} in {library.folder}: it holds {known}.")
    people = (traces.name, *(traces.mixtures if mixtures else ()))
    mark_deleted(library.folder, map(name_key, people))
    gone: list[Path] = []
    left = list(traces.stay)
    stay = {path for path, _ in left}
    forgotten = []
    for file in traces.files:
        if file.path in stay:
            continue
        if (reason := _removed(file.path, gone)) is None:
            forgotten.append(file)
        else:
            left.append((file.path, reason))
    for path in (
        *traces.beside,
        *(part for state in traces.states for part in _files_of_run(state)),
        *traces.leftovers,
    ):
        if (reason := _removed(path, gone)) is not None:
            left.append((path, reason))
    for state in traces.states:
        _remove_empty_folders(_photos_of_run(state))
    for path in traces.identities:
        with explained_os_errors(path, "delete"):
            path.unlink(missing_ok=True)
        gone.append(path)
    library.sweep()
    GeneratedFiles(library.folder).forget(forgotten)
    return Deleted(people, tuple(gone), tuple(left), traces.same_person)


def _removed(path: Path, gone: list[Path]) -> str | None:
    """Delete ``path`` if it is there, and return why that was not possible."""
    if not path.is_file():
        return None
    try:
        with explained_os_errors(path, "delete"):
            path.unlink()
    except CelebBasisError as error:
        return str(error)
    gone.append(path)
    return None


# Generated files: which of them go

_CHANGED = "it was changed after it was written here, so it is left to you"
_ANOTHER_RUN = "it is not the saved run any more that was noted here, so it is left to you"
_FOREIGN = "the note of it came with this folder from elsewhere, or from version 0.1.0"
_LEFT = "so it is left to you: delete it if it shows the person"


class _Judge:
    """Decides which noted files may be deleted with certain people: a record from elsewhere may name any file of the disk.

    Args:
        library: The library.
        noted: Everything in its record.
        is_about: Whether work is about these people, by :meth:`Library.work_on`.
    """

    def __init__(self, library: Library, noted: Sequence[GeneratedFile], is_about: _IsAbout) -> None:
        self._library, self._is_about = library, is_about
        folder = library.folder.absolute()
        ours = [folder, cache_folder().absolute()]
        beside = [folder.parent / name for name in ("unfinished", "uploads")]
        if folder.parent.name == "celeb-basis" or any(path.is_dir() for path in beside):
            ours.append(folder.parent)  # the data folder
        self._folders = {path.resolve() for path in ours}
        self._written_to = {path.resolve() for path in {file.path.parent for file in noted if file.ours}}

    def reason_to_stay(self, file: GeneratedFile) -> str | None:
        """Why ``file`` is left to the user; ``None`` if it goes, or is gone."""
        if not file.path.is_file():
            return None
        if file.ours and not file.sha256:
            run, is_about = _run_in(file.path), self._library.work_on(file.people)
            return None if run is not None and is_about(*run) else _ANOTHER_RUN
        if not file.ours and (doubt := self._doubt(file)):
            return doubt
        try:
            return None if sha256_of_file(file.path) == file.sha256 else _CHANGED
        except CelebBasisError as error:
            return str(error)

    def _doubt(self, file: GeneratedFile) -> str:
        """Why a note is not followed that this installation did not sign; empty for one of an image of the person."""
        if file.kind != "picture" or not file.sha256:
            return f"{_FOREIGN}, {_LEFT}"
        path = file.path.resolve()
        if path.parent not in self._written_to and not self._folders & set(path.parents):
            return f"{_FOREIGN}, and it is outside of the folders that this installation writes images to, {_LEFT}"
        parameters = read_parameters(path)
        names = () if parameters is None else [word.strip("<>") for word in parameters.words]
        if not self._is_about(names, path.stat().st_mtime):
            return f"{_FOREIGN}, and its own parameters do not name the person, {_LEFT}"
        return ""


# Saved runs

_NOT_READABLE = (CelebBasisError, OSError, KeyError, ValueError, TypeError, OverflowError)


def _run_in(path: Path) -> tuple[tuple[str, ...], float] | None:
    """The names in a run's state or record, or in the beginning of a state, and when it began; ``None`` for other files."""
    try:
        if path.suffix == ".json":
            record = read_json(path)
            return tuple(map(str, record["people"])), float(record["created"])
        described = parse_json(safetensors_metadata(path)["state"])
        names = tuple(str(person["name"]) for person in described["people"])
        return names, begun_of(described, path)
    except _NOT_READABLE:
        return None


def _name_in_identity(path: Path) -> str:
    """The name in an identity file, or in the beginning of one; empty for any other file."""
    try:
        return str(parse_json(safetensors_metadata(path)["identity"])["name"])
    except _NOT_READABLE:
        return ""


def _leftovers(folder: Path, people: Sequence[str], is_about: _IsAbout) -> Iterator[Path]:
    """Temporary files in ``folder`` that hold any of ``people``."""
    wanted = set(map(name_key, people))
    for path in temporary_files(folder):
        run = _run_in(path)
        if name_key(_name_in_identity(path)) in wanted or (run is not None and is_about(*run)):
            yield path


def _states(folder: Path, is_about: _IsAbout) -> Iterator[Path]:
    """States of runs in ``folder`` that are about certain people, and the records of those that have no state yet."""
    states = sorted(folder.glob("[!.]*.safetensors")) if folder.is_dir() else []
    records = sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []
    for path in (*states, *(record for record in records if not record.with_suffix(".safetensors").exists())):
        run = _run_in(path)
        if run is not None and is_about(*run):
            yield path


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


# The same person under another name

_SAME = 0.01
"""Distance of two people's numbers, relative to their size, below which they are one person. Projecting rounds them."""


def _same_person(library: Library, people: Sequence[str], mixed: Sequence[str]) -> tuple[str, ...]:
    """Names of identities that are one of ``people``: imported from an export, or copied. Blends are known by their recipes."""
    known: dict[str, Identity] = {}
    for name, path in library.files():
        with contextlib.suppress(CelebBasisError):
            known[name] = load_without_thumbnail(path)[0]
    keys, passed_over = set(map(name_key, people)), {name_key(name) for name in (*people, *mixed)}
    own = [identity for name, identity in known.items() if name_key(name) in keys]
    return tuple(
        name
        for name, identity in known.items()
        if name_key(name) not in passed_over and any(_is_same(one, identity) for one in own)
    )


def _is_same(one: Identity, other: Identity) -> bool:
    """Whether the files say that one was imported from the other, or their numbers are the same."""
    hashes = {one.content_hash, other.content_hash}
    if len(hashes) == 1 or any(str(each.metadata.settings.get("exported_from")) in hashes for each in (one, other)):
        return True
    return _are_near(one.coefficients, other.coefficients) or _are_near(one.vectors, other.vectors)


def _are_near(ones: Sequence[Floats], others: Sequence[Floats]) -> bool:
    if [array.shape for array in ones] != [array.shape for array in others]:
        return False
    return all(
        float(np.linalg.norm(one - other)) < _SAME * float(np.linalg.norm(one))
        for one, other in zip(ones, others, strict=True)
    )


def _same_person_sentence(names: Sequence[str]) -> str:
    if not names:
        return ""
    who = " and ".join(f"<{name}>" for name in names)
    return f" Still in the library is the same person under another name: {who}. Delete that as well if the person is to go."


def _relative(path: Path, data: Path | None) -> str:
    return path.relative_to(data).as_posix() if data is not None and data in path.parents else str(path)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
