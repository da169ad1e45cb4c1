"""The people of the library, as page and API show and change them; a person's end takes everything derived along."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import CelebBasisError, ExportError, IdentityError
from celeb_basis.files import checked_name
from celeb_basis.identities.blending import rename_in_blends
from celeb_basis.identities.deletion import Deleted, GeneratedFiles, Traces, delete_person, traces_of
from celeb_basis.identities.library import IdentityStatus, Library, move_sidecars, name_key
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import BusyError, NameTakenError, NoSuchPersonError

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.identities.identity import Identity
    from celeb_basis.method import Basis
    from celeb_basis.names.lists import NameList
    from celeb_basis.webui.service import Service


MAX_NOTES = 20_000

_UNFINISHED = "unfinished run"

Reason = Callable[[str, "Identity | None"], str]
"""Why somebody of that name cannot be drawn; empty if they can."""


class People:
    """What is done with people of the library, for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def entries(self) -> list[IdentityStatus]:
        """Everybody in the library, broken files included, in order of their names."""
        reason = self._reasons()
        return [self._with_reason(one, reason) for one in self._service.library.entries()]

    def entries_of(self, names: Sequence[str]) -> list[IdentityStatus]:
        """Those of ``names`` who are there, in that order, as :meth:`entries` tells them; nobody else is read."""
        reason, library = self._reasons(), self._service.library
        files = dict(library.files())
        return [self._with_reason(library.entry(name, files[name]), reason) for name in names if name in files]

    def entry(self, name: str) -> IdentityStatus:
        """One of them.

        Raises: :class:`IdentityError` if there is none.
        """
        library = self.present(name)
        path = library.path_of(name)
        try:
            identity = library.load(name)
        except IdentityError as error:
            return IdentityStatus(checked_name(name), path, problem=str(error), reason=str(error))
        return self._with_reason(IdentityStatus(identity.name, path, identity), self._reasons())

    def check_name(self, name: str, *, replace: bool = False) -> str | None:
        """Why ``name`` cannot be a person's, as a sentence; ``None`` if it can."""
        try:
            name = checked_name(name)
            path = self._service.library.path_of(name)
        except CelebBasisError as error:
            return str(error)
        if path.exists() and not replace:
            return f"There is already a person called {path.stem!r}: choose another name, or have them replaced."
        if name.casefold() in self._service.host.embedding_names() and not path.exists():
            return f"There is already an embedding called {name!r} in the WebUI: choose another name."
        checkpoint = self._service.host.checkpoint()
        try:
            if checkpoint is not None and not any(checkpoint.encoders()[0].tokenize([name])[0]):
                return f"The text encoder reads nothing in {name!r}: use letters or digits."
        except CelebBasisError:
            return None  # no checkpoint that could tell
        return None

    def rename(self, name: str, new_name: str) -> IdentityStatus:
        """Give somebody another name.

        Raises: :class:`IdentityError` if there is none, or the new name is taken or of no use.
        """
        same = checked_name(name).casefold() == checked_name(new_name).casefold()
        if not same and (problem := self.check_name(new_name)) is not None:
            raise NameTakenError(problem)
        self.present(name)
        before = self._service.library.path_of(name)
        move_sidecars(before, self._service.library.rename(name, new_name))
        record = GeneratedFiles(self._service.library.folder)
        record.rename(name, new_name)
        rename_in_blends(self._service.library, name, new_name)
        for job in self._jobs_of([name]):
            if job.resumable:  # its run is called as it began, but is about the same person
                record.note(self._service.learning.kept_files(job), _UNFINISHED, [*job.people, new_name], changes=True)
            elif job.finished:
                wanted = name_key(name)
                job.people = tuple(new_name if name_key(one) == wanted else one for one in job.people)
        return self.entry(new_name)

    def traces(self, name: str, *, mixtures: bool = True) -> Traces:
        """What deleting somebody would delete.

        Raises: :class:`NoSuchPersonError` if there is nothing of them.
        """
        found = traces_of(self._service.library, name, (self._service.paths.unfinished,), mixtures=mixtures)
        if not found:
            raise NoSuchPersonError(f"There is nothing of {found.name!r} here: look at the list of people.")
        return found

    def delete(self, name: str, *, mixtures: bool = True) -> Deleted:
        """Remove somebody with everything that was derived from them: cards, mixtures, interrupted runs, jobs with their
        pictures, and the files that we wrote elsewhere.

        Raises: :class:`NoSuchPersonError` if there is nothing of them, :class:`BusyError` while a job is at work on them.
        """
        found = self.traces(name, mixtures=mixtures)
        jobs = self._jobs_of((found.name, *(found.mixtures if mixtures else ())))
        runs = {file.path.stem for file in found.files if file.kind == _UNFINISHED}
        jobs += [job for job in self._service.jobs() if job.id in runs and job not in jobs]
        if at_work := [job for job in jobs if not job.finished]:
            raise BusyError(
                f"{found.name!r} is in a job that is {at_work[0].state}: interrupt it or let it end, then delete."
            )
        for job in jobs:
            self._service.forget(job.id)
        return delete_person(self._service.library, name, (self._service.paths.unfinished,), mixtures=mixtures)

    def _jobs_of(self, names: Sequence[str]) -> list[Job]:
        keys = set(map(name_key, names))
        return [job for job in self._service.jobs() if keys & set(map(name_key, job.people))]

    def set_notes(self, name: str, notes: str | None = None, consent: str | None = None) -> IdentityStatus:
        """Put other notes, or another note on the consent, into somebody's file; what is ``None`` stays as it is.

        Raises: :class:`IdentityError` for nobody, or notes that are too long.
        """
        for text in (notes or "", consent or ""):
            if len(text) > MAX_NOTES:
                raise IdentityError(f"The notes have {len(text)} characters: use at most {MAX_NOTES}.")
        identity = self.identity(name)
        kept = identity.metadata
        metadata = replace(
            kept,
            notes=kept.notes if notes is None else notes,
            consent=kept.consent if consent is None else consent,
        )
        self._service.library.add(replace(identity, metadata=metadata), replace=True)
        return self.entry(name)

    def identity(self, name: str) -> Identity:
        """Somebody's identity.

        Raises: :class:`IdentityError` for nobody, or a file of no use.
        """
        return self.present(name).load(name)

    def present(self, name: str) -> Library:
        """The library, which holds ``name``."""
        library = self._service.library
        if not library.path_of(name).exists():
            raise NoSuchPersonError(
                f"There is no person {checked_name(name)!r} in the library: look at the list of people."
            )
        return library

    def _with_reason(self, status: IdentityStatus, reason: Reason) -> IdentityStatus:
        return status if status.problem else replace(status, reason=reason(status.name, status.identity))

    def _reasons(self) -> Reason:
        """What tells why the loaded checkpoint cannot draw somebody, as the cards do; empty if it can."""
        if self._service.registry is None:
            return lambda _name, _identity: "The words in prompts are switched off: look at the log of the start."
        reason = self._service.registry.reasons(self._service.host.checkpoint())

        def told(name: str, identity: Identity | None) -> str:
            found = reason(name, identity.metadata) if identity is not None else "the file was removed."
            return found[:1].upper() + found[1:]

        return told


