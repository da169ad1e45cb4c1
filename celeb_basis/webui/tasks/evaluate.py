"""Evaluate as a job: draw a grid of prompts through the host's checkpoint, judge it, lay out the contact sheet."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from celeb_basis.errors import CelebBasisError, EvaluationError
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.provenance import marked
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import EvaluateRequest

if TYPE_CHECKING:
    from celeb_basis.evaluation import ImageToEvaluate
    from celeb_basis.faces.types import FaceNetwork, Floats, Pixels
    from celeb_basis.hosts.a1111.app import HostApp
    from celeb_basis.identities.identity import Identity
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.service import Service


# FOLDED: Pictures while they are drawn: progress in sampling steps and a way to stop, for one may take minutes on
# FOLDED: a CPU.

_EVERY = 0.5
"""Seconds between two looks."""


@contextlib.contextmanager
def stopped_with(job: Job, host: HostApp, look: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While pictures are drawn: an interrupted ``job`` ends the one under way at its next sampling step.

    ``look`` is called now and then, in another thread. The picture that was ended comes half drawn.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY):
            if job.interrupt.is_set():
                host.stop_generation()
            look()

    watcher = threading.Thread(target=watch, name="celeb-basis drawing", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def counted_steps(job: Job, host: HostApp, count: int, steps: int) -> Iterator[None]:
    """:func:`stopped_with` for ``count`` pictures of ``steps`` sampling steps each, which ``job`` tells the progress of.

    A picture counts as soon as ``job`` holds it.
    """
    started, before = time.monotonic(), len(job.pictures)
    told = -1

    def look() -> None:
        nonlocal told
        done = len(job.pictures) - before
        step = min(done * steps + min(host.sampling_step(), steps), count * steps)
        if step == told:
            return
        told = step
        left = (time.monotonic() - started) / step * (count * steps - step) if step else None
        job.say(f"Drawing picture {min(done + 1, count)} of {count}", step=step, total=count * steps, seconds_left=left)
        host.report(job.host_progress())

    job.say(f"Drawing picture 1 of {count}", step=0, total=count * steps, seconds_left=None)
    with stopped_with(job, host, look):
        yield


class Evaluation:
    """One evaluation, with everything it was asked for."""

    def __init__(self, service: Service, identity: Identity, request: EvaluateRequest) -> None:
        self._service, self._identity, self._request = service, identity, request

    def run(self, job: Job) -> None:
        """Do it; the pictures drawn before an interruption are judged."""
        from celeb_basis.evaluation import contact_sheet, evaluate_images
        from celeb_basis.evaluation.clip import load_clip

        job.say("Loading the face models")
        network = self._service.faces.network()
        photo, vectors = self._references(network)
        clip_spec = self._service.options().clip
        clip = load_clip(clip_spec) if clip_spec else None
        items = self._drawn(job)
        if not items:
            job.set_state("interrupted", "It was interrupted before the first picture.")
            return
        stopped = job.interrupt.is_set()
        job.say("Judging", step=0, total=len(items), seconds_left=None)
        verdict = evaluate_images(
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
            raise EvaluationError(
                f"{self._identity.name!r} holds no picture to compare with: give a photo of the person."
            )
        opened = [(open_photo(data, name=n) if isinstance(data, bytes) else data, n, face) for data, n, face in photos]
        vectors = []
        for picture, name, face in opened:
            found = choose_face(network.detect(picture), face, name)
            vectors.append(network.embed([network.align(picture, found.landmarks)])[0])
        return opened[0][0], np.stack(vectors)

    def _drawn(self, job: Job) -> list[ImageToEvaluate]:
        """Pictures of the grid, as far as they came."""
        from celeb_basis.diffusion_model import GenerationRequest
        from celeb_basis.evaluation import ImageToEvaluate, evaluation_prompts

        request, host = self._request, self._service.host
        word = f"<{self._identity.name}>"
        prompts = evaluation_prompts(word, request.kinds or None)
        prompts = prompts[: request.prompts] if request.prompts else prompts
        total = len(prompts) * request.seeds
        items: list[ImageToEvaluate] = []
        job.say("Waiting for the WebUI to finish what it does")
        with self._service.host_queue.write_lock(job.task, job.interrupt):
            model = open_loaded_model(host)
            words = {word: self._service.fitted(self._identity, model).token_vectors()}
            with counted_steps(job, host, total, request.steps):
                for prompt in prompts:
                    drawing = GenerationRequest(
                        prompt=prompt,
                        placeholder_tokens=words,
                        count=request.seeds,
                        seed=request.seed,
                        steps=request.steps,
                        guidance=request.guidance,
                    )
                    for index, image in enumerate(model.generate(drawing)):
                        if host.stop_reason():
                            break  # without this one, which may be half drawn
                        pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
                        number = f"{len(items) + 1:04d}"
                        items.append(ImageToEvaluate(pixels, prompt, word, request.seed + index, number))
                        job.pictures = (*job.pictures, marked(image, [word]))
                        if job.interrupt.is_set():
                            return items
                    if host.stop_reason():
                        job.interrupt.set()
                        return items
        if len(items) < total:
            raise CelebBasisError("The WebUI drew fewer pictures than it was asked for: look at its log.")
        return items
