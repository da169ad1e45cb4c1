"""The people of the library, as page and API show and change them; a person's end takes everything derived along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from celeb_basis.errors import CelebBasisError, IdentityError
from celeb_basis.files import checked_name
from celeb_basis.identities.companions import move_companions
from celeb_basis.identities.deleting import Deleted, Traces, delete_person, traces_of
from celeb_basis.identities.derived import DerivedFiles
from celeb_basis.identities.library import Library, name_key
from celeb_basis.identities.mixtures import rename_in_mixtures
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.requests import BusyError, NameTakenError, NoSuchPersonError, PersonEntry

if TYPE_CHECKING:
    from celeb_basis.identities.identity import Identity
    from celeb_basis.webui.service import Service

MAX_NOTES = 20_000

_UNFINISHED = "unfinished run"

Reason = Callable[[str, "Identity | None"], str]
"""Why somebody of that name cannot be drawn; empty if they can."""


class People:
    """What is done with people of the library, for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def entries(self) -> list[PersonEntry]:
        """Everybody in the library, broken files included, in order of their names."""
        reason = self._reasons()
        return [
            self._entry(one.name, one.identity, one.problem or "", reason) for one in self._service.library.entries()
        ]

    def entries_of(self, names: Sequence[str]) -> list[PersonEntry]:
        """Those of ``names`` who are there, in that order, as :meth:`entries` tells them; nobody else is read."""
        reason, library = self._reasons(), self._service.library
        files = dict(library.files())
        found = []
        for name in names:
            if name in files:
                one = library.entry(name, files[name])
                found.append(self._entry(name, one.identity, one.problem or "", reason))
        return found

    def entry(self, name: str) -> PersonEntry:
        """One of them.

        Raises: :class:`IdentityError` if there is none.
        """
        library = self.present(name)
        try:
            identity = library.load(name)
        except IdentityError as error:
            return self._entry(checked_name(name), None, str(error))
        return self._entry(identity.name, identity, "")

    def check_name(self, name: str, *, replace: bool = False) -> str | None:
        """Why ``name`` cannot be a person's, as a sentence; ``None`` if it can."""
        try:
            name = checked_name(name)
            path = self._service.library.path_of(name)
        except CelebBasisError as error:
            return str(error)
        if path.exists() and not replace:
            return f"There is already a person called {path.stem!r}: choose another name, or have them replaced."
        if name.casefold() in self._service.program.embedding_names() and not path.exists():
            return f"There is already an embedding called {name!r} in the WebUI: choose another name."
        checkpoint = self._service.program.checkpoint()
        try:
            if checkpoint is not None and not any(checkpoint.encoders()[0].tokenize([name])[0]):
                return f"The text encoder reads nothing in {name!r}: use letters or digits."
        except CelebBasisError:
            return None  # no checkpoint that could tell
        return None

    def rename(self, name: str, new_name: str) -> PersonEntry:
        """Give somebody another name.

        Raises: :class:`IdentityError` if there is none, or the new name is taken or of no use.
        """
        same = checked_name(name).casefold() == checked_name(new_name).casefold()
        if not same and (problem := self.check_name(new_name)) is not None:
            raise NameTakenError(problem)
        self.present(name)
        before = self._service.library.path_of(name)
        move_companions(before, self._service.library.rename(name, new_name))
        record = DerivedFiles(self._service.library.folder)
        record.rename(name, new_name)
        rename_in_mixtures(self._service.library, name, new_name)
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

    def set_notes(self, name: str, notes: str | None = None, consent: str | None = None) -> PersonEntry:
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

    def _entry(self, name: str, identity: Identity | None, problem: str, reason: Reason | None = None) -> PersonEntry:
        told = problem or (reason or self._reasons())(name, identity)
        return PersonEntry(name, f"<{name}>", identity, problem, not told, told)

    def _reasons(self) -> Reason:
        """What tells why the loaded checkpoint cannot draw somebody, as the cards do; empty if it can."""
        if self._service.registry is None:
            return lambda _name, _identity: "The words in prompts are switched off: look at the log of the start."
        reason = self._service.registry.reasons(self._service.program.checkpoint())

        def told(name: str, identity: Identity | None) -> str:
            found = reason(name, identity.metadata) if identity is not None else "the file was removed."
            return found[:1].upper() + found[1:]

        return told
