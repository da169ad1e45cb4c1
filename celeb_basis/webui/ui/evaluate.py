"""The sub-tab *Evaluate*: images of a person for a grid of prompts, measured and laid out as a contact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.errors import IdentityError
from celeb_basis.evaluation.prompts import EVALUATION_PROMPTS
from celeb_basis.webui.schemas import EvaluateRequest, UploadedPhoto
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import Changes, JobView, gradio, on, own, update

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

_IDLE = "Choose a person, add a photo of them and press Evaluate."
_ABOUT = (
    "<p>Generates images of the person for several prompts and measures them. <b>Identity</b>: how similar the faces are "
    "to the photo. <b>Prompt</b>: how well the images match the prompt (needs a CLIP model, see Settings, Celeb Basis). "
    "<b>Detect</b>: the share of images in which a face is found.</p>"
)


class EvaluateTab:
    """The form of an evaluation and its event handlers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.view = JobView(service, ("evaluate",), "celeb_basis_evaluate_poll", _IDLE)

    def build(self, tab: Any) -> None:
        """Create the components inside ``tab`` and connect their events."""
        gradio.HTML(_ABOUT)
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=3):
                self._create_form()
            with gradio.Column(scale=5, elem_classes=["celeb-basis-side"]):
                self.view.build(
                    interrupt=self.interrupt_button, at_end=lambda: {self.note: ""}, at_end_outputs=[self.note]
                )
        self._connect(tab)

    def _create_form(self) -> None:
        self.person = own(gradio.Dropdown([], label="Person", elem_id="celeb_basis_evaluate_person"))
        self.photos = own(
            gradio.File(
                label="Photos to compare with (default: the person's thumbnail)",
                file_count="multiple",
                file_types=["image"],
                elem_id="celeb_basis_evaluate_photos",
                height=140,
            )
        )
        self.kinds = own(
            gradio.CheckboxGroup(list(EVALUATION_PROMPTS), label="Kinds of prompts", info="All if none is selected")
        )
        with gradio.Row():
            self.prompts = own(gradio.Slider(1, 40, value=EvaluateRequest.prompts, step=1, label="Prompts"))
            self.seeds = own(gradio.Slider(1, 16, value=EvaluateRequest.seeds, step=1, label="Images per prompt"))
        with gradio.Row():
            self.steps = own(gradio.Slider(1, 150, value=EvaluateRequest.steps, step=1, label="Sampling steps"))
            self.guidance = own(gradio.Slider(1, 30, value=EvaluateRequest.guidance, step=0.5, label="CFG scale"))
        self.seed = own(gradio.Number(EvaluateRequest.seed, precision=0, label="First seed"))
        with gradio.Row():
            self.evaluate_button = gradio.Button("Evaluate", variant="primary", elem_id="celeb_basis_evaluate_start")
            self.interrupt_button = gradio.Button("Interrupt", elem_id="celeb_basis_evaluate_stop", visible=False)
        self.note = components.note_area("celeb_basis_evaluate_note")

    def _connect(self, tab: Any) -> None:
        view, note = self.view, self.note
        on(tab.select, self.refresh_people, [self.person], [self.person], note=note, quiet=True)
        view.refresh_at(tab.select)
        form = [
            self.person,
            self.photos,
            self.kinds,
            self.prompts,
            self.seeds,
            self.steps,
            self.guidance,
            self.seed,
        ]
        on(self.evaluate_button.click, self.start, form, view.outputs, note=note)
        on(self.interrupt_button.click, self.interrupt, [], view.outputs, note=note)

    # Handlers

    def refresh_people(self, chosen: str | None) -> Changes:
        """Offer the people of the library."""
        names = list(self.service.workspace.library.names())
        return {self.person: update(choices=names, value=chosen if chosen in names else None)}

    def start(
        self,
        person: str | None,
        photos: Any,
        kinds: list[str] | None,
        prompts: float,
        seeds: float,
        steps: float,
        guidance: float,
        seed: float | None,
    ) -> Changes:
        """Queue the evaluation."""
        if not person:
            raise IdentityError("No person is selected: choose the person to evaluate.")
        request = EvaluateRequest(
            name=person,
            photos=tuple(UploadedPhoto(data, name) for name, data in components.uploads(photos)),
            kinds=tuple(kinds or ()),
            prompts=int(prompts),
            seeds=int(seeds),
            steps=int(steps),
            guidance=float(guidance),
            seed=int(seed or 0),
        )
        self.service.evaluate(request)
        # The photos stay in the form for the next evaluation; deleting the person finds their copies.
        self.service.import_export.note_files(person, components.upload_copies(photos), "photo")
        note = markup.note("The evaluation has started. You can close this page; it continues.", "good")
        return {**self.view.show(), self.note: note}

    def interrupt(self) -> Changes:
        """Interrupt the evaluation; the image that is being generated is dropped."""
        job = self.view.interrupt()
        message = "The evaluation stops now. The images generated so far are evaluated."
        return {
            **self.view.show(job),
            self.note: markup.note("There is no evaluation to interrupt." if job is None else message),
        }
