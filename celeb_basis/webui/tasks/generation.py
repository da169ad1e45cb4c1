"""Generating images inside a job: progress in sampling steps, interruption, and previews while learning."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import TrainingError, error_message, is_user_error
from celeb_basis.provenance import marked
from celeb_basis.webui.jobs import Job

if TYPE_CHECKING:
    from celeb_basis.hosts.a1111.app import HostApp
    from celeb_basis.training.trainer import Trainer

_log = logging.getLogger(__name__)

_POLL = 0.5
"""Seconds between two looks at an image under way; one may take minutes on a CPU."""

MAX_IMAGES = 24
"""Newest previews that are kept of a job."""

_PREVIEW_STEPS = 20
_PREVIEW_PROMPT = "a photo of {}"


@contextlib.contextmanager
def interruptible(job: Job, host: HostApp, poll: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While images are generated: interrupting ``job`` ends the one under way at its next sampling step.

    The image that was ended comes back unfinished.

    Args:
        job: The job that generates.
        host: The program that generates for it.
        poll: Called every half second, in another thread.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL):
            if job.interrupt.is_set():
                host.stop_generation()
            poll()

    watcher = threading.Thread(target=watch, name="celeb-basis generation", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def counted_steps(job: Job, host: HostApp, count: int, steps: int) -> Iterator[None]:
    """:func:`interruptible` for ``count`` images of ``steps`` sampling steps each, with progress in ``job``.

    An image counts as soon as ``job`` holds it.
    """
    started, before = time.monotonic(), len(job.pictures)
    last = -1

    def poll() -> None:
        nonlocal last
        done = len(job.pictures) - before
        step = min(done * steps + min(host.sampling_step(), steps), count * steps)
        if step == last:
            return
        last = step
        left = (time.monotonic() - started) / step * (count * steps - step) if step else None
        stage = f"Generating image {min(done + 1, count)} of {count}"
        job.report(stage, step=step, total=count * steps, seconds_left=left)
        host.report(job.host_progress())

    job.report(f"Generating image 1 of {count}", step=0, total=count * steps, seconds_left=None)
    with interruptible(job, host, poll):
        yield


def preview_callback(job: Job, host: HostApp, every: int, times: int = 0) -> Callable[[Trainer], None] | None:
    """A callback for after each step of learning that generates everyone in ``job``, or ``None`` for no previews.

    All previews have one seed, so that they can be compared.

    Args:
        job: The job that learns; the previews are added to its images.
        host: The program that generates.
        every: Steps between two previews.
        times: Where ``every`` is 0: how many previews are spread evenly over the run.
    """
    if every < 1 and times < 1:
        return None
    failed = False

    def preview(trainer: Trainer) -> None:
        nonlocal failed
        if failed or not is_due(trainer.step, trainer.total, every, times):
            return
        try:
            _generate_previews(job, host, trainer)
        except Exception as error:  # of any kind: a preview is no reason to lose a run
            failed = True
            message = error_message(error) if is_user_error(error) else f"{type(error).__name__}: {error}"
            _log.warning(
                "No more previews of %s: %s", ", ".join(job.people), message, exc_info=not is_user_error(error)
            )
            warnings = (*job.progress().warnings, f"There are no more previews: {message}")
            job.report("Learning", warnings=warnings)

    return preview


def is_due(step: int, total: int, every: int, times: int) -> bool:
    """Whether there is a preview after ``step`` of ``total`` steps; see :func:`preview_callback`."""
    if every:
        return step % every == 0 or step == total
    return step * times // total > (step - 1) * times // total


def _generate_previews(job: Job, host: HostApp, trainer: Trainer) -> None:
    side = trainer.settings.size or trainer.model.info.resolution
    try:
        results = trainer.results()
    except TrainingError:  # one of the people has not been in a step yet
        return
    for name, coefficients in results.items():
        if job.interrupt.is_set():
            return
        job.report(f"Generating a preview of {name}")
        token = f"<{name}>"
        vectors = [basis.expand(one) for basis, one in zip(trainer.bases, coefficients, strict=True)]
        request = GenerationRequest(
            _PREVIEW_PROMPT.format(token),
            placeholder_tokens={token: vectors},
            seed=0,
            steps=_PREVIEW_STEPS,
            width=side,
            height=side,
        )
        with interruptible(job, host):
            for image in trainer.model.generate(request):
                if job.interrupt.is_set() or host.stop_reason():
                    return  # this image may be unfinished
                image.info["title"] = f"{token} after {trainer.step} steps"
                job.pictures = (*job.pictures, marked(image, [token]))[-MAX_IMAGES:]
    job.report("Learning")