# FOLDED: Files that a user hands in, as people for the library: our own, textual inversions of any tool, the
# FOLDED: authors' coefficients.

_SUFFIXES = (".safetensors", ".pt", ".bin")


@dataclass(frozen=True)
class Importing:
    """Reads files for the checkpoint that is loaded."""

    model: Callable[[], AbstractContextManager[DiffusionModel]]
    """The loaded checkpoint, once it is free."""
    bases: Callable[[DiffusionModel], Sequence[Basis]]
    """Its own bases, one a text encoder."""
    own_names: Callable[[], NameList | None]
    """The user's own list of names; ``None`` for the shipped one."""

    def read(
        self, data: bytes, file_name: str, name: str | None = None, *, authors_basis: bytes | None = None
    ) -> Sequence[Identity]:
        """The people of a file; ``authors_basis`` is the ``celeb_basis.pt`` of the authors' coefficients.

        Raises: :class:`IdentityError` or :class:`ExportError` for a file of no use.
        """
        from celeb_basis.exports.textual_inversion import identity_from_embedding, import_embedding
        from celeb_basis.identities.identity import identity_from_bytes

        suffix = Path(file_name).suffix.lower()
        if suffix not in _SUFFIXES:
            raise ExportError(f"{file_name[:60]!a} is no .safetensors, .pt or .bin file: choose one of these.")
        if suffix == ".safetensors":
            try:
                identity = identity_from_bytes(data)
                return [replace(identity, name=name or identity.name)]
            except IdentityError:
                if b"celeb-basis-identity" in data[:100_000]:
                    raise
        with _on_disk(data, f"{name}{suffix}" if name else file_name) as path:
            if authors_basis is not None and suffix != ".safetensors":
                return self._of_the_authors(path, name, authors_basis)
            try:
                embedding = import_embedding(path)
            except ExportError:
                if suffix == ".safetensors":
                    raise
                return self._of_the_authors(path, name, None)
            with self.model() as model:
                return [identity_from_embedding(embedding, self.bases(model), model.info, name=name)]

    def _of_the_authors(self, path: Path, name: str | None, basis_file: bytes | None) -> Sequence[Identity]:
        from celeb_basis.exports.celebbasis_repo import (
            import_celebbasis_file,
            read_celebbasis_basis,
            read_celebbasis_file,
            rebuild_celebbasis_basis,
        )

        people = read_celebbasis_file(path)
        if basis_file is not None:
            with _on_disk(basis_file, "celeb_basis.pt") as file:
                basis = read_celebbasis_basis(file)
            with self.model() as model:
                return import_celebbasis_file(path, basis, model.info, name=name)
        names = self.own_names()
        if names is None:
            raise ExportError(
                f"{path.name} holds coefficients in the authors' own basis: import the celeb_basis.pt that was extracted "
                "with it together with it, or choose your copy of their list, wiki_names_v2.txt, under Settings, Celeb Basis."
            )
        with self.model() as model:
            basis = rebuild_celebbasis_basis(model.text_encoders[0], names, people.components)
            return import_celebbasis_file(path, basis, model.info, name=name)


