"""Evaluate as a job: draw a grid of prompts through the host's checkpoint, judge it, lay out the contact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from celeb_basis.errors import CelebBasisError, JudgingError
from celeb_basis.provenance import marked
from celeb_basis.webui.drawing import counted_steps
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.program import loaded_host
from celeb_basis.webui.requests import EvaluateRequest

if TYPE_CHECKING:
    from celeb_basis.faces.types import FaceNetwork, Floats, Pixels
    from celeb_basis.identities.identity import Identity
    from celeb_basis.judging import PictureToJudge
    from celeb_basis.webui.service import Service


class Evaluation:
    """One evaluation, with everything it was asked for."""

    def __init__(self, service: Service, identity: Identity, request: EvaluateRequest) -> None:
        self._service, self._identity, self._request = service, identity, request

    def run(self, job: Job) -> None:
        """Do it; the pictures drawn before an interruption are judged."""
        from celeb_basis.judging import contact_sheet, judge, load_clip

        job.say("Loading the face models")
        network = self._service.faces.network()
        photo, vectors = self._references(network)
        clip_spec = self._service.options().clip
        clip = load_clip(clip_spec) if clip_spec else None
        items = self._drawn(job)
        if not items:
            job.set_state("interrupted", "It was interrupted before the first picture.")
            return
        stopped = job.interrupt.asked
        job.say("Judging", step=0, total=len(items), seconds_left=None)
        verdict = judge(
            items, vectors, network, clip, progress=lambda done, total: job.say("Judging", step=done, total=total)
        )
        sheet = contact_sheet(items, verdict, reference=photo, title=f"<{self._identity.name}>")
        job.pictures = (*job.pictures, sheet)
        job.result = verdict.as_dict() | {"table": verdict.table(), "sheet": len(job.pictures) - 1}
        if stopped:
            job.set_state("interrupted", f"It was interrupted after {len(items)} pictures, which were judged.")

    def _references(self, network: FaceNetwork) -> tuple[Pixels, Floats]:
        """The first photo, and one face vector a photo."""
        from celeb_basis.faces.portraits import choose_face
        from celeb_basis.photos import open_photo

        photos = [(photo.data, photo.name, photo.face) for photo in self._request.photos]
        thumbnail = self._identity.metadata.thumbnail
        if not photos and thumbnail is not None:
            photos = [(thumbnail, "the thumbnail", None)]
        if not photos:
            raise JudgingError(f"{self._identity.name!r} holds no picture to compare with: give a photo of the person.")
        opened = [(open_photo(data, name=n) if isinstance(data, bytes) else data, n, face) for data, n, face in photos]
        vectors = []
        for picture, name, face in opened:
            found = choose_face(network.detect(picture), face, name)
            vectors.append(network.embed([network.align(picture, found.landmarks)])[0])
        return opened[0][0], np.stack(vectors)

    def _drawn(self, job: Job) -> list[PictureToJudge]:
        """Pictures of the grid, as far as they came."""
        from celeb_basis.hosts.base import GenerationRequest
        from celeb_basis.judging import PictureToJudge, evaluation_prompts

        request, program = self._request, self._service.program
        word = f"<{self._identity.name}>"
        prompts = evaluation_prompts(word, request.kinds or None)
        prompts = prompts[: request.prompts] if request.prompts else prompts
        total = len(prompts) * request.seeds
        items: list[PictureToJudge] = []
        job.say("Waiting for the WebUI to finish what it does")
        with program.exclusive(job):
            host = loaded_host(program)
            words = {word: self._service.fitted(self._identity, host).token_vectors()}
            with counted_steps(job, program, total, request.steps):
                for prompt in prompts:
                    drawing = GenerationRequest(
                        prompt=prompt,
                        words=words,
                        count=request.seeds,
                        seed=request.seed,
                        steps=request.steps,
                        guidance=request.guidance,
                    )
                    for index, image in enumerate(host.generate(drawing)):
                        if program.stop_reason():
                            break  # without this one, which may be half drawn
                        pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
                        number = f"{len(items) + 1:04d}"
                        items.append(PictureToJudge(pixels, prompt, word, request.seed + index, number))
                        job.pictures = (*job.pictures, marked(image, [word]))
                        if job.interrupt.asked:
                            return items
                    if program.stop_reason():
                        job.interrupt.ask()
                        return items
        if len(items) < total:
            raise CelebBasisError("The WebUI drew fewer pictures than it was asked for: look at its log.")
        return items
