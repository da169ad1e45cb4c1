"""Evaluate as a job: generate a grid of prompts with the host's checkpoint, measure it, lay out the contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import CelebBasisError, EvaluationError
from celeb_basis.evaluation import ImageToEvaluate, contact_sheet, evaluate_images, evaluation_prompts
from celeb_basis.evaluation.clip import load_clip
from celeb_basis.faces.face_search import find_faces
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.photos import open_photo
from celeb_basis.provenance import marked
from celeb_basis.webui.tasks.generation import counted_steps

if TYPE_CHECKING:
    from celeb_basis.faces.network import FaceNetwork, Floats, Pixels
    from celeb_basis.identities.identity import Identity
    from celeb_basis.webui.face_models import FaceModels
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.options import Workspace
    from celeb_basis.webui.schemas import EvaluateRequest
    from celeb_basis.webui.tasks.basis import ModelAccess


@dataclass(frozen=True)
class EvaluateTask:
    """One evaluation, with everything it needs."""

    access: ModelAccess
    faces: FaceModels
    workspace: Workspace
    identity: Identity
    request: EvaluateRequest

    def run(self, job: Job) -> None:
        """The work of the job. Images generated before an interruption are evaluated."""
        job.report("Loading the face models")
        network = self.faces.network()
        photo, vectors = self._references(network)
        clip_spec = self.workspace.options().clip
        clip = load_clip(clip_spec) if clip_spec else None
        images = self._generate(job)
        if not images:
            job.set_state("interrupted", "It was interrupted before the first image.")
            return
        stopped = job.interrupt.is_set()
        job.report("Evaluating", step=0, total=len(images), seconds_left=None)
        result = evaluate_images(
            images,
            vectors,
            network,
            clip,
            progress=lambda done, total: job.report("Evaluating", step=done, total=total),
        )
        sheet = contact_sheet(images, result, reference=photo, title=f"<{self.identity.name}>")
        job.pictures = (*job.pictures, sheet)
        job.result = result.as_dict() | {"table": result.table(), "sheet": len(job.pictures) - 1}
        if stopped:
            job.set_state("interrupted", f"It was interrupted after {len(images)} images, which were evaluated.")

    def _references(self, network: FaceNetwork) -> tuple[Pixels, Floats]:
        """The first photo to compare with, and one face vector for each photo."""
        photos = [(photo.data, photo.name, photo.face) for photo in self.request.photos]
        thumbnail = self.identity.metadata.thumbnail
        if not photos and thumbnail is not None:
            photos = [(thumbnail, "the thumbnail", None)]
        if not photos:
            raise EvaluationError(
                f"{self.identity.name!r} holds no picture to compare with: give a photo of the person."
            )
        opened = [(open_photo(data, name=n) if isinstance(data, bytes) else data, n, face) for data, n, face in photos]
        vectors = []
        for picture, name, face in opened:
            search = find_faces(picture, network)
            vectors.append(search.embed(search.choose(face, name), network)[1])
        return opened[0][0], np.stack(vectors)

    def _generate(self, job: Job) -> list[ImageToEvaluate]:
        """The images of the grid; fewer after an interruption."""
        request, host = self.request, self.access.queue.app
        token = f"<{self.identity.name}>"
        prompts = evaluation_prompts(token, request.kinds or None)
        prompts = prompts[: request.prompts] if request.prompts else prompts
        total = len(prompts) * request.seeds
        images: list[ImageToEvaluate] = []
        job.report("Waiting for the WebUI to finish its work")
        with self.access.queue.write_lock(job.task, job.interrupt):
            model = open_loaded_model(host)
            placeholder_tokens = {token: self.access.fit(self.identity, model).token_vectors()}
            with counted_steps(job, host, total, request.steps):
                for prompt in prompts:
                    generation = GenerationRequest(
                        prompt=prompt,
                        placeholder_tokens=placeholder_tokens,
                        count=request.seeds,
                        seed=request.seed,
                        steps=request.steps,
                        guidance=request.guidance,
                    )
                    for index, image in enumerate(model.generate(generation)):
                        if host.stop_reason():
                            break  # without this image, which may be unfinished
                        pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
                        number = f"{len(images) + 1:04d}"
                        images.append(ImageToEvaluate(pixels, prompt, token, request.seed + index, number))
                        job.pictures = (*job.pictures, marked(image, [token]))
                        if job.interrupt.is_set():
                            return images
                    if host.stop_reason():
                        job.interrupt.set()
                        return images
        if len(images) < total:
            raise CelebBasisError("The WebUI generated fewer images than it was asked for: look at its log.")
        return images
