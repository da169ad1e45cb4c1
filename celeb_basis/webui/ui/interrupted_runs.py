"""The list of interrupted runs on the sub-tab *Learn*, each with *Resume* and *Discard*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import Changes, JobView, gradio, on

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

_PICK = "celeb_basis_pick_run"


class SavedRuns:
    """The list, which is empty while no run is interrupted, and its event handlers.

    Args:
        service: Knows the runs.
        view: Shows a run that is resumed.
    """

    def __init__(self, service: Service, view: JobView) -> None:
        self.service, self.view = service, view

    def build(self) -> None:
        """Create the components."""
        self.list = gradio.HTML("", elem_id="celeb_basis_runs")
        self.picked = components.hidden_text(_PICK)

    def connect(self, note: Any, resume_button: Any) -> None:
        """Connect the list's own buttons, and the one that resumes the newest run.

        Args:
            note: Where messages appear.
            resume_button: The button.
        """
        self.note = note
        outputs = self.view.outputs
        on(resume_button.click, self.resume, [], outputs, note=note)
        on(self.picked.input, self.pick, [self.picked], outputs, note=note, quiet=True)

    def show(self, asked: str = "") -> Changes:
        """Show the runs.

        Args:
            asked: Id of the run whose deletion has to be confirmed.
        """
        return {self.list: markup.runs(self.service.saved_runs(), asked, _PICK)}

    def resume(self) -> Changes:
        """Resume the newest run."""
        runs = [run for run in self.service.saved_runs() if not run.running]
        if not runs:
            return {**self.view.show(), self.note: markup.note("There is no interrupted run to resume.")}
        return self._act("resume", runs[0].id)

    def pick(self, picked: str) -> Changes:
        """What was clicked in the list: resume a run, ask whether it is to be discarded, discard it, or keep it."""
        action, _, run = components.picked(picked).partition(":")
        return self._act(action, run)

    def _act(self, action: str, run: str) -> Changes:
        shown, note = {}, ""
        if action == "resume":
            shown = self.view.show(self.service.resume_run(run))
            note = markup.note("The run continues where it stopped.", "good")
        elif action == "discard":
            note = markup.note(f"The run of {self.service.discard_run(run).name} is deleted.", "good")
            shown = self.view.show()
        return {**shown, **self.show(run if action == "ask" else ""), self.note: note}
