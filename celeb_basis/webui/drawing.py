"""Pictures while they are drawn: progress in sampling steps and a way to stop, for one may take minutes on a CPU."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.program import Program

_EVERY = 0.5
"""Seconds between two looks."""


@contextlib.contextmanager
def stopped_with(job: Job, program: Program, look: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While pictures are drawn: an interrupted ``job`` ends the one under way at its next sampling step.

    ``look`` is called now and then, in another thread. The picture that was ended comes half drawn.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY):
            if job.interrupt.asked:
                program.stop_drawing()
            look()

    watcher = threading.Thread(target=watch, name="celeb-basis drawing", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def counted_steps(job: Job, program: Program, count: int, steps: int) -> Iterator[None]:
    """:func:`stopped_with` for ``count`` pictures of ``steps`` sampling steps each, which ``job`` tells the progress of.

    A picture counts as soon as ``job`` holds it.
    """
    started, before = time.monotonic(), len(job.pictures)
    told = -1

    def look() -> None:
        nonlocal told
        done = len(job.pictures) - before
        step = min(done * steps + min(program.sampling_step(), steps), count * steps)
        if step == told:
            return
        told = step
        left = (time.monotonic() - started) / step * (count * steps - step) if step else None
        job.say(f"Drawing picture {min(done + 1, count)} of {count}", step=step, total=count * steps, seconds_left=left)
        program.report(job)

    job.say(f"Drawing picture 1 of {count}", step=0, total=count * steps, seconds_left=None)
    with stopped_with(job, program, look):
        yield
