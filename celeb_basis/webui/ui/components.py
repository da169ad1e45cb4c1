"""What the sub-tabs share: gradio itself, event handlers whose errors become notes, uploaded files, and the view of a job.

The sub-tabs take components from :data:`gradio` and use only what Gradio 3 and 4 have in common; the differences between
the two are handled here.
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

from markupsafe import Markup

from celeb_basis.errors import CelebBasisError, FileError, error_message, is_user_error
from celeb_basis.files import read_bytes
from celeb_basis.webui.host_server import mark_event
from celeb_basis.webui.ui import markup

if TYPE_CHECKING:
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.service import Service
    from celeb_basis.webui.ui.learn_form import FormField

gradio: Any = importlib.import_module("gradio")
"""The host's own gradio, typed as ``Any`` because its versions have no types in common."""

Changes = dict[Any, Any]
"""What a handler answers: new values, or :func:`update`, by component. Every other component stays as it is."""

MAX_UPLOAD = 64 << 20
"""Largest file that the page accepts, in bytes."""

_log = logging.getLogger(__name__)
_SCRIPT = "_js" if gradio.__version__.startswith("3.") else "js"

_PLOT_EVERY = 3.0
"""Seconds between two plots of the loss curve of a running job: a plot takes a tenth of a second."""


# Components


def update(**properties: Any) -> Any:
    """A change of a component's properties, for :data:`Changes`."""
    return gradio.update(**properties)


def own(component: Any) -> Any:
    """``component``, whose value belongs to one visit: the host does not write it into its file of defaults."""
    component.do_not_save_to_config = True
    return component


def note_area(elem_id: str) -> Any:
    """The place in a sub-tab where messages appear."""
    return gradio.HTML("", elem_id=elem_id, elem_classes=["celeb-basis-message"])


def hidden_button(elem_id: str) -> Any:
    """A button for the page's script: in the page, but invisible."""
    return own(gradio.Button(elem_id, elem_id=elem_id, elem_classes=["celeb-basis-hidden"]))


def hidden_text(elem_id: str) -> Any:
    """A text field for the page's script."""
    return own(gradio.Textbox("", elem_id=elem_id, elem_classes=["celeb-basis-hidden"], show_label=False))


def picked(value: Any) -> str:
    """The value of a hidden text without the number and the colon that the script puts in front to make each text new."""
    return str(value or "").partition(":")[2]


def setting(field: FormField) -> Any:
    """The component of an advanced setting."""
    common = {"label": field.label, "info": field.info, "elem_id": f"celeb_basis_set_{field.name}"}
    if field.kind == "switch":
        return own(gradio.Checkbox(field.default, **common))
    if field.kind == "choice":
        return own(gradio.Dropdown(list(field.choices), value=field.default, **common))
    return own(gradio.Number(field.default, precision=0 if field.kind == "whole" else None, **common))


# Events


def on(
    event: Any,
    handler: Callable[..., Changes | None],
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    *,
    note: Any = None,
    clear_on_error: Any = None,
    script: str | None = None,
    quiet: bool = False,
) -> Any:
    """Call ``handler`` at ``event``.

    Args:
        event: An event of a component, such as ``button.click``.
        handler: Takes the values of ``inputs`` and answers :data:`Changes`; ``None`` changes nothing.
        inputs: Components whose values the handler takes, in the order of its parameters.
        outputs: Every component that the handler may change; gradio has to know them beforehand.
        note: One more output (from :func:`note_area`): it shows the message of an error, and is emptied if the handler
            succeeds without a message.
        clear_on_error: The one of ``outputs`` to empty after an error: an unusable file makes room for another.
        script: JavaScript that runs in the page first.
        quiet: Whether to show no spinner and to wait in no queue.
    """
    targets = [*outputs] if note is None else [*outputs, note]
    keyword: dict[str, Any] = {_SCRIPT: script} if script else {}
    return event(
        fn=guarded(handler, targets, note=note, clear_on_error=clear_on_error),
        inputs=[*inputs],
        outputs=targets,
        show_progress="hidden" if quiet else "minimal",
        queue=not quiet,
        api_name=False,
        **keyword,
    )


