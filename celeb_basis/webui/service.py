"""What page and API share: everything that can be done with people, without gradio, without fastapi."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import SettingsError
from celeb_basis.faces.types import Pixels
from celeb_basis.files import checked_name
from celeb_basis.hosts.a1111.app import INTERRUPTED, RELOAD, RELOADED, HostApp, open_loaded_model
from celeb_basis.identities.library import IdentityStatus, Library
from celeb_basis.settings import preset
from celeb_basis.webui.faces import Faces, told_download
from celeb_basis.webui.host_queue import HostQueue
from celeb_basis.webui.jobs import Job, JobQueue
from celeb_basis.webui.options import Options, Paths, data_folder
from celeb_basis.webui.people import Exchange, People
from celeb_basis.webui.schemas import (
    EvaluateRequest,
    FoundFaces,
    LearnRequest,
    NameTakenError,
)
from celeb_basis.webui.tasks.basis import built_bases
from celeb_basis.webui.tasks.blend import BlendRequest, Mixing, PreviewRequest
from celeb_basis.webui.tasks.learn import LearningJobs

if TYPE_CHECKING:
    from celeb_basis.basis import BasisSummary
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.identities.identity import Identity
    from celeb_basis.method import Basis
    from celeb_basis.names.lists import NameList
    from celeb_basis.prompts.registry import Registry
    from celeb_basis.training.memory import MemoryNeed


class Service:
    """One object in the host. Safe in threads.

    Parameters: ``options`` answers what the user chose at that moment; ``root`` is the host's own data folder, ``flag``
    the data folder of the command line; ``registry`` makes words of the library in the host's prompts.
    """

    def __init__(
        self,
        host: HostApp,
        options: Callable[[], Options],
        *,
        root: Path,
        flag: str | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.host, self.host_queue = host, HostQueue(host)
        self.options, self._root, self._flag = options, root, flag
        self.registry = registry
        self.queue = JobQueue()
        self.faces = Faces(lambda: self.options().face_pack)
        self.people = People(self)
        self.exchange = Exchange(self)
        self.mixing = Mixing(self)
        self.learning = LearningJobs(
            self.host_queue,
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
        return Library(self.follow_folder())

    def follow_folder(self) -> Path:
        """The folder of people that is chosen now, which prompts and cards know from now on, too."""
        folder = self.paths.people
        if self.registry is not None and self.registry.folder != folder:
            self.registry.folder = folder
        return folder

    def names(self) -> NameList:
        """The list of celebrities that is chosen now.

        Raises: :class:`NamesError` for a file of no use.
        """
        from celeb_basis.names.lists import read_names, shipped_names

        chosen = self.options().names_file
        return read_names(self._root / Path(chosen).expanduser()) if chosen else shipped_names()

    # Photos and learning

    def check_licence(self, accepted: bool) -> None:
        """Take the user's agreement to the licence of the face models, if it is given, and see whether it is needed.

        Raises: :class:`LicenseError` if it is needed and not given.
        """
        if accepted:
            self.faces.agree()
        self.faces.check_licence()

    def start_faces(self, *, accept_licence: bool) -> Job:
        """Have the chosen face models downloaded, if they are not here; nothing else does so without this agreement.

        Raises: :class:`LicenseError` without the agreement.
        """
        self.check_licence(accept_licence)

        def work(job: Job) -> None:
            job.say("Loading the face models")
            self.faces.network(told_download(job))
            job.result = self.faces.status()
            job.say("The face models are here", step=1, total=1)

        job = Job("faces", ())
        self.queue.begin(job, work)
        return job

    def detect(self, photo: bytes | Pixels, name: str = "the photo") -> FoundFaces:
        """Every face of a photo, with what may keep it from giving a good likeness.

        Raises: :class:`LicenseError` if the face models have to be downloaded and nobody has agreed to their licence.
        """
        return self.faces.find(photo, name)

    def start_learning(self, request: LearnRequest) -> Job:
        """Queue a run.

        Raises: :class:`CelebBasisError` for a request that cannot be right.
        """
        request.check()
        self.check_licence(request.accept_licence)
        for person in request.people:
            if (problem := self.people.check_name(person.name, replace=request.replace)) is not None:
                raise NameTakenError(problem)
        return self.learning.start(request)

    def memory_need(self, preset_name: str, settings: Mapping[str, Any]) -> MemoryNeed | None:
        """What a run with these settings would take now; ``None`` while no checkpoint is loaded.

        Looks at shapes and places of weights only, so it waits for nobody.

        Raises: :class:`SettingsError` for an unknown preset or setting; :class:`HostError` for a checkpoint that nobody
        can be learned on.
        """
        from celeb_basis.training.memory import estimate

        chosen = preset(preset_name).changed(settings)
        # Asking the host for its checkpoint would load one.
        return None if self.host.model_key() is None else estimate(open_loaded_model(self.host), chosen)

    def job(self, job_id: str) -> Job:
        """The job with this id.

        Raises: :class:`TrainingError` if there is none.
        """
        self.learning.find_unfinished()
        return self.queue.job(job_id)

    def jobs(self) -> list[Job]:
        """All jobs, newest first, those kept from before the last start included."""
        self.learning.find_unfinished()
        return self.queue.jobs()

    def interrupt(self, job_id: str) -> None:
        """End a job; a run under way keeps its state, and one that waited can go on as it was."""
        self.queue.interrupt(job_id)
        self.learning.taken_out(self.queue.job(job_id))

    def reload_began(self) -> None:
        """The host builds its page anew, and has interrupted what was under way: a job that has ended by it says so."""
        self.host.reload_began()
        for job in self.queue.jobs():
            if job.error == INTERRUPTED and time.time() - job.changed < RELOAD:
                job.set_state("interrupted", RELOADED)

    def resume(self, job_id: str) -> Job:
        """Go on with an interrupted run: the same job, queued again."""
        return self.learning.resume(job_id)

    def forget(self, job_id: str) -> None:
        """Throw away what was kept of a job that has ended.

        Raises: :class:`TrainingError` while it is under way.
        """
        self.learning.forget(self.job(job_id))
        self.queue.forget(job_id)

    def evaluate(self, request: EvaluateRequest) -> Job:
        """Queue drawing a grid of prompts and judging it; the contact sheet is the job's last picture.

        Raises: :class:`CelebBasisError` for a request that cannot be right.
        """
        from celeb_basis.webui.tasks.evaluate import Evaluation

        request.check()
        self.check_licence(request.accept_licence)
        identity = self.people.identity(request.name)
        job = Job("evaluate", (identity.name,))
        self.queue.submit(job, Evaluation(self, identity, request).run)
        return job

    # Arithmetic and basis

    def blend(self, request: BlendRequest) -> IdentityStatus:
        """Mix people and add the mixture to the library.

        Raises: :class:`CelebBasisError` for parts that do not fit the loaded checkpoint, or a name that is taken.
        """
        self._check_blend(request)
        with self.model() as model:
            mixed = self.mixing.mixed(request, model)
        self.library.add(mixed, replace=request.replace)
        return self.people.entry(mixed.name)

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
        from celeb_basis.basis import fitting_components, summarize

        _check_components(components)
        with self.model(job) as model:
            fitting = fitting_components(model.text_encoders, components)
            return [summarize(one) for one in built_bases(model, self.names(), fitting, job)]

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
    def model(self, job: Job | None = None) -> Iterator[DiffusionModel]:
        """The loaded checkpoint, to look at: nobody else than one of our own jobs works with it meanwhile.

        Raises: :class:`StoppedError` if ``job`` was interrupted during the wait.
        """
        with self.host_queue.read_lock(None if job is None else job.interrupt):
            yield open_loaded_model(self.host)

    def own_bases(self, model: DiffusionModel, components: int, job: Job | None = None) -> list[Basis]:
        """Bases of the loaded checkpoint, one a text encoder, of the list that is chosen now."""
        return [one.basis for one in built_bases(model, self.names(), components, job)]

    def _check_blend(self, request: BlendRequest) -> None:
        if (problem := self.people.check_name(request.name, replace=request.replace)) is not None:
            raise NameTakenError(problem)

    def fitted(self, identity: Identity, model: DiffusionModel, job: Job | None = None) -> Identity:
        """``identity`` on the loaded checkpoint: as it is, or expanded anew in that checkpoint's basis.

        Raises: :class:`WrongModelError` for another family or another list of names.
        """
        from celeb_basis.identities.expand import check_model, expand_identity, stands_for_itself

        check_model(identity, model.info)
        if identity.metadata.base_sha256 == model.info.sha256 or stands_for_itself(identity.metadata):
            return identity
        components = int(identity.coefficients[0].shape[1])
        return expand_identity(identity, self.own_bases(model, components, job), model.info)

    def settings_table(self) -> dict[str, Any]:
        """Presets and every setting's default, range and help, for a form."""
        from dataclasses import fields

        from celeb_basis.settings import PRESETS, TrainingSettings

        return {
            "presets": {name: settings.as_dict() for name, settings in PRESETS.items()},
            "settings": {
                item.name: {"default": item.default, "type": str(item.type), **dict(item.metadata)}
                for item in fields(TrainingSettings)
            },
        }


def _check_components(components: int) -> None:
    if not 1 <= components <= 4096:
        raise SettingsError(f"components is {components}: choose a value from 1 to 4096.")
