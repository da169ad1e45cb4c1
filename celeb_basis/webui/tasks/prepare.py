"""Preparing the loaded checkpoint as a job: the celebrities' faces, as it renders them, without learning anybody."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celeb_basis.basis import fitting_components
from celeb_basis.events import Event, follow, until_set
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.settings import PRESETS, automatic_preset
from celeb_basis.training.first_guess import celebrity_faces_for
from celeb_basis.webui.face_models import download_progress
from celeb_basis.webui.jobs import Job

if TYPE_CHECKING:
    from celeb_basis.webui.face_models import FaceModels
    from celeb_basis.webui.tasks.basis import ModelAccess
    from celeb_basis.webui.timings import Timings


@dataclass(frozen=True)
class PrepareTask:
    """Generates what *quick* and *best* need of a checkpoint; what was done stays if it is interrupted."""

    access: ModelAccess
    faces: FaceModels
    timings: Timings

    def run(self, job: Job) -> None:
        """The work of the job."""
        queue, host = self.access.queue, self.access.queue.app
        job.report("Loading the face models")
        network = self.faces.network(download_progress(job))
        settings = PRESETS[automatic_preset(prepared=True)]
        reason = ""
        job.report("Waiting for the WebUI to finish its work", step=0, total=0)
        with queue.write_lock(job.task, job.interrupt), contextlib.ExitStack() as stack:
            model = open_loaded_model(host)
            if isinstance(model, contextlib.AbstractContextManager):
                stack.enter_context(model)
            bases = self.access.bases(model, fitting_components(model.text_encoders, settings.components), job)
            job.report("Generating the celebrities, once")
            key = host.model_key()

            def on_event(event: Event) -> None:
                nonlocal reason
                watch.add(event)
                job.add_event(event)
                host.report(job.host_progress())
                reason = host.stop_reason() or ("" if host.model_key() == key else "The checkpoint was switched.")
                if reason:
                    job.interrupt.set()

            work = celebrity_faces_for(model, bases, network, settings, [CELEBRITY_FACES])
            with self.timings.measuring(model, settings) as watch:
                found = follow(until_set(work, job.interrupt), on_event)
            checkpoint = model.info.name
        if found is None:
            job.set_state(
                "interrupted", f"{reason or 'It was interrupted.'} It goes on from there when you prepare again."
            )
            return
        job.result = {"checkpoint": checkpoint, "celebrities": len(found.names)}
        job.report("The checkpoint is prepared", step=1, total=1, seconds_left=0.0)
