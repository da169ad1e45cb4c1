"""One job after the other, in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from celeb_basis.executors.failures import is_explained, sentence_of
from celeb_basis.executors.work import Interrupt, Job, LearnsPeople, Outcome, follow
from celeb_basis.learning.events import Event

_log = logging.getLogger(__name__)


def run_local(
    worker: LearnsPeople, jobs: Sequence[Job], interrupt: Interrupt, on_event: Callable[[Job, Event], None]
) -> Iterator[Outcome]:
    """Learn ``jobs`` in their order and yield how each ended; one that fails stops no other.

    Parameters: ``on_event`` is told everything that happens meanwhile.
    """
    for job in jobs:
        if interrupt.asked:
            return
        yield _outcome(worker, job, interrupt, on_event)


def run_one(worker: LearnsPeople, job: Job, interrupt: Interrupt, on_event: Callable[[Job, Event], None]) -> Outcome:
    """Learn one job.

    Raises: :class:`CelebBasisError` if it fails.
    """
    return follow(worker.learn(job, interrupt), lambda event: on_event(job, event))


def failure(job: Job, error: Exception) -> Outcome:
    """The outcome of a job that ended with ``error``."""
    if not is_explained(error):
        _log.error("%s failed", ", ".join(job.names), exc_info=error)
    return Outcome(job.names, error=sentence_of(error))


def _outcome(worker: LearnsPeople, job: Job, interrupt: Interrupt, on_event: Callable[[Job, Event], None]) -> Outcome:
    try:
        return run_one(worker, job, interrupt, on_event)
    except Exception as error:
        return failure(job, error)
