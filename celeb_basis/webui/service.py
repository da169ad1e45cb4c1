"""Everything that the page and the API can do with people, composed for one host; without gradio and fastapi."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError
from celeb_basis.hosts.a1111.app import INTERRUPTED, RELOAD, RELOADED, HostApp, open_loaded_model
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.settings import AUTO, PRESETS, TrainingSettings, preset
from celeb_basis.training.memory import MemoryNeed, estimate
from celeb_basis.webui.face_models import FaceModels, download_progress
from celeb_basis.webui.host_queue import HostQueue
from celeb_basis.webui.jobs import Job, JobQueue
from celeb_basis.webui.options import Workspace
from celeb_basis.webui.people import People
from celeb_basis.webui.schemas import (
    BlendRequest,
    EvaluateRequest,
    InventRequest,
    LearnRequest,
    NameTakenError,
    PreviewRequest,
    SavedRun,
)
from celeb_basis.webui.tasks.basis import ModelAccess, check_components
from celeb_basis.webui.tasks.blend import BlendTasks
from celeb_basis.webui.tasks.invent import InventTasks
from celeb_basis.webui.tasks.learn import LearnTasks
from celeb_basis.webui.timings import Pace, preparation_offer, preset_costs

if TYPE_CHECKING:
    from celeb_basis.webui.import_export import ImportExport


class Service:
    """The one object behind page and API. Safe in threads.

    Its parts do the work: ``workspace`` knows the folders, ``faces`` the face models, ``people`` the library,
    ``import_export`` files, ``model`` the loaded checkpoint, ``learning``, ``blending`` and ``inventing`` their jobs. The
    methods here are what takes several of them, most of all starting jobs.
    """

    def __init__(self, host: HostApp, workspace: Workspace) -> None:
        self.host, self.workspace = host, workspace
        self.queue = JobQueue()
        self.faces = FaceModels(lambda: workspace.options().face_pack)
        self.model = ModelAccess(HostQueue(host), workspace.names)
        self.learning = LearnTasks(self.model.queue, self.queue, self.faces, workspace)
        self.people = People(host, workspace, self.learning)
        self.blending = BlendTasks(self.people, self.model)
        self.inventing = InventTasks(self.people, self.model, self.learning.job)

    @cached_property
    def import_export(self) -> ImportExport:
        """Identities as files. Not imported at the host's start, because it brings the formats of all other tools."""
        from celeb_basis.webui.import_export import ImportExport

        return ImportExport(self.people, self.model)

    # Jobs

    def job(self, job_id: str) -> Job:
        """The job with this id.

        Raises:
            NoSuchJobError: There is none.
        """
        return self.learning.job(job_id)

    def jobs(self) -> list[Job]:
        """All jobs, newest first, with the runs that were saved before the last start of the host."""
        return self.learning.jobs()

    def interrupt(self, job_id: str) -> None:
        """Interrupt a job. A run saves its state; a job that waited can be resumed as it was."""
        self.learning.interrupt(job_id)

    def resume(self, job_id: str) -> Job:
        """Queue an interrupted run again, as the same job.

        Raises:
            TrainingError: The job is under way, or nothing of it was saved.
        """
        return self.learning.resume(job_id)

    def forget(self, job_id: str) -> None:
        """Delete what was saved of a finished job.

        Raises:
            TrainingError: The job is under way.
        """
        self.learning.forget(job_id)

    def saved_runs(self) -> list[SavedRun]:
        """The runs that ended before their last step, newest first, and those that another program is running now."""
        return self.learning.saved_runs()

    def resume_run(self, name: str) -> Job:
        """Resume a run of :meth:`saved_runs`.

        Args:
            name: Its id, or the name of a person whom it learns: the newest such run.

        Raises:
            NoSuchJobError: There is none.
        """
        return self.learning.resume(self.learning.saved_run(name).id)

    def discard_run(self, name: str) -> SavedRun:
        """Delete a run of :meth:`saved_runs` with everything that was saved of it, and return what it was.

        Args:
            name: As for :meth:`resume_run`.

        Raises:
            NoSuchJobError: There is none.
        """
        run = self.learning.saved_run(name)
        self.learning.forget(run.id)
        return run

    def reload_began(self) -> None:
        """The host rebuilds its page, for which it has interrupted what was under way: jobs that ended by it say so."""
        self.host.reload_began()
        for job in self.queue.jobs():
            if job.error == INTERRUPTED and time.time() - job.changed < RELOAD:
                job.set_state("interrupted", RELOADED)

    # Face models and learning

    def check_license(self, accepted: bool) -> None:
        """Note the user's agreement to the license of the face models, if it is given, and check whether it is needed.

        Raises:
            LicenseError: It is needed and was not given.
        """
        if accepted:
            self.faces.agree()
        self.faces.check_license()

    def start_faces(self, *, accept_licence: bool) -> Job:
        """Start a job that downloads the chosen face models, if they are missing.

        Raises:
            LicenseError: The license was not agreed to.
        """
        self.check_license(accept_licence)

        def work(job: Job) -> None:
            job.report("Loading the face models")
            self.faces.network(download_progress(job))
            job.result = self.faces.status()
            job.report("The face models are here", step=1, total=1)

        job = Job("faces", ())
        self.queue.start(job, work)
        return job

    def start_learning(self, request: LearnRequest) -> Job:
        """Queue a run.

        Raises:
            CelebBasisError: The request cannot be right.
        """
        request.check()
        self.check_license(request.accept_licence)
        for person in request.people:
            if (problem := self.people.check_name(person.name, replace=request.replace)) is not None:
                raise NameTakenError(problem)
        return self.learning.start(request)

    def memory_need(self, preset_name: str, settings: Mapping[str, Any]) -> MemoryNeed | None:
        """The memory that a run with these settings would take now; ``None`` while no checkpoint is loaded.

        Only shapes and devices of weights are looked at, so it waits for nothing.

        Raises:
            SettingsError: The preset or a setting is unknown.
            HostError: People cannot be learned on the checkpoint.
        """
        chosen = preset(preset_name).changed(settings)
        # Asking the host for its checkpoint would load one.
        return None if self.host.model_key() is None else estimate(open_loaded_model(self.host), chosen)

    def preset_costs(self) -> dict[str, str]:
        """What each preset takes on the loaded checkpoint, in a few words: its time if such a run was timed before."""
        try:
            known = self.host.model_key() is not None
            pace = self.learning.timings.read(open_loaded_model(self.host)) if known else Pace()
        except CelebBasisError:  # the run itself says that people cannot be learned on it
            pace = Pace()
        return preset_costs(pace, self.learning.is_prepared())

    def preparation_offer(self, preset_name: str) -> str:
        """A sentence that offers to prepare the loaded checkpoint; empty if it is prepared, or a preset was chosen."""
        if preset_name != AUTO or self.learning.is_prepared() is not False:
            return ""
        return preparation_offer(self.learning.timings.read(open_loaded_model(self.host)))

    def start_preparation(self, *, accept_licence: bool = False) -> Job:
        """Queue preparing the loaded checkpoint, so that *quick* and *best* begin at once, and *automatic* is *quick*.

        Raises:
            LicenseError: The face models would have to be downloaded, and their license was not agreed to.
        """
        from celeb_basis.webui.tasks.prepare import PrepareTask

        self.check_license(accept_licence)
        job = Job("prepare", ())
        self.queue.submit(job, PrepareTask(self.model, self.faces, self.learning.timings).run)
        return job

    def settings_table(self) -> dict[str, Any]:
        """The presets, and every setting's default, range and help, for a form."""
        return {
            "default": AUTO,
            "presets": {name: settings.as_dict() for name, settings in PRESETS.items()},
            "settings": {
                item.name: {"default": item.default, "type": str(item.type), **dict(item.metadata)}
                for item in fields(TrainingSettings)
            },
        }

    # Evaluating, blending, bases

    def evaluate(self, request: EvaluateRequest) -> Job:
        """Queue an evaluation; the contact sheet is the job's last image.

        Raises:
            CelebBasisError: The request cannot be right.
        """
        # Not at the host's start, because it brings the metrics and the contact sheet.
        from celeb_basis.webui.tasks.evaluate import EvaluateTask

        request.check()
        self.check_license(request.accept_licence)
        identity = self.people.identity(request.name)
        job = Job("evaluate", (identity.name,))
        self.queue.submit(job, EvaluateTask(self.model, self.faces, self.workspace, identity, request).run)
        return job

    def blend(self, request: BlendRequest) -> IdentityStatus:
        """Blend people and add the blend to the library.

        Raises:
            CelebBasisError: The parts do not fit the loaded checkpoint, or the name is taken.
        """
        return self.blending.blend(request)

    def start_blend(self, request: BlendRequest) -> Job:
        """Start :meth:`blend` as a job; the identity is its result.

        Raises:
            CelebBasisError: The request cannot be right.
        """
        job = self.blending.blend_job(request)
        self.queue.start(job, lambda job: self.blending.run_blend(job, request))
        return job

    def preview_blend(self, request: PreviewRequest) -> Job:
        """Queue generating images of a blend that is not added to the library; they are the job's images.

        Raises:
            CelebBasisError: The request cannot be right.
        """
        job = self.blending.preview_job(request)
        self.queue.submit(job, lambda job: self.blending.run_preview(job, request))
        return job

    def invent(self, request: InventRequest) -> Job:
        """Queue a sheet of people who do not exist; their images are the job's, and its result lists them.

        Raises:
            CelebBasisError: The request cannot be right.
        """
        job = self.inventing.invent_job(request)
        self.queue.submit(job, lambda job: self.inventing.run(job, request))
        return job

    def save_invented(self, job_id: str, number: int, name: str = "", *, replace: bool = False) -> IdentityStatus:
        """Add a person of a sheet to the library.

        Args:
            job_id: The job that made the sheet.
            number: Of the person, from 1.
            name: What the person is called; the suggested name if empty.
            replace: Whether a person of that name is replaced.

        Raises:
            IdentityError: The name is taken or unusable, or there is no such sheet or number.
        """
        return self.inventing.save(job_id, number, name, replace_existing=replace)

    def start_basis(self, components: int = 512) -> Job:
        """Start building the loaded checkpoint's bases as a job; their summaries are its ``outcome``.

        Raises:
            SettingsError: No basis has so many components.
        """
        check_components(components)
        job = Job("basis", ())
        self.queue.start(job, lambda job: self.model.run_summaries(job, components))
        return job
