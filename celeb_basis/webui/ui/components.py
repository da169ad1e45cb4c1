"""gradio behind one door: what Gradio 3 and 4 name differently, and a handler that shows errors as sentences.

The other files of this room take components from :data:`gradio` and use only what both versions share.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError, FileError, error_message, is_user_error
from celeb_basis.files import explained_os_errors
from celeb_basis.webui.ui import markup

if TYPE_CHECKING:
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.service import Service


gradio: Any = importlib.import_module("gradio")
"""The host's own gradio; typed as ``Any`` because no version of it carries types that both hosts share."""

MAX_UPLOAD = 64 << 20
"""Largest file that a page takes, in bytes."""

_log = logging.getLogger(__name__)
_SCRIPT = "_js" if gradio.__version__.startswith("3.") else "js"

KEEP = object()
"""What a handler answers for a component that stays as it is."""


def update(**changes: Any) -> Any:
    """A change of a component's properties."""
    return gradio.update(**changes)


def own(component: Any) -> Any:
    """``component``, whose value the host does not write into its file of defaults: it belongs to one visit."""
    component.do_not_save_to_config = True
    return component


def message(elem_id: str) -> Any:
    """The place of a sub-tab where sentences are shown."""
    return gradio.HTML("", elem_id=elem_id, elem_classes=["celeb-basis-message"])


def hidden_button(elem_id: str) -> Any:
    """A button for the script alone: out of sight, but in the page."""
    return own(gradio.Button(elem_id, elem_id=elem_id, elem_classes=["celeb-basis-hidden"]))


def hidden_text(elem_id: str) -> Any:
    """A text for the script alone."""
    return own(gradio.Textbox("", elem_id=elem_id, elem_classes=["celeb-basis-hidden"], show_label=False))


def picked(value: Any) -> str:
    """What the script put into a hidden text: it writes a number and a colon in front, so that every text is a new one."""
    return str(value or "").partition(":")[2]


def on(
    event: Any,
    handler: Callable[..., Any] | None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    *,
    note: Any = None,
    script: str | None = None,
    quiet: bool = False,
    cleared: Any = None,
) -> Any:
    """Do ``handler`` at ``event`` (``button.click``), with the answers going to ``outputs``.

    Parameters: ``handler`` answers one value for each of ``outputs``, :data:`KEEP` for those that stay. With ``note`` (from
    :func:`message`), the sentence of an error is shown there and the outputs stay; otherwise the note is emptied, unless
    the handler answers one value more, which is the note's (its only answer where there are no ``outputs``). ``script``
    is JavaScript that runs in the page first. ``quiet`` work shows no spinner and waits in no queue. ``cleared`` is the one
    of ``outputs`` that is emptied after an error: a file of no use makes room for another.
    """
    keyword: dict[str, Any] = {_SCRIPT: script} if script else {}
    targets = [*outputs] if note is None else [*outputs, note]
    if handler is None:
        return event(fn=None, inputs=[*inputs], outputs=targets, **keyword)
    return event(
        fn=guarded(handler, len(outputs), note is not None, outputs.index(cleared) if cleared is not None else None),
        inputs=[*inputs],
        outputs=targets,
        show_progress="hidden" if quiet else "minimal",
        queue=not quiet,
        api_name=False,
        **keyword,
    )


def guarded(handler: Callable[..., Any], count: int, noted: bool, cleared: int | None = None) -> Callable[..., Any]:
    """``handler`` with errors turned into sentences, and its answers into what gradio takes. See :func:`on`."""

    def run(*values: Any) -> Any:
        try:
            answer = handler(*values)
            answers = list(answer) if isinstance(answer, tuple) else [answer] if count else []
            if count == 0 and noted:
                answers = [answer or ""]
        except Exception as error:
            if not explained(error):
                _log.exception("the page's %s failed", getattr(handler, "__qualname__", handler))
            answers = [None if index == cleared else KEEP for index in range(count)]
            answers += [markup.note(error_message(error), "error")] if noted else []
        if count == 0 and not noted:
            return None
        if noted and len(answers) == count:
            answers.append("")
        answers = [gradio.update() if one is KEEP else one for one in answers]
        return answers[0] if len(answers) == 1 else answers

    return run


def explained(error: Exception) -> bool:
    """Whether the error's text is a sentence for the page."""
    return isinstance(error, CelebBasisError) or is_user_error(error)


def uploads(value: Any, *, spent: bool = False) -> list[tuple[str, bytes]]:
    """Names and contents of what a ``File`` component holds, for one file or several.

    Parameters: with ``spent`` the copies that gradio keeps in its own folder are deleted: a photo is not to stay there.

    Raises: :class:`FileError` for a file that cannot be read or is larger than :data:`MAX_UPLOAD`.
    """
    found = []
    for one in _listed(value):
        path = _path_of(one)
        name = Path(str(getattr(one, "orig_name", "") or path)).name
        with explained_os_errors(path, "read"):
            if path.stat().st_size > MAX_UPLOAD:
                raise FileError(f"{name} has more than {MAX_UPLOAD >> 20} MB: give a smaller file.")
            found.append((name, path.read_bytes()))
    if spent:  # after all were read: one photo given twice is one file to gradio
        for copy in upload_copies(value):
            _remove_copy(copy)
    return found


def upload_copies(value: Any) -> list[Path]:
    """Everywhere in its own folder that gradio keeps what a ``File`` component holds: Gradio 3 keeps what came, and a copy."""
    home = _uploads_folder()
    paths = [path for one in _listed(value) for path in (_path_of(one), Path(str(getattr(one, "orig_name", "") or "")))]
    return [path for path in dict.fromkeys(paths) if home in path.resolve().parents and path.is_file()]


def _path_of(one: Any) -> Path:
    return Path(one if isinstance(one, (str, os.PathLike)) else one.name)


def _uploads_folder() -> Path:
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] if value is not None else []


def _remove_copy(path: Path) -> None:
    """Delete an uploaded file, and the folder that gradio made for it."""
    try:
        path.unlink(missing_ok=True)
        if path.resolve().parent != _uploads_folder() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    except OSError as error:
        _log.warning("The uploaded copy %s could not be deleted: %s", path, error)


# FOLDED: The part of a sub-tab that follows a job: it is polled by the page's script, and finds a job that goes on
# FOLDED: after reload.

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
        self._seen = hidden_text(f"{self.poll}_seen")
        self.outputs = [status, curve, shown]
        button = hidden_button(self.poll)

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
            from celeb_basis.report.charts import loss_curve

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
