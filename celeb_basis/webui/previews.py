"""Pictures of the people while they are being learned, drawn between two steps through the same checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from celeb_basis.errors import LearningError
from celeb_basis.executors.failures import is_explained, sentence_of
from celeb_basis.provenance import marked
from celeb_basis.webui.drawing import stopped_with
from celeb_basis.webui.jobs import Job

if TYPE_CHECKING:
    from celeb_basis.learning.learner import Learner
    from celeb_basis.webui.program import Program

_log = logging.getLogger(__name__)

KEPT = 24
"""Newest pictures of a job that are kept."""

_STEPS = 20
_PROMPT = "a photo of {}"


def previews(job: Job, program: Program, every: int, times: int = 0) -> Callable[[Learner], None] | None:
    """What draws everybody of ``job`` with one seed, so that the pictures can be compared.

    Parameters: ``every`` is a number of steps; where it is 0, ``times`` of a whole run are spread over it evenly.
    """
    if every < 1 and times < 1:
        return None
    going_on = True

    def draw(learner: Learner) -> None:
        nonlocal going_on
        if not going_on or not is_due(learner.step, learner.total, every, times):
            return
        try:
            _draw(job, program, learner)
        except Exception as error:  # of any kind: a preview is no reason to lose a run
            going_on = False
            told = sentence_of(error) if is_explained(error) else f"{type(error).__name__}: {error}"
            _log.warning("No more previews of %s: %s", ", ".join(job.people), told, exc_info=not is_explained(error))
            job.say("Learning", warnings=(*job.progress().warnings, f"There are no more previews: {told}"))

    return draw


def is_due(step: int, total: int, every: int, times: int) -> bool:
    """Whether there is a preview after ``step`` of ``total`` steps; see :func:`previews`."""
    if every:
        return step % every == 0 or step == total
    return step * times // total > (step - 1) * times // total


def _draw(job: Job, program: Program, learner: Learner) -> None:
    from celeb_basis.hosts.base import GenerationRequest

    side = learner.settings.size or learner.host.info.resolution
    try:
        people = learner.results()
    except LearningError:  # somebody has not been in a step yet
        return
    for person in people:
        if job.interrupt.asked:
            return
        job.say(f"Drawing a preview of {person.name}")
        word = f"<{person.name}>"
        pairs = zip(learner.bases, person.coefficients, strict=True)
        vectors = [basis.expand(coefficients) for basis, coefficients in pairs]
        request = GenerationRequest(
            _PROMPT.format(word), words={word: vectors}, seed=0, steps=_STEPS, width=side, height=side
        )
        with stopped_with(job, program):
            for image in learner.host.generate(request):
                if job.interrupt.asked or program.stop_reason():
                    return  # this one may be half drawn
                image.info["title"] = f"{word} after {learner.step} steps"
                job.pictures = (*job.pictures, marked(image, [word]))[-KEPT:]
    job.say("Learning")
