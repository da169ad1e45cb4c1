"""The identities of the library, as page and API list and change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from celeb_basis.errors import CelebBasisError, IdentityError
from celeb_basis.files import checked_name
from celeb_basis.hosts.a1111.app import HostApp
from celeb_basis.identities.blending import rename_in_blends
from celeb_basis.identities.deletion import Deleted, Traces, delete_person, traces_of
from celeb_basis.identities.folder_lock import writing
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import IdentityStatus, Library, move_sidecars, name_key
from celeb_basis.prompts.syntax import unusable_in_prompts
from celeb_basis.training.run_lock import check_not_running
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.options import Workspace
from celeb_basis.webui.schemas import BusyError, NameTakenError, NoSuchPersonError
from celeb_basis.webui.tasks.learn import LearnTasks

MAX_NOTES = 20_000
"""Characters of a note."""

_UNFINISHED = "unfinished run"

Reason = Callable[[IdentityStatus], str]
"""Why prompts cannot use an identity; empty if they can."""


@dataclass(frozen=True)
class People:
    """The identities of the library: listed, renamed, given notes, deleted with everything derived from them."""

    host: HostApp
    workspace: Workspace
    learning: LearnTasks

    def entries(self) -> list[IdentityStatus]:
        """Every identity of the library, broken files included, in order of their names."""
        reason = self._reasons()
        return [self._with_reason(one, reason) for one in self.workspace.library.entries()]

    def entries_of(self, names: Sequence[str]) -> list[IdentityStatus]:
        """Those of ``names`` that are in the library, in that order. No other file is read."""
        reason, library = self._reasons(), self.workspace.library
        files = dict(library.files())
        found = (library.entry(name, files[name]) for name in names if name in files)
        return [self._with_reason(status, reason) for status in found if status is not None]

    def entry(self, name: str) -> IdentityStatus:
        """The identity called ``name``; a broken file comes with its problem.

        Raises:
            IdentityError: There is none.
        """
        library = self.library_with(name)
        path = library.path_of(name)
        try:
            identity = library.load(name)
        except IdentityError as error:
            self.library_with(name)  # who was deleted just now is not broken
            return IdentityStatus(checked_name(name), path, problem=str(error), reason=str(error))
        return self._with_reason(IdentityStatus(identity.name, path, identity), self._reasons())

    def identity(self, name: str) -> Identity:
        """The identity called ``name``.

        Raises:
            IdentityError: There is none, or its file is broken.
        """
        return self.library_with(name).load(name)

    def library_with(self, name: str) -> Library:
        """The library, once it is certain to hold ``name``.

        Raises:
            NoSuchPersonError: It does not.
        """
        library = self.workspace.library
        if not library.path_of(name).exists():
            raise NoSuchPersonError(
                f"There is no person {checked_name(name)!r} in the library: look at the list of people."
            )
        return library

    def check_name(self, name: str, *, replace: bool = False) -> str | None:
        """Why no identity can be called ``name``, as a sentence; ``None`` if one can."""
        try:
            name = checked_name(name)
            path = self.workspace.library.path_of(name)
        except CelebBasisError as error:
            return str(error)
        if (unusable := unusable_in_prompts(name)) is not None and not path.exists():
            return f"The name {name!a} {unusable}."
        if path.exists() and not replace:
            return f"There is already a person called {path.stem!r}: choose another name, or choose to replace them."
        if name.casefold() in self.host.embedding_names() and not path.exists():
            return f"There is already an embedding called {name!r} in the WebUI: choose another name."
        checkpoint = self.host.checkpoint()
        try:
            if checkpoint is not None and not any(checkpoint.encoders()[0].tokenize([name])[0]):
                return f"The text encoder reads nothing in {name!r}: use letters or digits."
        except CelebBasisError:
            return None  # a checkpoint without a text encoder to ask
        return None

    def rename(self, name: str, new_name: str) -> IdentityStatus:
        """Rename an identity, with its sidecar files, in the recipes of blends, and in jobs.

        Raises:
            IdentityError: There is none, or the new name is taken or unusable.
        """
        same = checked_name(name).casefold() == checked_name(new_name).casefold()
        if not same and (problem := self.check_name(new_name)) is not None:
            raise NameTakenError(problem)
        library = self.library_with(name)
        with writing(library.folder):  # a deletion finds all of it under one name
            before = library.path_of(name)
            move_sidecars(before, library.rename(name, new_name))
            GeneratedFiles(library.folder).rename(name, new_name)
            rename_in_blends(library, name, new_name)
        if self.workspace.registry is not None:
            self.workspace.registry.remember(before.stem)
        for job in self._jobs_of([new_name]):
            if job.finished and not job.resumable:  # a run that goes on keeps the name it began with
                wanted = name_key(name)
                job.people = tuple(new_name if name_key(one) == wanted else one for one in job.people)
        return self.entry(new_name)

    def set_notes(self, name: str, notes: str | None = None, consent: str | None = None) -> IdentityStatus:
        """Change the notes, or the note on the consent, in an identity's file; ``None`` leaves one as it is.

        Raises:
            IdentityError: There is no such identity, or the notes are too long.
        """
        for text in (notes or "", consent or ""):
            if len(text) > MAX_NOTES:
                raise IdentityError(f"The notes have {len(text)} characters: use at most {MAX_NOTES}.")

        def with_texts(identity: Identity) -> Identity:
            metadata = identity.metadata
            changed = replace(
                metadata,
                notes=metadata.notes if notes is None else notes,
                consent=metadata.consent if consent is None else consent,
            )
            return replace(identity, metadata=changed)

        self.library_with(name).update(name, with_texts)
        return self.entry(name)

    def traces(self, name: str, *, mixtures: bool = True) -> Traces:
        """What :meth:`delete` would delete.

        Raises:
            NoSuchPersonError: There is nothing about ``name``.
        """
        return self._traces(name, mixtures=mixtures)

    def _traces(self, name: str, *, mixtures: bool, checked: bool = True) -> Traces:
        library, unfinished = self.workspace.library, (self.workspace.paths.unfinished,)
        found = traces_of(library, name, unfinished, mixtures=mixtures, checked=checked)
        if not found:
            raise NoSuchPersonError(f"There is nothing about {found.name!r} here: look at the list of people.")
        return found

    def delete(self, name: str, *, mixtures: bool = True) -> Deleted:
        """Delete an identity with everything derived from it.

        That is its sidecar files, blends, interrupted runs, jobs with their images, and files that were written elsewhere.

        Args:
            name: Whose identity.
            mixtures: Whether blends that hold the identity are deleted too.

        Raises:
            NoSuchPersonError: There is nothing about ``name``.
            BusyError: A job is working on the identity.
            RunningError: Another program is.
        """
        found = self._traces(name, mixtures=mixtures, checked=False)
        jobs = self._jobs_of((found.name, *(found.mixtures if mixtures else ())))
        runs = {file.path.stem for file in found.files if file.kind == _UNFINISHED and file.ours}
        jobs += [job for job in self.learning.jobs() if job.id in runs and job not in jobs]
        if at_work := [job for job in jobs if not job.finished]:
            raise BusyError(
                f"{found.name!r} is in a job that is {at_work[0].state}: interrupt it or let it end, then delete."
            )
        noted = [file.path for file in found.files if file.kind == _UNFINISHED]
        check_not_running((*found.states, *noted), found.name)
        if self.workspace.registry is not None:
            self.workspace.registry.remember(found.name)
        forgotten: list[Path] = []
        for job in jobs:
            files = self.learning.saved_files(job) if job.kind == "learn" else ()
            self.learning.forget(job.id)
            forgotten += [file for file in files if not file.exists()]
        unfinished = (self.workspace.paths.unfinished,)
        if not traces_of(self.workspace.library, name, unfinished, mixtures=mixtures, checked=False):
            return Deleted((found.name,), tuple(forgotten), ())  # there were only interrupted runs
        deleted = delete_person(self.workspace.library, name, unfinished, mixtures=mixtures)
        return replace(deleted, files=(*deleted.files, *forgotten))

    def _jobs_of(self, names: Sequence[str]) -> list[Job]:
        is_about = self.workspace.library.work_on(names)
        return [job for job in self.learning.jobs() if is_about(job.people, job.created)]

    def _with_reason(self, status: IdentityStatus, reason: Reason) -> IdentityStatus:
        return status if status.problem else replace(status, reason=reason(status))

    def _reasons(self) -> Reason:
        """A function that answers why the loaded checkpoint cannot generate an identity, as the cards do."""
        registry = self.workspace.registry
        if registry is None:
            return lambda _status: "Names in prompts are switched off: look at the log of the start."
        reason = registry.reasons(self.host.checkpoint())

        def sentence(status: IdentityStatus) -> str:
            assert status.identity is not None
            found = reason(status.name, status.identity.metadata)
            return found[:1].upper() + found[1:]

        return sentence
