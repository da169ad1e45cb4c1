"""*Evaluate*: a grid of prompts drawn and judged, as a contact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.errors import IdentityError
from celeb_basis.evaluation.prompts import EVALUATION_PROMPTS
from celeb_basis.webui.schemas import EvaluateRequest, UploadedPhoto
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import Watch, gradio, on, own, update

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

_IDLE = "Choose somebody, give a photo of them, press Evaluate."
_ABOUT = (
    "<p>Draws prompts with the person's word and judges the pictures: <b>Identity</b>, how like the photo the faces are; "
    "<b>Prompt</b>, how well the prompt is followed (needs a CLIP in Settings, Celeb Basis); <b>Detect</b>, in how many "
    "pictures a face is found.</p>"
)


class EvaluateTab:
    """Lays the sub-tab out and answers its events."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.watch = Watch(service, ("evaluate",), "celeb_basis_evaluate_poll", _IDLE)

    def build(self, tab: Any) -> None:
        """Make the components, inside ``tab``."""
        gradio.HTML(_ABOUT)
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=3):
                person = own(gradio.Dropdown([], label="Person", elem_id="celeb_basis_evaluate_person"))
                photos = own(
                    gradio.File(
                        label="Photos to compare with; without any, the person's thumbnail",
                        file_count="multiple",
                        file_types=["image"],
                        elem_id="celeb_basis_evaluate_photos",
                        height=140,
                    )
                )
                kinds = own(
                    gradio.CheckboxGroup(
                        list(EVALUATION_PROMPTS), label="Kinds of prompts", info="All if none is chosen"
                    )
                )
                with gradio.Row():
                    prompts = own(gradio.Slider(1, 40, value=6, step=1, label="Prompts"))
                    seeds = own(gradio.Slider(1, 16, value=2, step=1, label="Pictures of each"))
                with gradio.Row():
                    steps = own(gradio.Slider(1, 150, value=20, step=1, label="Sampling steps"))
                    guidance = own(gradio.Slider(1, 30, value=7.5, step=0.5, label="CFG scale"))
                seed = own(gradio.Number(0, precision=0, label="First seed"))
                with gradio.Row():
                    start = gradio.Button("Evaluate", variant="primary", elem_id="celeb_basis_evaluate_start")
                    stop = gradio.Button("Interrupt", elem_id="celeb_basis_evaluate_stop")
                note = components.message("celeb_basis_evaluate_note")
            with gradio.Column(scale=5, elem_classes=["celeb-basis-side"]):
                self.watch.build(plot=False, others=[note], at_end=lambda: ("",))
        outputs = self.watch.outputs
        on(tab.select, self.choices, [person], [person], note=note, quiet=True)
        self.watch.show_at(tab.select)
        inputs = [person, photos, kinds, prompts, seeds, steps, guidance, seed]
        on(start.click, self.start, inputs, outputs, note=note)
        on(stop.click, self.interrupt, [], outputs, note=note)

    def choices(self, chosen: str | None) -> Any:
        """Everybody as they are now."""
        names = list(self.service.workspace.library.names())
        return update(choices=names, value=chosen if chosen in names else None)

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
    ) -> tuple[Any, ...]:
        """Queue it."""
        if not person:
            raise IdentityError("Nobody is chosen: choose the person to evaluate.")
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
        job = self.service.evaluate(request)
        # They stay in the form, for the next evaluation; deleting the person finds them.
        self.service.import_export.note_files(person, components.upload_copies(photos), "photo")
        told = "It has begun, and goes on when this page is closed."
        return *self.watch.follow(job), markup.note(told, "good")

    def interrupt(self) -> tuple[Any, ...]:
        """End it; the picture under way is dropped."""
        return self.watch.interrupt(
            "Nothing is being evaluated.", "It stops now; the pictures drawn so far are judged."
        )
