"""What page and API share: everything that can be done with people, without gradio, without fastapi."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError, ExportError, IdentityError, SettingsError
from celeb_basis.faces.types import Pixels
from celeb_basis.files import checked_name
from celeb_basis.identities.companions import move_companions
from celeb_basis.identities.deleting import Deleted, Traces, delete_person, traces_of
from celeb_basis.identities.derived import DerivedFiles
from celeb_basis.identities.library import Library, name_key
from celeb_basis.identities.mixtures import rename_in_mixtures
from celeb_basis.settings import preset
from celeb_basis.webui.access import SharedProgram
from celeb_basis.webui.bases import built_bases
from celeb_basis.webui.faces import Faces
from celeb_basis.webui.importing import Importing
from celeb_basis.webui.jobs import Job, JobQueue
from celeb_basis.webui.learning import LearningJobs
from celeb_basis.webui.mixing import BlendRequest, Mixing, PreviewRequest
from celeb_basis.webui.options import Options
from celeb_basis.webui.paths import Paths, data_folder
from celeb_basis.webui.program import INTERRUPTED, RELOAD, RELOADED, Program, loaded_host
from celeb_basis.webui.requests import (
    BusyError,
    EvaluateRequest,
    FoundFaces,
    LearnRequest,
    NameTakenError,
    NoSuchPersonError,
    PersonEntry,
)

if TYPE_CHECKING:
    from celeb_basis.basis.basis import Basis
    from celeb_basis.basis.summary import BasisSummary
    from celeb_basis.hosts.base import Host
    from celeb_basis.identities.identity import Identity
    from celeb_basis.learning.memory import MemoryNeed
    from celeb_basis.names.lists import NameList
    from celeb_basis.webui.tokens.registry import Registry

MAX_NOTES = 20_000

_UNFINISHED = "unfinished run"

Reason = Callable[[str, "Identity | None"], str]
"""Why somebody of that name cannot be drawn; empty if they can."""


class Service:
    """One object in the host. Safe in threads.

    Parameters: ``options`` answers what the user chose at that moment; ``root`` is the host's own data folder, ``flag``
    the data folder of the command line; ``registry`` makes words of the library in the host's prompts.
    """

    def __init__(
        self,
        program: Program,
        options: Callable[[], Options],
        *,
        root: Path,
        flag: str | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.program = SharedProgram(program)
        self.options, self._root, self._flag = options, root, flag
        self.registry = registry
        self.queue = JobQueue()
        self.faces = Faces(lambda: self.options().face_pack)
        self.mixing = Mixing(self)
        self.learning = LearningJobs(
            self.program,
            self.queue,
            self.faces,
            library=lambda: self.library,
            paths=lambda: self.paths,
            names=self.names,
            previews=lambda: self.options().previews,
        )

    @property
    def paths(self) -> Paths:
        """Folders as they are chosen now."""
        return Paths(data_folder(self.options().data_folder, self._flag, self._root))

    @property
    def library(self) -> Library:
        """The people."""
        folder = self.paths.people
        if self.registry is not None and self.registry.folder != folder:
            self.registry.folder = folder
        return Library(folder)

    def names(self) -> NameList:
        """The list of celebrities that is chosen now.

        Raises: :class:`NamesError` for a file of no use.
        """
        from celeb_basis.names.lists import read_names, shipped_names

        chosen = self.options().names_file
        return read_names(self._root / Path(chosen).expanduser()) if chosen else shipped_names()

    # People

    def people(self) -> list[PersonEntry]:
        """Everybody in the library, broken files included, in order of their names."""
        reason = self._reasons()
        return [self._entry(one.name, one.identity, one.problem or "", reason) for one in self.library.entries()]

    def person(self, name: str) -> PersonEntry:
        """One of them.

        Raises: :class:`IdentityError` if there is none.
        """
        library = self._present(name)
        try:
            identity = library.load(name)
        except IdentityError as error:
            return self._entry(checked_name(name), None, str(error))
        return self._entry(identity.name, identity, "")

    def check_name(self, name: str, *, replace: bool = False) -> str | None:
        """Why ``name`` cannot be a person's, as a sentence; ``None`` if it can."""
        try:
            name = checked_name(name)
            path = self.library.path_of(name)
        except CelebBasisError as error:
            return str(error)
        if path.exists() and not replace:
            return f"There is already a person called {path.stem!r}: choose another name, or have them replaced."
        if name.casefold() in self.program.embedding_names() and not path.exists():
            return f"There is already an embedding called {name!r} in the WebUI: choose another name."
        checkpoint = self.program.checkpoint()
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
        self._present(name)
        before = self.library.path_of(name)
        move_companions(before, self.library.rename(name, new_name))
        record = DerivedFiles(self.library.folder)
        record.rename(name, new_name)
        rename_in_mixtures(self.library, name, new_name)
        for job in self._jobs_of([name]):
            if job.resumable:  # its run is called as it began, but is about the same person
                record.note(self.learning.kept_files(job), _UNFINISHED, [*job.people, new_name], changes=True)
            elif job.finished:
                wanted = name_key(name)
                job.people = tuple(new_name if name_key(one) == wanted else one for one in job.people)
        return self.person(new_name)

    def traces(self, name: str, *, mixtures: bool = True) -> Traces:
        """What deleting somebody would delete.

        Raises: :class:`NoSuchPersonError` if there is nothing of them.
        """
        found = traces_of(self.library, name, (self.paths.unfinished,), mixtures=mixtures)
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
        jobs += [job for job in self.jobs() if job.id in runs and job not in jobs]
        if at_work := [job for job in jobs if not job.finished]:
            raise BusyError(
                f"{found.name!r} is in a job that is {at_work[0].state}: interrupt it or let it end, then delete."
            )
        for job in jobs:
            self.forget(job.id)
        return delete_person(self.library, name, (self.paths.unfinished,), mixtures=mixtures)

    def _jobs_of(self, names: Sequence[str]) -> list[Job]:
        keys = set(map(name_key, names))
        return [job for job in self.jobs() if keys & set(map(name_key, job.people))]

    def set_notes(self, name: str, notes: str) -> PersonEntry:
        """Put other notes into somebody's file."""
        if len(notes) > MAX_NOTES:
            raise IdentityError(f"The notes have {len(notes)} characters: use at most {MAX_NOTES}.")
        self._present(name)
        identity = self.library.load(name)
        self.library.add(replace(identity, metadata=replace(identity.metadata, notes=notes)), replace=True)
        return self.person(name)

    def export(self, name: str, layout: str = "identity") -> list[tuple[str, bytes]]:
        """Somebody's file names and contents: ``"identity"`` is the file of the library, the others are other tools'.

        Raises: :class:`ExportError` for an unknown layout or what it cannot hold.
        """
        from celeb_basis.exports.layouts import LAYOUTS
        from celeb_basis.exports.write import export_identity

        if layout == "identity":
            path = self.library.path_of(self.person(name).name)
            return [(path.name, path.read_bytes())]
        if layout not in LAYOUTS:
            raise ExportError(f"There is no layout {layout!r}: choose identity, {', '.join(LAYOUTS)}.")
        with tempfile.TemporaryDirectory() as folder:
            files = export_identity(self._present(name).load(name), Path(folder), layout)  # type: ignore[arg-type]
            return [(path.name, path.read_bytes()) for path in files]

    def note_files(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Remember files about somebody that lie outside of the data folder: deleting the person deletes them."""
        DerivedFiles(self.library.folder).note(files, kind, [name])

    def export_to_host(self, name: str) -> list[Path]:
        """Put somebody, fitted to the loaded checkpoint, into the host's embeddings folder, for when this extension is off."""
        from celeb_basis.exports.write import export_identity

        person = self._present(name).load(name)
        with self.model() as host:
            identity = self.fitted(person, host)
        target = self.program.embeddings_folder() / f"{identity.name}.safetensors"
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
    ) -> list[PersonEntry]:
        """Take an identity file, any tool's textual inversion, or the authors' coefficients into the library.

        ``authors_basis`` is the ``celeb_basis.pt`` that was extracted with coefficients.

        Raises: :class:`IdentityError` or :class:`ExportError` for a file of no use, or a name that is taken.
        """
        found = self._importing().read(data, file_name, name, authors_basis=authors_basis)
        for identity in found:
            if (problem := self.check_name(identity.name, replace=replace_existing)) is not None:
                raise NameTakenError(problem)
        for identity in found:
            self.library.add(identity, replace=replace_existing)
        return [self.person(identity.name) for identity in found]

    # Photos and learning

    def check_licence(self, accepted: bool) -> None:
        """Take the user's agreement to the licence of the face models, if it is given, and see whether it is needed.

        Raises: :class:`LicenceError` if it is needed and not given.
        """
        if accepted:
            self.faces.agree()
        self.faces.check_licence()

    def start_faces(self, *, accept_licence: bool) -> Job:
        """Have the chosen face models downloaded, if they are not here; nothing else does so without this agreement.

        Raises: :class:`LicenceError` without the agreement.
        """
        self.check_licence(accept_licence)

        def work(job: Job) -> None:
            job.say("Loading the face models")
            self.faces.network(lambda done, total: job.say("Downloading the face models", step=done, total=total or 0))
            job.result = self.faces.status()
            job.say("The face models are here", step=1, total=1)

        job = Job("faces", ())
        self.queue.begin(job, work)
        return job

    def detect(self, photo: bytes | Pixels, name: str = "the photo") -> FoundFaces:
        """Every face of a photo, with what may keep it from giving a good likeness.

        Raises: :class:`LicenceError` if the face models have to be downloaded and nobody has agreed to their licence.
        """
        return self.faces.find(photo, name)

    def start_learning(self, request: LearnRequest) -> Job:
        """Queue a run.

        Raises: :class:`CelebBasisError` for a request that cannot be right.
        """
        request.check()
        self.check_licence(request.accept_licence)
        for person in request.people:
            if (problem := self.check_name(person.name, replace=request.replace)) is not None:
                raise NameTakenError(problem)
        return self.learning.start(request)

    def memory_need(self, preset_name: str, settings: Mapping[str, Any]) -> MemoryNeed | None:
        """What a run with these settings would take now; ``None`` while no checkpoint is loaded.

        Looks at shapes and places of weights only, so it waits for nobody.

        Raises: :class:`SettingsError` for an unknown preset or setting; :class:`HostError` for a checkpoint that nobody
        can be learned on.
        """
        from celeb_basis.learning.memory import estimate

        chosen = preset(preset_name).changed(settings)
        # Asking the host for its checkpoint would load one.
        return None if self.program.model_key() is None else estimate(loaded_host(self.program), chosen)

    def job(self, job_id: str) -> Job:
        """The job with this id.

        Raises: :class:`LearningError` if there is none.
        """
        self.learning.find_unfinished()
        return self.queue.job(job_id)

    def jobs(self) -> list[Job]:
        """All jobs, newest first, those kept from before the last start included."""
        self.learning.find_unfinished()
        return self.queue.jobs()

    def interrupt(self, job_id: str) -> None:
        """End a job; a run under way keeps its state."""
        self.queue.interrupt(job_id)

    def reload_began(self) -> None:
        """The host builds its page anew, and has interrupted what was under way: a job that has ended by it says so."""
        self.program.reload_began()
        for job in self.queue.jobs():
            if job.error == INTERRUPTED and time.time() - job.changed < RELOAD:
                job.set_state("interrupted", RELOADED)

    def resume(self, job_id: str) -> Job:
        """Go on with an interrupted run: the same job, queued again."""
        return self.learning.resume(job_id)

    def forget(self, job_id: str) -> None:
        """Throw away what was kept of a job that has ended.

        Raises: :class:`LearningError` while it is under way.
        """
        self.learning.forget(self.job(job_id))
        self.queue.forget(job_id)

    def evaluate(self, request: EvaluateRequest) -> Job:
        """Queue drawing a grid of prompts and judging it; the contact sheet is the job's last picture.

        Raises: :class:`CelebBasisError` for a request that cannot be right.
        """
        from celeb_basis.webui.evaluating import Evaluation

        request.check()
        self.check_licence(request.accept_licence)
        identity = self.identity(request.name)
        job = Job("evaluate", (identity.name,))
        self.queue.submit(job, Evaluation(self, identity, request).run)
        return job

    # Arithmetic and basis

    def blend(self, request: BlendRequest) -> PersonEntry:
        """Mix people and add the mixture to the library.

        Raises: :class:`CelebBasisError` for parts that do not fit the loaded checkpoint, or a name that is taken.
        """
        self._check_blend(request)
        with self.model() as host:
            mixed = self.mixing.mixed(request, host)
        self.library.add(mixed, replace=request.replace)
        return self.person(mixed.name)

    def start_blend(self, request: BlendRequest) -> Job:
        """:meth:`blend` as a job; the person is its result.

        Raises: :class:`CelebBasisError` for a request that cannot be right.
        """
        self._check_blend(request)
        self.mixing.people(request)
        job = Job("blend", (checked_name(request.name),))
        self.queue.begin(job, lambda job: self.mixing.save(job, request))
        return job

    def preview_blend(self, request: PreviewRequest) -> Job:
        """Queue drawing a mixture, which is not added to the library; its pictures are the job's.

        Raises: :class:`CelebBasisError` for a request that cannot be right.
        """
        request.check()
        if request.blend.name:
            checked_name(request.blend.name)
        job = Job("preview", tuple(person.name for person, _ in self.mixing.people(request.blend)))
        self.queue.submit(job, lambda job: self.mixing.preview(job, request))
        return job

    def basis_summary(self, components: int = 512, job: Job | None = None) -> list[BasisSummary]:
        """The bases of the loaded checkpoint, one a text encoder, with ``components`` or as many as its vectors have numbers.

        Raises: :class:`SettingsError`, :class:`NamesError`; :class:`StoppedError` if ``job`` was interrupted.
        """
        from celeb_basis.basis.build import fitting_components
        from celeb_basis.basis.summary import summarise

        _check_components(components)
        with self.model(job) as host:
            fitting = fitting_components(host.text_encoders, components)
            return [summarise(one) for one in built_bases(host, self.names(), fitting, job)]

    def start_basis(self, components: int = 512) -> Job:
        """:meth:`basis_summary` as a job; the summaries are in its ``outcome``.

        Raises: :class:`SettingsError` for a number of components that no basis has.
        """
        _check_components(components)

        def work(job: Job) -> None:
            job.say("Waiting for the WebUI to finish what it does")
            job.outcome = self.basis_summary(components, job)
            job.result = {"components": job.outcome[0].components, "encoders": [one.encoder for one in job.outcome]}
            job.say("Built", step=1, total=1)

        job = Job("basis", ())
        self.queue.begin(job, work)
        return job

    # Inside

    @contextmanager
    def model(self, job: Job | None = None) -> Iterator[Host]:
        """The loaded checkpoint, to look at: nobody else than one of our own jobs works with it meanwhile.

        Raises: :class:`StoppedError` if ``job`` was interrupted during the wait.
        """
        with self.program.looking(lambda: job is not None and job.interrupt.asked):
            yield loaded_host(self.program)

    def _bases(self, host: Host, components: int, job: Job | None = None) -> list[Basis]:
        return [one.basis for one in built_bases(host, self.names(), components, job)]

    def _check_blend(self, request: BlendRequest) -> None:
        if (problem := self.check_name(request.name, replace=request.replace)) is not None:
            raise NameTakenError(problem)

    def identity(self, name: str) -> Identity:
        """Somebody's identity.

        Raises: :class:`IdentityError` for nobody, or a file of no use.
        """
        return self._present(name).load(name)

    def fitted(self, identity: Identity, host: Host, job: Job | None = None) -> Identity:
        """``identity`` on the loaded checkpoint: as it is, or expanded anew in that checkpoint's basis.

        Raises: :class:`WrongModelError` for another family or another list of names.
        """
        from celeb_basis.identities.expand import check_model, expand_identity, stands_for_itself

        check_model(identity, host.info)
        if identity.metadata.base_sha256 == host.info.sha256 or stands_for_itself(identity.metadata):
            return identity
        components = int(identity.coefficients[0].shape[1])
        return expand_identity(identity, self._bases(host, components, job), host.info)

    def _present(self, name: str) -> Library:
        """The library, which holds ``name``."""
        library = self.library
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
        if self.registry is None:
            return lambda _name, _identity: "The words in prompts are switched off: look at the log of the start."
        reason = self.registry.reasons(self.program.checkpoint())

        def told(name: str, identity: Identity | None) -> str:
            found = reason(name, identity.metadata) if identity is not None else "the file was removed."
            return found[:1].upper() + found[1:]

        return told

    def _importing(self) -> Importing:
        def own_names() -> NameList | None:
            return self.names() if self.options().names_file else None

        def bases(host: Host) -> Sequence[Basis]:
            from celeb_basis.basis.build import fitting_components

            return self._bases(host, fitting_components(host.text_encoders, 512))

        return Importing(self.model, bases, own_names)

    def settings_table(self) -> dict[str, Any]:
        """Presets and every setting's default, range and help, for a form."""
        from dataclasses import fields

        from celeb_basis.settings import PRESETS, LearnSettings

        return {
            "presets": {name: settings.as_dict() for name, settings in PRESETS.items()},
            "settings": {
                item.name: {"default": item.default, "type": str(item.type), **dict(item.metadata)}
                for item in fields(LearnSettings)
            },
        }


def _check_components(components: int) -> None:
    if not 1 <= components <= 4096:
        raise SettingsError(f"components is {components}: choose a value from 1 to 4096.")