def authors_basis_among(files: Sequence[tuple[str, bytes]]) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """The authors' ``celeb_basis.pt`` among ``files``, by what it holds, and the other files."""
    from celeb_basis.exports.celebbasis_repo import read_celebbasis_basis

    found: bytes | None = None
    others = []
    for file_name, data in files:
        if Path(file_name).suffix.lower() == ".pt":
            with _on_disk(data, "celeb_basis.pt") as path:
                try:
                    read_celebbasis_basis(path)
                except ExportError:
                    others.append((file_name, data))
                else:
                    found = data
        else:
            others.append((file_name, data))
    return found, others


@contextmanager
def _on_disk(data: bytes, file_name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (checked_name(Path(file_name).stem) + Path(file_name).suffix.lower())
        path.write_bytes(data)
        yield path


# FOLDED: People as files: exported for other tools, put into the host's embeddings folder, and imported from files
# FOLDED: of any of them.


class Exchange:
    """What goes out of the library as files and comes in as such, for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def export(self, name: str, layout: str = "identity") -> list[tuple[str, bytes]]:
        """Somebody's file names and contents: ``"identity"`` is the file of the library, the others are other tools'.

        Raises: :class:`ExportError` for an unknown layout or what it cannot hold.
        """
        from celeb_basis.exports.textual_inversion import LAYOUTS, export_identity

        if layout == "identity":
            path = self._service.library.path_of(self._service.people.entry(name).name)
            return [(path.name, path.read_bytes())]
        if layout not in LAYOUTS:
            raise ExportError(f"There is no layout {layout!r}: choose identity, {', '.join(LAYOUTS)}.")
        with tempfile.TemporaryDirectory() as folder:
            files = export_identity(self._service.people.identity(name), Path(folder), layout)  # type: ignore[arg-type]
            return [(path.name, path.read_bytes()) for path in files]

    def note_files(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Remember files about somebody that lie outside of the data folder: deleting the person deletes them."""
        GeneratedFiles(self._service.library.folder).note(files, kind, [name])

    def to_host(self, name: str) -> list[Path]:
        """Put somebody, fitted to the loaded checkpoint, into the host's embeddings folder, for when this extension is off."""
        from celeb_basis.exports.textual_inversion import export_identity

        person = self._service.people.identity(name)
        with self._service.model() as model:
            identity = self._service.fitted(person, model)
        target = self._service.host.embeddings_folder() / f"{identity.name}.safetensors"
        files = list(export_identity(identity, target, "webui"))
        self.note_files(identity.name, files, "embedding")
        return files

    def import_file(
        self,
        data: bytes,
        file_name: str,
        name: str | None = None,
        *,
        replace_existing: bool = False,
        authors_basis: bytes | None = None,
    ) -> list[IdentityStatus]:
        """Take an identity file, any tool's textual inversion, or the authors' coefficients into the library.

        ``authors_basis`` is the ``celeb_basis.pt`` that was extracted with coefficients.

        Raises: :class:`IdentityError` or :class:`ExportError` for a file of no use, or a name that is taken.
        """
        found = self._importing().read(data, file_name, name, authors_basis=authors_basis)
        for identity in found:
            if (problem := self._service.people.check_name(identity.name, replace=replace_existing)) is not None:
                raise NameTakenError(problem)
        for identity in found:
            self._service.library.add(identity, replace=replace_existing)
        return [self._service.people.entry(identity.name) for identity in found]

    def _importing(self) -> Importing:
        def own_names() -> NameList | None:
            return self._service.names() if self._service.options().names_file else None

        def bases(model: DiffusionModel) -> Sequence[Basis]:
            from celeb_basis.basis import fitting_components

            return self._service.own_bases(model, fitting_components(model.text_encoders, 512))

        return Importing(self._service.model, bases, own_names)
