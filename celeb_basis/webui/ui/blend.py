"""*Blend*: a new person out of several, with a slider each, looked at before it is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.webui.schemas import MAX_PREVIEWS, BlendRequest, PreviewRequest
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import KEEP, Watch, gradio, on, own, update

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

MOST = 8
"""People that the page can mix; the API takes more."""
_WEIGHT = 0.5
"""Everybody's, until it is moved."""
_IDLE = "Choose people, move their sliders, and press Preview to see the mixture; nobody is saved by that."


class BlendTab:
    """Lays the sub-tab out and answers its events."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.watch = Watch(service, ("preview", "blend"), "celeb_basis_blend_poll", _IDLE)

    def build(self, tab: Any) -> None:
        """Make the components, inside ``tab``."""
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                people, sliders, shares, moved = self._mixture_part()
                drawing = self._drawing_part()
                name = own(
                    gradio.Textbox(
                        label="Name of the mixture",
                        placeholder="needed to save it, not to look at it",
                        elem_id="celeb_basis_blend_name",
                        max_lines=1,
                    )
                )
                name_note = gradio.HTML("")
                replace = own(gradio.Checkbox(False, label="Replace a person of this name"))
                with gradio.Row():
                    preview = gradio.Button("Preview", elem_id="celeb_basis_blend_preview")
                    save = gradio.Button("Save", variant="primary", elem_id="celeb_basis_blend_save")
                    stop = gradio.Button("Interrupt", elem_id="celeb_basis_blend_stop")
                note = components.message("celeb_basis_blend_note")
            with gradio.Column(scale=4, elem_classes=["celeb-basis-side"]):
                self.watch.build(plot=False, others=[people], at_end=self.everybody)
        outputs = self.watch.outputs
        on(tab.select, self.choices, [people], [people], note=note, quiet=True)
        self.watch.show_at(tab.select)
        before = gradio.State([])
        on(people.change, self.sliders, [people, before, *sliders], [before, *sliders, shares], quiet=True)
        for slider in sliders:
            on(slider.input, self.shares, [people, *sliders], [shares], quiet=True)
        for component in (name.input, replace.change):
            on(component, self.check, [name, replace], [name_note], quiet=True)
        mixture = [people, name, *moved, replace, *sliders]
        on(preview.click, self.preview, [*drawing, *mixture], outputs, note=note)
        on(save.click, self.save, mixture, [*outputs, people], note=note)
        on(stop.click, self.interrupt, [], outputs, note=note)

    def _mixture_part(self) -> tuple[Any, list[Any], Any, list[Any]]:
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            people = own(
                gradio.Dropdown([], multiselect=True, label=f"People, up to {MOST}", elem_id="celeb_basis_blend_people")
            )
        sliders = [
            own(
                gradio.Slider(
                    -1, 1, value=_WEIGHT, step=0.01, visible=False, label="", elem_id=f"celeb_basis_weight_{i}"
                )
            )
            for i in range(MOST)
        ]
        shares = gradio.HTML("", elem_id="celeb_basis_shares")
        mean = own(gradio.Slider(0, 1, value=0, step=0.01, label="Toward the mean of the celebrities"))
        with gradio.Row():
            celebrity = own(
                gradio.Textbox(label="Toward a celebrity of the list", placeholder="a name, or empty", max_lines=1)
            )
            amount = own(gradio.Slider(-1, 1, value=0, step=0.01, label="How far"))
        radius = own(gradio.Checkbox(True, label="Keep the distance to the mean (a plain mixture looks more average)"))
        return people, sliders, shares, [mean, celebrity, amount, radius]

    def _drawing_part(self) -> list[Any]:
        with gradio.Accordion("Preview settings", open=False, elem_id="celeb_basis_blend_drawing"):
            prompt = own(
                gradio.Textbox(
                    "a photo of {}",
                    label="Prompt",
                    info="{} is where the mixture stands",
                    elem_id="celeb_basis_blend_prompt",
                )
            )
            with gradio.Row():
                count = own(gradio.Slider(1, MAX_PREVIEWS, value=1, step=1, label="Pictures"))
                steps = own(
                    gradio.Slider(1, 150, value=20, step=1, label="Sampling steps", elem_id="celeb_basis_blend_steps")
                )
            with gradio.Row():
                guidance = own(gradio.Slider(1, 30, value=7.5, step=0.5, label="CFG scale"))
                seed = own(gradio.Number(0, precision=0, label="Seed"))
        return [prompt, count, steps, guidance, seed]

    def choices(self, chosen: list[str] | None) -> Any:
        """Everybody as they are now."""
        names = list(self.service.workspace.library.names())
        return update(choices=names, value=[name for name in chosen or [] if name in names])

    def everybody(self) -> tuple[Any, ...]:
        """The same when a mixture was saved; who is chosen stays."""
        return (update(choices=list(self.service.workspace.library.names())),)

    def sliders(self, people: list[str] | None, before: list[str], *weights: float) -> tuple[Any, ...]:
        """A slider for each chosen person, who keeps what theirs was moved to; ``before`` are those of the last time."""
        names = (people or [])[:MOST]
        moved = dict(zip(before, weights, strict=False))
        now = [float(moved.get(name, _WEIGHT)) for name in names]
        shown = [update(visible=True, label=name, value=weight) for name, weight in zip(names, now, strict=True)]
        hidden = [update(visible=False, value=_WEIGHT)] * (MOST - len(names))
        return names, *shown, *hidden, self.shares(people, *now)

    def shares(self, people: list[str] | None, *weights: float) -> str:
        """What part everybody has in the mixture."""
        parts = _parts(people, weights)
        total = sum(weight for _, weight in parts)
        if not parts or total <= 0:
            return ""
        rows = "".join(
            f"<tr><th scope='row'>{markup.named(name)}</th><td>{weight / total:.0%}</td>"
            f'<td class="wide"><span class="bar" aria-hidden="true"><i style="width:'
            f'{max(0.0, min(1.0, weight / total)) * 100:.0f}%"></i></span></td></tr>'
            for name, weight in parts
        )
        return f'<table class="celeb-basis-table">{rows}</table>'

    def check(self, name: str, replace: bool) -> str:
        """The live check of the name."""
        if not (name or "").strip():
            return ""
        problem = self.service.people.check_name(name.strip(), replace=bool(replace))
        return markup.note(problem, "error") if problem else markup.note(f"In prompts: <{name.strip()}>", "good")

    def preview(
        self, prompt: str, count: float, steps: float, guidance: float, seed: float | None, *mixture: Any
    ) -> tuple[Any, ...]:
        """Draw the mixture; nobody is saved."""
        request = PreviewRequest(
            _request(*mixture),
            prompt=prompt or "",
            count=int(count),
            steps=int(steps),
            guidance=float(guidance),
            seed=int(seed or 0),
        )
        return *self.watch.follow(self.service.preview_blend(request)), ""

    def save(self, *mixture: Any) -> tuple[Any, ...]:
        """Add the mixture to the library."""
        job = self.service.start_blend(_request(*mixture))
        job.wait(1.0)  # most are done by then
        now = self.everybody() if job.finished else (KEEP,)  # else with the end that the page sees later
        return *self.watch.follow(job), *now, ""

    def interrupt(self) -> tuple[Any, ...]:
        """End what is shown."""
        return self.watch.interrupt("Nothing is being blended.", "It stops now.")


def _request(
    people: list[str] | None,
    name: str,
    mean: float,
    celebrity: str,
    amount: float,
    radius: bool,
    replace: bool,
    *weights: float,
) -> BlendRequest:
    return BlendRequest(
        parts=_parts(people, weights),
        name=(name or "").strip(),
        toward_mean=float(mean),
        toward_celebrity=(celebrity or "").strip(),
        celebrity_amount=float(amount),
        keep_radius=bool(radius),
        replace=bool(replace),
    )


def _parts(people: list[str] | None, weights: tuple[float, ...]) -> tuple[tuple[str, float], ...]:
    names = (people or [])[:MOST]
    return tuple((name, float(weight)) for name, weight in zip(names, weights, strict=False) if weight)