def guarded(
    handler: Callable[..., Changes | None], outputs: Sequence[Any], *, note: Any = None, clear_on_error: Any = None
) -> Callable[..., Any]:
    """``handler`` with errors turned into messages, as gradio takes it. See :func:`on`."""

    def run(*values: Any) -> Any:
        try:
            changes = handler(*values) or {}
        except Exception as error:
            if not is_explained(error):
                _log.exception("the page's %s failed", getattr(handler, "__qualname__", handler))
            changes = {} if clear_on_error is None else {clear_on_error: None}
            if note is not None:
                changes[note] = markup.note(error_message(error), "error")
        if note is not None:
            changes.setdefault(note, "")
        if not outputs:
            return None
        return changes or {outputs[0]: update()}  # gradio takes an empty dict for the value of the first output

    return mark_event(run)


def is_explained(error: Exception) -> bool:
    """Whether the error's text is a message for the user."""
    return isinstance(error, CelebBasisError) or is_user_error(error)


# Uploaded files


def uploads(value: Any, *, spent: bool = False) -> list[tuple[str, bytes]]:
    """Names and contents of the files of a ``File`` component, for one file or several.

    Args:
        value: The component's value.
        spent: Whether to delete the copies in gradio's own folder afterwards; a photo is not to stay there.

    Raises:
        FileError: A file cannot be read, or is larger than :data:`MAX_UPLOAD`.
    """
    found = []
    for one in _listed(value):
        path = _path_of(one)
        name = Path(str(getattr(one, "orig_name", "") or path)).name
        data = read_bytes(path, MAX_UPLOAD)
        if len(data) > MAX_UPLOAD:
            raise FileError(f"{name} is larger than {MAX_UPLOAD >> 20} MB: use a smaller file.")
        found.append((name, data))
    if spent:  # after all were read: gradio makes one file of a photo that is uploaded twice
        for copy in upload_copies(value):
            _remove_copy(copy)
    return found


def upload_copies(value: Any) -> list[Path]:
    """The files in gradio's own folder for a ``File`` component. Gradio 3 keeps the upload and a copy of it."""
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


# Jobs


