"""The sub-tab *Basis*: the basis of the loaded checkpoint, and the list of celebrity names that it is built from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from celeb_basis.webui.tasks.basis import use_own_names, use_shipped_names
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import Changes, JobView, gradio, on, own

if TYPE_CHECKING:
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.service import Service

_IDLE = "Press Show basis. A basis is built once for each checkpoint and list of names, then read from the cache."
_ABOUT = (
    "<p>A person is learned as coefficients in a basis: the space that the names of celebrities span in the loaded "
    "checkpoint's text encoder.</p>"
)
_ABOUT_LISTS = "<p>A text file with one name per line. People who were learned with another list keep working.</p>"


class BasisTab:
    """The summary of the basis, the choice of the list, and their event handlers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.view = JobView(service, ("basis",), "celeb_basis_basis_poll", _IDLE, _summaries)

    def build(self, tab: Any) -> None:
        """Create the components inside ``tab`` and connect their events."""
        gradio.HTML(_ABOUT)
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            self.components = own(
                gradio.Number(
                    512,
                    precision=0,
                    label="Components",
                    info="1 to 4,096; people use 512",
                    elem_id="celeb_basis_components",
                )
            )
            self.show_button = gradio.Button("Show basis", variant="primary", elem_id="celeb_basis_basis_show")
            self.interrupt_button = gradio.Button("Interrupt", elem_id="celeb_basis_basis_stop", visible=False)
        with gradio.Accordion("List of names", open=False, elem_id="celeb_basis_names_list"):
            gradio.HTML(_ABOUT_LISTS)
            self.names_file = own(
                gradio.File(label="Your own list", file_types=[".txt"], height=140, elem_id="celeb_basis_names_file")
            )
            self.shipped_button = gradio.Button("Use the list that comes with Celeb Basis", size="sm")
        self.note = components.note_area("celeb_basis_basis_note")
        self.view.build(interrupt=self.interrupt_button)
        self._connect(tab)

    def _connect(self, tab: Any) -> None:
        view, file, note = self.view, self.names_file, self.note
        on(tab.select, self.show_names, note=note, quiet=True)
        view.refresh_at(tab.select)
        on(self.show_button.click, self.show, [self.components], view.outputs, note=note)
        on(self.interrupt_button.click, self.interrupt, [], view.outputs, note=note)
        on(file.upload, self.use_own, [file], [file], note=note, clear_on_error=file)
        on(self.shipped_button.click, self.use_shipped, note=note)

    # Handlers

    def show_names(self) -> Changes:
        """Show which list of names is in use."""
        count = len(self.service.workspace.names().names)
        names_file = self.service.workspace.options().names_file
        which = f"the list {names_file}" if names_file else "the list that comes with Celeb Basis"
        return {self.note: markup.note(f"{count:,} names from {which}.")}

    def use_own(self, uploaded: Any) -> Changes:
        """Use the uploaded list."""
        for name, data in components.uploads(uploaded):
            use_own_names(self.service.workspace, name, data)
        return {self.names_file: None, **self.show_names()}

    def use_shipped(self) -> Changes:
        """Use the shipped list again."""
        use_shipped_names(self.service.workspace)
        return self.show_names()

    def show(self, components: float | None) -> Changes:
        """Build the basis of each text encoder, unless it is in the cache, and show the summaries."""
        self.service.start_basis(512 if components is None else int(components))
        return {**self.view.show(), **self.show_names()}

    def interrupt(self) -> Changes:
        """Interrupt the job between two parts of the list."""
        job = self.view.interrupt()
        message = "There is nothing to interrupt." if job is None else "Stopping in a moment."
        return {**self.view.show(job), self.note: markup.note(message)}


def _summaries(job: Job) -> Markup:
    """The summaries of the bases that a job has built."""
    return Markup().join(markup.basis(one, index) for index, one in enumerate(job.outcome or ()))
