"""*Blend*: a new person out of several, with a slider each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.webui.tab import gr, markup
from celeb_basis.webui.tab.gr import gradio, on, own, update

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

MOST = 8
"""People that the page can mix; the API takes more."""


class BlendTab:
    """Lays the sub-tab out and answers its events."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def build(self, tab: Any) -> None:
        """Make the components, inside ``tab``."""
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                with gradio.Row(elem_classes=["celeb-basis-line"]):
                    people = own(
                        gradio.Dropdown(
                            [], multiselect=True, label=f"People, up to {MOST}", elem_id="celeb_basis_blend_people"
                        )
                    )
                sliders = [
                    own(
                        gradio.Slider(
                            -1, 1, value=0.5, step=0.01, visible=False, label="", elem_id=f"celeb_basis_weight_{i}"
                        )
                    )
                    for i in range(MOST)
                ]
                mean = own(gradio.Slider(0, 1, value=0, step=0.01, label="Toward the mean of the celebrities"))
                with gradio.Row():
                    celebrity = own(
                        gradio.Textbox(label="Toward a celebrity of the list", placeholder="a name, or empty")
                    )
                    amount = own(gradio.Slider(-1, 1, value=0, step=0.01, label="How far"))
                radius = own(
                    gradio.Checkbox(True, label="Keep the distance to the mean (a plain mixture looks more average)")
                )
            with gradio.Column(scale=4, elem_classes=["celeb-basis-side"]):
                shares = gradio.HTML("", elem_id="celeb_basis_shares")
                name = own(gradio.Textbox(label="Name of the mixture", elem_id="celeb_basis_blend_name"))
                name_note = gradio.HTML("")
                replace = own(gradio.Checkbox(False, label="Replace a person of this name"))
                save = gradio.Button("Save", variant="primary", elem_id="celeb_basis_blend_save")
                note = gr.message("celeb_basis_blend_note")
                result = gradio.HTML("")
        on(tab.select, self.choices, [people], [people], note=note, quiet=True)
        on(people.change, self.sliders, [people], [*sliders, shares], quiet=True)
        for slider in sliders:
            on(slider.input, self.shares, [people, *sliders], [shares], quiet=True)
        for component in (name.input, replace.change):
            on(component, self.check, [name, replace], [name_note], quiet=True)
        inputs = [people, name, mean, celebrity, amount, radius, replace, *sliders]
        on(save.click, self.save, inputs, [people, result], note=note)

    def choices(self, chosen: list[str] | None) -> Any:
        """Everybody as they are now."""
        names = list(self.service.library.names())
        return update(choices=names, value=[name for name in chosen or [] if name in names])

    def sliders(self, people: list[str] | None) -> tuple[Any, ...]:
        """A slider for each chosen person."""
        names = (people or [])[:MOST]
        shown = [update(visible=True, label=name) for name in names]
        return *shown, *[update(visible=False, value=0.5)] * (MOST - len(names)), self.shares(people, *[0.5] * MOST)

    def shares(self, people: list[str] | None, *weights: float) -> str:
        """What part everybody has in the mixture."""
        parts = _parts(people, weights)
        total = sum(weight for _, weight in parts)
        if not parts or total <= 0:
            return '<p class="quiet">Choose people, and move their sliders.</p>'
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
        problem = self.service.check_name(name.strip(), replace=bool(replace))
        return markup.note(problem, "error") if problem else markup.note(f"In prompts: <{name.strip()}>", "good")

    def save(
        self,
        people: list[str] | None,
        name: str,
        mean: float,
        celebrity: str,
        amount: float,
        radius: bool,
        replace: bool,
        *weights: float,
    ) -> tuple[Any, ...]:
        """Add the mixture to the library."""
        from celeb_basis.webui.mixing import BlendRequest

        entry = self.service.blend(
            BlendRequest(
                parts=_parts(people, weights),
                name=(name or "").strip(),
                toward_mean=float(mean),
                toward_celebrity=(celebrity or "").strip(),
                celebrity_amount=float(amount),
                keep_radius=bool(radius),
                replace=bool(replace),
            )
        )
        told = markup.note(f"{entry.word} is saved.", "good")
        return self.choices(people), f"<p>{markup.use_buttons(entry.word)}</p>", told


def _parts(people: list[str] | None, weights: tuple[float, ...]) -> tuple[tuple[str, float], ...]:
    names = (people or [])[:MOST]
    return tuple((name, float(weight)) for name, weight in zip(names, weights, strict=False) if weight)