class JobView:
    """The part of a sub-tab that shows a job: its progress, the loss curve and its results.

    It shows the running job of its kinds, or else the newest, so that a run is found again after the page was reloaded.
    The page's script polls it. The page itself keeps the mark of what it shows and sends it along, because answers may
    overtake one another.

    Args:
        service: Knows the jobs.
        kinds: The kinds of jobs to show.
        poll: Id of the hidden button that the script clicks; the ids of the other components begin with it.
        idle: The sentence shown without a job, or the steps to one.
        render_results: Answers the HTML of a job's results so far.
    """

    def __init__(
        self,
        service: Service,
        kinds: tuple[str, ...],
        poll: str,
        idle: str | Sequence[str],
        render_results: Callable[[Job], Markup] = markup.job_results,
    ) -> None:
        self.service, self.kinds, self.poll, self.idle, self._render_results = (
            service,
            kinds,
            poll,
            idle,
            render_results,
        )
        self.outputs: list[Any] = []
        self._plot: tuple[tuple[str, int], float, Markup] = (("", 0), 0.0, Markup())

    def build(
        self,
        *,
        details: bool = False,
        interrupt: Any = None,
        beside: Callable[[Job | None], Changes] = lambda _job: {},
        beside_outputs: Sequence[Any] = (),
        at_end: Callable[[], Changes] = dict,
        at_end_outputs: Sequence[Any] = (),
    ) -> None:
        """Create the components and connect the hidden button.

        Args:
            details: Whether there are details: where the people stand among the celebrities, and the loss curve.
            interrupt: The button that interrupts a job, which is shown while one is under way.
            beside: Answers what else changes with a job's state.
            beside_outputs: The components that ``beside`` may change.
            at_end: Answers what else changes when the end of a job is first shown.
            at_end_outputs: The components that ``at_end`` may change.
        """
        self.status = gradio.HTML(markup.progress(None, self.poll, self.idle), elem_id=f"{self.poll}_status")
        self.results = gradio.HTML("", elem_id=f"{self.poll}_pictures")
        with gradio.Accordion("Details", open=False, visible=False, elem_id=f"{self.poll}_details") as self.more:
            self.people = gradio.HTML("", elem_id=f"{self.poll}_people")
            self.curve = gradio.HTML("", elem_id=f"{self.poll}_curve")
        self.mark = hidden_text(f"{self.poll}_seen")
        self._details, self._beside, self._interrupt = details, beside, interrupt
        self._beside_outputs = (*([] if interrupt is None else [interrupt]), *beside_outputs)
        parts = [self.more, self.people, self.curve] if details else []
        self.outputs = [self.status, self.results, *parts, *self._beside_outputs]
        button = hidden_button(self.poll)

        def poll(mark: str) -> Changes:
            job = self.current()
            ended = job is not None and job.finished  # asked before its state is shown, so that the end is not missed
            changes = self._since(mark, job)
            return changes | at_end() if changes and ended else changes

        on(button.click, poll, [self.mark], [*self.outputs, *at_end_outputs], quiet=True, script=self._read_mark)

    def refresh_at(self, event: Any) -> None:
        """Bring everything up to date at ``event``, such as when the sub-tab is opened."""
        on(
            event,
            lambda mark: self._since(mark, self.current()),
            [self.mark],
            self.outputs,
            quiet=True,
            script=self._read_mark,
        )

    @property
    def _read_mark(self) -> str:
        """JavaScript that answers the mark of what the page shows."""
        return f"() => gradioApp().querySelector('[data-poll={self.poll}]')?.dataset.mark || ''"

    def current(self) -> Job | None:
        """The job to show: the running one, or else the one that is next, or else the newest."""
        jobs = [job for job in self.service.jobs() if job.kind in self.kinds]
        running = [job for job in jobs if job.state == "running"]
        waiting = [job for job in jobs if not job.finished][-1:]
        return next(iter(running or waiting or jobs), None)

    def show(self, job: Job | None = None) -> Changes:
        """Everything there is to show of ``job``, or else of the current one."""
        job = job or self.current()
        changes = {
            self.status: markup.progress(job, self.poll, self.idle, _mark(job)),
            self.results: "" if job is None else self._render_results(job),
            **self._beside(job),
        }
        if self._interrupt is not None:
            changes[self._interrupt] = update(visible=job is not None and not job.finished)
        if self._details:
            people, curve = ("", "") if job is None else (markup.whereabouts(job), self._loss_curve(job))
            changes |= {self.people: people, self.curve: curve, self.more: update(visible=bool(people or curve))}
        return changes

    def interrupt(self) -> Job | None:
        """Interrupt the job that is shown; ``None`` if none is under way."""
        job = self.current()
        if job is None or job.finished:
            return None
        self.service.interrupt(job.id)
        return job

    def _since(self, mark: str, job: Job | None) -> Changes:
        """What there is to show beyond the state that ``mark`` identifies."""
        now, before = _mark(job), str(mark or "")
        if now == before:
            return {}
        changes = self.show(job)
        if now.split(" ")[:2] == before.split(" ")[:2]:  # only the progress is another one
            for component in (self.results, *self._beside_outputs):
                changes.pop(component, None)
        return changes

    def _loss_curve(self, job: Job) -> Markup:
        # Imported here, as charts and the report would cost the host's start 15 ms.
        from celeb_basis.report.charts import chart, loss_curve

        points = job.progress().curve
        if len(points) < 2:
            return Markup()
        key, plotted_at, plot = self._plot
        recent = time.monotonic() - plotted_at < _PLOT_EVERY and not job.finished
        if key == (job.id, len(points)) or (key[0] == job.id and recent):
            return plot
        try:
            steps, losses, averages = zip(*points, strict=True)
            plot = chart(loss_curve(steps, losses, averages), "The loss of each step and its moving average", "loss")
        except (ImportError, CelebBasisError):  # the numbers are there without matplotlib, too
            plot = Markup()
        self._plot = (job.id, len(points)), time.monotonic(), plot
        return plot


def _mark(job: Job | None) -> str:
    """Changes whenever there is something else to show; its first two words change with the results and the state."""
    if job is None:
        return "none"
    now = job.progress()
    rest = repr((job.state, job.error, job.resumable, now.stage, now.step, now.total, now.warnings))
    return f"{job.id} {len(job.pictures)}-{job.state} {hashlib.sha256(rest.encode()).hexdigest()[:12]}"
