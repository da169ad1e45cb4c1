"""The sub-tab *Invent*: sheets of people who do not exist, of whom one is chosen and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError
from celeb_basis.webui.schemas import InventRequest
from celeb_basis.webui.tasks.invent import chosen_person, parsed_marks
from celeb_basis.webui.ui import components, invent_markup, markup
from celeb_basis.webui.ui.components import Changes, JobView, gradio, on, own, update

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

_PICK = "celeb_basis_pick_invented"
_IDLE = "Press Invent: nine people who do not exist appear, at the cost of nine images. No photo is needed."
_HINT = "Click a face to choose it. Mark faces More, Less or Keep and press Invent for the next sheet."
_WAYS = {"Mixed: halves of different celebrities": "mixed", "Gaussian: drawn around the mean celebrity": "gaussian"}
_READ_MARKS = (
    "(...values) => [Array.from(gradioApp().querySelectorAll('#tab_celeb_basis [data-mark]:checked'), "
    "(one) => one.dataset.mark + ' ' + one.value).join(','), ...values.slice(1)]"
)
"""JavaScript that puts the marks of the sheet in place of the first value."""


class InventTab:
    """The form, the sheet and their event handlers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.view = JobView(
            service, ("invent",), "celeb_basis_invent_poll", _IDLE, lambda job: invent_markup.sheet(job, _PICK)
        )

    def build(self, tab: Any) -> None:
        """Create the components inside ``tab`` and connect their events."""
        self.chosen = gradio.State("")
        self.suggested = gradio.State("")
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=4):
                self._create_form()
                self._create_save_form()
            with gradio.Column(scale=5, elem_classes=["celeb-basis-side"]):
                self.view.build(interrupt=self.interrupt_button, at_end=self.end_sheet, at_end_outputs=[self.note])
        self.picked = components.hidden_text(_PICK)
        self.marks = components.hidden_text("celeb_basis_invent_marks")
        self._connect(tab)

    # Layout

    def _create_form(self) -> None:
        self.groups = own(
            gradio.Dropdown(
                [],
                multiselect=True,
                label="Like celebrities of these groups",
                info="All if none is selected",
                elem_id="celeb_basis_invent_groups",
            )
        )
        with gradio.Accordion("More settings", open=False, elem_id="celeb_basis_invent_more"):
            with gradio.Row():
                self.leaning = own(gradio.Slider(0, 1, value=1, step=0.05, label="Weight of the groups"))
                self.distance = own(
                    gradio.Slider(0.25, 2, value=1, step=0.05, label="From average (less) to peculiar (more)")
                )
            with gradio.Row():
                self.alike = own(gradio.Slider(0, 0.95, value=InventRequest.alike, step=0.05, label="More: how much"))
                self.unlike = own(gradio.Slider(0, 0.95, value=InventRequest.unlike, step=0.05, label="Less: how much"))
            self.way = own(gradio.Radio([*_WAYS], value=next(iter(_WAYS)), label="Way"))
            self.prompt = own(
                gradio.Textbox(
                    InventRequest.prompt,
                    label="Prompt",
                    info="{} stands for the person",
                    elem_id="celeb_basis_invent_prompt",
                )
            )
            with gradio.Row():
                self.steps = own(
                    gradio.Slider(
                        1,
                        150,
                        value=InventRequest.steps,
                        step=1,
                        label="Sampling steps",
                        elem_id="celeb_basis_invent_steps",
                    )
                )
                self.guidance = own(gradio.Slider(1, 30, value=InventRequest.guidance, step=0.5, label="CFG scale"))
            with gradio.Row():
                self.seed = own(gradio.Number(InventRequest.seed, precision=0, label="Seed of the people (-1: random)"))
                self.picture_seed = own(
                    gradio.Number(InventRequest.picture_seed, precision=0, label="Seed of the images")
                )
        with gradio.Row():
            self.invent_button = gradio.Button("Invent", variant="primary", elem_id="celeb_basis_invent_start")
            self.interrupt_button = gradio.Button("Interrupt", elem_id="celeb_basis_invent_stop", visible=False)

    def _create_save_form(self) -> None:
        self.details = gradio.HTML("", elem_id="celeb_basis_invent_chosen")
        with gradio.Column(visible=False, elem_id="celeb_basis_invent_saving") as self.save_form:
            self.name = own(gradio.Textbox(label="Name", elem_id="celeb_basis_invent_name", max_lines=1))
            self.name_note = gradio.HTML("")
            self.replace = own(gradio.Checkbox(False, label="Replace a person with this name"))
            self.save_button = gradio.Button("Save", variant="primary", elem_id="celeb_basis_invent_save")
            self.save_note = components.note_area("celeb_basis_invent_save_note")
        self.note = components.note_area("celeb_basis_invent_note")

    def _connect(self, tab: Any) -> None:
        view, note = self.view, self.note
        on(tab.select, self.refresh_groups, [self.groups], [self.groups], note=note, quiet=True)
        view.refresh_at(tab.select)
        form = [
            self.groups,
            self.leaning,
            self.distance,
            self.alike,
            self.unlike,
            self.way,
            self.prompt,
            self.steps,
            self.guidance,
            self.seed,
            self.picture_seed,
        ]
        cleared = [self.chosen, self.details, self.save_form]
        on(
            self.invent_button.click,
            self.invent,
            [self.marks, *form],
            [*view.outputs, *cleared],
            note=note,
            script=_READ_MARKS,
        )
        on(self.interrupt_button.click, self.interrupt, [], view.outputs, note=note)
        on(
            self.picked.input,
            self.choose,
            [self.picked, self.name, self.suggested, self.replace],
            [*cleared, self.name, self.suggested, self.name_note, self.save_note],
            note=note,
            quiet=True,
        )
        for event in (self.name.input, self.replace.change):
            on(event, self.check_name, [self.name, self.replace], [self.name_note], quiet=True)
        saving = [self.chosen, self.name, self.replace]
        on(self.save_button.click, self.save, saving, [self.name_note], note=self.save_note)

    # Handlers

    def refresh_groups(self, chosen: list[str] | None) -> Changes:
        """Offer the groups of the list of names; those that are chosen and still there stay chosen."""
        try:
            groups = list(self.service.inventing.groups())
        except CelebBasisError:  # the sub-tab Basis says what is wrong with the list
            groups = []
        return {self.groups: update(choices=groups, value=[one for one in chosen or [] if one in groups])}

    def invent(
        self,
        marks: str,
        groups: list[str] | None,
        leaning: float,
        distance: float,
        alike: float,
        unlike: float,
        way: str,
        prompt: str,
        steps: float,
        guidance: float,
        seed: float | None,
        picture_seed: float | None,
    ) -> Changes:
        """Queue a sheet, with the marks of the one that is shown."""
        sheet, marked = parsed_marks(marks)
        request = InventRequest(
            way=_WAYS.get(way, "mixed"),
            groups=tuple(groups or ()),
            leaning=float(leaning),
            distance=float(distance),
            alike=float(alike),
            unlike=float(unlike),
            sheet=sheet,
            more=marked["more"],
            less=marked["less"],
            keep=marked["keep"],
            prompt=prompt or "",
            steps=int(steps),
            guidance=float(guidance),
            seed=-1 if seed is None else int(seed),
            picture_seed=int(picture_seed or 0),
        )
        job = self.service.invent(request)
        return {**self.view.show(job), **self._nobody_chosen()}

    def end_sheet(self) -> Changes:
        """Say what can be done with a sheet."""
        job = self.view.current()
        return {self.note: markup.note(_HINT) if job is not None and job.pictures else ""}

    def choose(self, picked: str, name: str, suggested: str, replace: bool) -> Changes:
        """Choose the person whose face was clicked. A name that the user typed stays."""
        chosen = components.picked(picked)
        job_id, number = chosen_person(chosen)
        one = self.service.inventing.person(job_id, number)
        own_name = (name or "").strip() if (name or "").strip() != suggested else ""
        celebrity, cosine = self.service.job(job_id).outcome.nearest[number - 1]
        return {
            self.chosen: chosen,
            self.details: invent_markup.chosen(one, number, celebrity, cosine),
            self.save_form: update(visible=True),
            self.name: own_name or one.name,
            self.suggested: one.name,
            self.save_note: "",
            **self.check_name(own_name or one.name, replace),
        }

    def check_name(self, name: str, replace: bool) -> Changes:
        """Check the name while it is typed."""
        name = (name or "").strip()
        problem = self.service.people.check_name(name, replace=bool(replace)) if name else ""
        return {self.name_note: markup.note(problem or "", "error")}

    def save(self, chosen: str, name: str, replace: bool) -> Changes:
        """Add the chosen person to the library."""
        job_id, number = chosen_person(chosen)
        status = self.service.save_invented(job_id, number, name or "", replace=bool(replace))
        sentence = f"{status.placeholder_token} is saved. Write {status.placeholder_token} in prompts."
        return {self.name_note: "", self.save_note: invent_markup.saved(sentence, status.placeholder_token)}

    def interrupt(self) -> Changes:
        """Interrupt the sheet that is shown; its finished images can be chosen."""
        job = self.view.interrupt()
        message = "There is nothing to interrupt." if job is None else "Stopping now."
        return {**self.view.show(job), self.note: markup.note(message)}

    def _nobody_chosen(self) -> Changes:
        return {self.chosen: "", self.details: "", self.save_form: update(visible=False)}
