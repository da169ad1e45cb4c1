"""Blend as a job: a weighted mean of identities, steered if that is wanted, images of it before it is saved, and saving it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import CelebBasisError, IdentityError
from celeb_basis.files import checked_name
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.identities.blending import add_blend, blend, toward_celebrity, toward_mean
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.identities.steering import Steering, steer
from celeb_basis.provenance import generated_image_bytes, marked, reduced
from celeb_basis.training.dataset import THUMBNAIL
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import NameTakenError
from celeb_basis.webui.tasks.generation import counted_steps

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.identities.identity import Identity
    from celeb_basis.webui.people import People
    from celeb_basis.webui.schemas import BlendRequest, PreviewRequest
    from celeb_basis.webui.tasks.basis import ModelAccess

UNNAMED = "mixture"
"""What a blend is called while it has no name."""


_MOST_PREVIEWED = 20
"""Blends whose face is remembered."""


@dataclass(frozen=True)
class BlendTasks:
    """Blending people of the library on the loaded checkpoint."""

    people: People
    access: ModelAccess
    _previewed: dict[str, bytes] = field(default_factory=dict, repr=False)
    """The face of blends that were previewed, as thumbnails, by their content hash; the newest last."""

    def blend(self, request: BlendRequest) -> IdentityStatus:
        """Blend people and add the blend to the library.

        Raises:
            CelebBasisError: The parts do not fit the loaded checkpoint, or the name is taken.
        """
        begun = time.time()
        self._check_name(request)
        with self.access.read() as model:
            blended = self._with_face(self.blended(request, model))
        add_blend(self.people.workspace.library, blended, begun, replace=request.replace)
        return self.people.entry(blended.name)

    def blend_job(self, request: BlendRequest) -> Job:
        """A job for :meth:`run_blend`.

        Raises:
            CelebBasisError: The request cannot be right.
        """
        self._check_name(request)
        self._parts(request)
        self._steering(request)
        return Job("blend", (checked_name(request.name),))

    def preview_job(self, request: PreviewRequest) -> Job:
        """A job for :meth:`run_preview`.

        Raises:
            CelebBasisError: The request cannot be right.
        """
        request.check()
        if request.blend.name:
            checked_name(request.blend.name)
        self._steering(request.blend)
        return Job("preview", tuple(person.name for person, _ in self._parts(request.blend)))

    def blended(self, request: BlendRequest, model: DiffusionModel, job: Job | None = None) -> Identity:
        """The blend on the loaded checkpoint.

        Args:
            request: What is blended.
            model: The loaded checkpoint.
            job: Is shown the progress, and ends the work when it is interrupted.

        Raises:
            CelebBasisError: The parts do not fit the checkpoint.
            StoppedError: ``job`` was interrupted.
        """
        people, steering = self._parts(request), self._steering(request)
        bases = self.access.bases(model, int(people[0][0].coefficients[0].shape[1]), job)
        parts = []
        for number, (person, weight) in enumerate(people):
            if job is not None:
                job.check_interrupted()
                job.report(f"Blending in {person.name}", step=number, total=len(people))
            parts.append((self.access.fit(person, model, job), weight))
        blended = blend(parts, bases, model.info, name=request.name or UNNAMED, keep_radius=request.keep_radius)
        if request.toward_mean:
            blended = toward_mean(blended, request.toward_mean, bases, model.info)
        if request.toward_celebrity:
            blended = toward_celebrity(
                blended,
                request.toward_celebrity,
                request.celebrity_amount,
                bases,
                model.info,
                keep_radius=request.keep_radius,
            )
        if steering:
            blended = steer(blended, steering, bases, model.info, self.access.names())
        if job is not None:
            job.check_interrupted()
        return blended

    def run_blend(self, job: Job, request: BlendRequest) -> None:
        """The work of a job: blend, and add the blend to the library."""
        job.report("Waiting for the WebUI to finish its work")
        with self.access.read(job) as model:
            blended = self._with_face(self.blended(request, model, job))
        add_blend(self.people.workspace.library, blended, job.created, replace=request.replace)
        job.result = {"person": self.people.entry(blended.name).as_dict()}
        job.report("Saved", step=1, total=1)

    def run_preview(self, job: Job, request: PreviewRequest) -> None:
        """The work of a job: blend, and generate images of the blend. Nothing is saved."""
        queue, host = self.access.queue, self.access.queue.app
        job.report("Waiting for the WebUI to finish its work")
        with queue.write_lock(job.task, job.interrupt):
            model = open_loaded_model(host)
            blended = self.blended(request.blend, model, job)
            token = f"<{blended.name}>"
            generation = GenerationRequest(
                prompt=request.prompt.replace("{}", token),
                placeholder_tokens={token: blended.token_vectors()},
                count=request.count,
                seed=request.seed,
                steps=request.steps,
                guidance=request.guidance,
            )
            with counted_steps(job, host, request.count, request.steps):
                for image in model.generate(generation):
                    if host.stop_reason() or job.interrupt.is_set():
                        break  # this image may be unfinished
                    image.info["title"] = token
                    job.pictures = (*job.pictures, marked(image, [token]))
            reason = host.stop_reason()
        job.result = {"word": token, "prompt": generation.prompt, "pictures": len(job.pictures)}
        if job.interrupt.is_set() or reason:
            job.set_state("interrupted", "It was interrupted." if job.interrupt.is_set() else reason)
        elif len(job.pictures) < request.count:
            raise CelebBasisError("The WebUI generated fewer images than it was asked for: look at its log.")
        else:
            self._remember_face(blended, job.pictures[0])
            job.report("Generated", step=1, total=1, seconds_left=None)

    def _remember_face(self, blended: Identity, image: Image.Image) -> None:
        self._previewed.pop(blended.content_hash, None)
        self._previewed[blended.content_hash] = generated_image_bytes(reduced(image, THUMBNAIL))
        while len(self._previewed) > _MOST_PREVIEWED:
            self._previewed.pop(next(iter(self._previewed)), None)

    def _with_face(self, blended: Identity) -> Identity:
        """``blended`` with the image that was previewed of the same blend as its thumbnail, if there is one."""
        face = self._previewed.get(blended.content_hash)
        return replace(blended, metadata=replace(blended.metadata, thumbnail=face)) if face else blended

    def _parts(self, request: BlendRequest) -> list[tuple[Identity, float]]:
        people = [(self.people.identity(name), weight) for name, weight in request.parts]
        if not people:
            raise IdentityError("There is nobody to blend: give at least one person with a weight.")
        return people

    def _steering(self, request: BlendRequest) -> Steering:
        """Where the blend is steered; groups are looked for now, celebrities once the basis is there."""
        steering = Steering(request.celebrities, request.groups)
        if steering.groups:
            names = self.access.names()
            for group, _ in steering.groups:
                names.find_group(group)
        return steering

    def _check_name(self, request: BlendRequest) -> None:
        if (problem := self.people.check_name(request.name, replace=request.replace)) is not None:
            raise NameTakenError(problem)
