"""The part of a sub-tab that follows a job: it is polled by the page's script, and finds a job that goes on after reload."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError
from celeb_basis.webui.tab import gr, markup
from celeb_basis.webui.tab.gr import KEEP, gradio, on

if TYPE_CHECKING:
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.service import Service

_PLOT_EVERY = 3.0
"""Seconds between two drawings of the curve: a drawing costs a tenth of a second."""


class Watch:
    """Shows the newest job of some kinds. What a visitor sees of it stands in the page itself, from where it is asked for:
    answers may overtake one another on their way.

    Parameters: ``poll`` is the id of its hidden button; ``idle`` is the sentence without a job; ``shown`` is HTML of what
    came of a job so far.
    """

    def __init__(
        self,
        service: Service,
        kinds: tuple[str, ...],
        poll: str,
        idle: str,
        shown: Callable[[Job], str] = markup.drawn,
    ) -> None:
        self.service, self.kinds, self.poll, self.idle, self._shown = service, kinds, poll, idle, shown
        self.outputs: list[Any] = []
        self._seen: Any = None
        self._plot: tuple[tuple[str, int], float, str] = (("", 0), 0.0, "")

    def build(
        self, *, plot: bool, others: Sequence[Any] = (), at_end: Callable[[], tuple[Any, ...]] | None = None
    ) -> None:
        """Make the components and connect the hidden button.

        Parameters: ``others`` are components that ``at_end`` answers for when a job is seen to have ended.
        """
        status = gradio.HTML(markup.progress(None, self.poll, self.idle), elem_id=f"{self.poll}_status")
        curve = gradio.HTML("", elem_id=f"{self.poll}_curve", visible=plot)
        shown = gradio.HTML("", elem_id=f"{self.poll}_pictures")
        self._seen = gr.hidden_text(f"{self.poll}_seen")
        self.outputs = [status, curve, shown]
        button = gr.hidden_button(self.poll)

        def polled(seen: str) -> tuple[Any, ...]:
            job = self.current()
            ended = job is not None and job.finished  # and is shown so now, if it was not before
            answers = self._newer(job, seen)
            return *answers, *(at_end() if at_end and ended and answers[0] is not KEEP else (KEEP,) * len(others))

        on(button.click, polled, [self._seen], [*self.outputs, *others], quiet=True, script=self._look)

    def show_at(self, event: Any) -> None:
        """Bring everything up to date at ``event``, as when the sub-tab is opened."""
        on(event, self.refresh, [self._seen], self.outputs, quiet=True, script=self._look)

    @property
    def _look(self) -> str:
        """JavaScript that answers the mark of what the page shows."""
        return f"() => gradioApp().querySelector('[data-poll={self.poll}]')?.dataset.mark || ''"

    def current(self) -> Job | None:
        """The job to show: the one under way, else the newest."""
        jobs = [job for job in self.service.jobs() if job.kind in self.kinds]
        running = [job for job in jobs if job.state == "running"]
        return next(iter(running or jobs), None)

    def refresh(self, seen: str) -> tuple[Any, ...]:
        """What there is to show beyond ``seen``, the mark of what is shown."""
        return self._newer(self.current(), seen)

    def _newer(self, job: Job | None, seen: str) -> tuple[Any, ...]:
        now, before = _mark(job), str(seen or "").split(" ")
        if now == " ".join(before):
            return (KEEP,) * 3
        status, curve, pictures = self.answers(job)
        return status, curve, KEEP if before[:2] == now.split(" ")[:2] else pictures

    def answers(self, job: Job | None) -> tuple[Any, ...]:
        """Everything there is to show of ``job``, for :attr:`outputs`."""
        status = markup.progress(job, self.poll, self.idle, _mark(job))
        return (status, "", "") if job is None else (status, self._curve(job), self._shown(job))

    def follow(self, job: Job) -> tuple[Any, ...]:
        """The same for a job that was just begun: it is shown unless another one is under way."""
        return self.answers(self.current() or job)

    def interrupt(self, idle: str, told: str) -> tuple[Any, ...]:
        """End the job that is shown; answers for :attr:`outputs` and a note: ``told``, or ``idle`` if nothing goes on."""
        job = self.current()
        if job is None or job.finished:
            return *self.answers(job), markup.note(idle)
        self.service.interrupt(job.id)
        return *self.answers(job), markup.note(told)

    def _curve(self, job: Job) -> str:
        points = job.progress().curve
        if len(points) < 2:
            return ""
        key, drawn_at, html = self._plot
        recent = time.monotonic() - drawn_at < _PLOT_EVERY and not job.finished
        if key == (job.id, len(points)) or (key[0] == job.id and recent):
            return html
        try:
            from celeb_basis.plots import loss_curve

            steps, losses, averages = zip(*points, strict=True)
            html = markup.chart(loss_curve(steps, losses, averages), "The loss of every step and its average", "loss")
        except (ImportError, CelebBasisError):  # without matplotlib there are the figures
            html = ""
        self._plot = (job.id, len(points)), time.monotonic(), html
        return html


def _mark(job: Job | None) -> str:
    """Changes whenever there is something else to show; its first two words when there are other pictures."""
    if job is None:
        return "none"
    now = job.progress()
    rest = repr((job.state, job.error, job.resumable, now.stage, now.step, now.total, now.warnings))
    return f"{job.id} {len(job.pictures)}{'.' * job.finished} {hashlib.sha256(rest.encode()).hexdigest()[:12]}"
