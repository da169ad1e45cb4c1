"""Pictures of the people while they are being learned, drawn between two steps through the same checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from celeb_basis.errors import CelebBasisError
from celeb_basis.webui.jobs import Job

if TYPE_CHECKING:
    from celeb_basis.learning.learner import Learner

_log = logging.getLogger(__name__)

KEPT = 24
"""Newest pictures of a job that are kept."""

_STEPS = 20
_PROMPT = "a photo of {}"


def previews(job: Job, every: int) -> Callable[[Learner], None] | None:
    """What draws everybody of ``job`` each ``every`` steps, with one seed, so that the pictures can be compared."""
    if every < 1:
        return None

    def draw(learner: Learner) -> None:
        nonlocal every
        if not every or (learner.step % every and learner.step != learner.total):
            return
        try:
            _draw(job, learner)
        except CelebBasisError as error:
            every = 0  # a preview is no reason to lose a run
            _log.warning("No more previews of %s: %s", ", ".join(job.people), error)

    return draw


def _draw(job: Job, learner: Learner) -> None:
    from celeb_basis.hosts.base import GenerationRequest

    side = learner.settings.size or learner.host.info.resolution
    for person in learner.results():
        word = f"<{person.name}>"
        pairs = zip(learner.bases, person.coefficients, strict=True)
        vectors = [basis.expand(coefficients) for basis, coefficients in pairs]
        request = GenerationRequest(
            _PROMPT.format(word), words={word: vectors}, seed=0, steps=_STEPS, width=side, height=side
        )
        for image in learner.host.generate(request):
            image.info["title"] = f"{word} after {learner.step} steps"
            job.pictures = (*job.pictures, image)[-KEPT:]
