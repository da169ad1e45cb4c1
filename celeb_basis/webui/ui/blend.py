"""The sub-tab *Blend*: a new person made of several, with a weight for each, previewed before it is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError
from celeb_basis.webui.schemas import MAX_PREVIEWS, BlendRequest, PreviewRequest
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import Changes, JobView, gradio, on, own, update

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

MAX_PEOPLE = 8
"""People that the page can blend; the API takes more."""

STEERED = 2
"""Celebrities to whom the page can steer; the API takes more."""

_STRENGTH = 0.5
"""Strength of steering until its slider is moved; nothing happens before a celebrity or a group is named."""
_GROUP_STRENGTH = 0.2
"""The same for a group, which changes a person more."""
_NO_GROUP = "none"
_WEIGHT = 0.5
"""Everyone's weight until its slider is moved."""
_IDLE = "Choose people, set their weights and press Preview. A preview saves nothing."


class BlendTab:
    """The form of a blend and its event handlers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.view = JobView(service, ("preview", "blend"), "celeb_basis_blend_poll", _IDLE)

    def build(self, tab: Any) -> None:
        """Create the components inside ``tab`` and connect their events."""
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                self._create_blend_form()
                self._create_preview_form()
                self._create_save_form()
                self.note = components.note_area("celeb_basis_blend_note")
            with gradio.Column(scale=4, elem_classes=["celeb-basis-side"]):
                self.view.build(interrupt=self.interrupt_button, at_end=self.show_people, at_end_outputs=[self.people])
        self._connect(tab)

    # Layout

    def _create_blend_form(self) -> None:
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            self.people = own(
                gradio.Dropdown(
                    [], multiselect=True, label=f"People (up to {MAX_PEOPLE})", elem_id="celeb_basis_blend_people"
                )
            )
        self.weights = [
            own(
                gradio.Slider(
                    -1, 1, value=_WEIGHT, step=0.01, visible=False, label="", elem_id=f"celeb_basis_weight_{i}"
                )
            )
            for i in range(MAX_PEOPLE)
        ]
        self.shown_people = gradio.State([])
        self.shares = gradio.HTML("", elem_id="celeb_basis_shares")
        self.toward_mean = own(gradio.Slider(0, 1, value=0, step=0.01, label="Move toward the mean of the celebrities"))
        self._create_steering_form()
        self.keep_radius = own(
            gradio.Checkbox(
                BlendRequest.keep_radius, label="Keep the distance from the mean (a plain blend looks more average)"
            )
        )

    def _create_steering_form(self) -> None:
        self.celebrities: list[Any] = []
        self.groups: list[Any] = []
        with gradio.Accordion("Steer", open=False, elem_id="celeb_basis_steer"):
            for number in range(STEERED):
                with gradio.Row(elem_classes=["celeb-basis-line"]):
                    celebrity = gradio.Textbox(
                        label="Another celebrity" if number else "A celebrity",
                        placeholder="a name of the list of names",
                        max_lines=1,
                        elem_id=f"celeb_basis_steer_celebrity_{number}",
                    )
                    strength = gradio.Slider(
                        -1,
                        1,
                        value=_STRENGTH,
                        step=0.05,
                        label="Away from them (-) or more like them (+)",
                        elem_id=f"celeb_basis_steer_strength_{number}",
                    )
                    self.celebrities += [own(celebrity), own(strength)]
            with gradio.Row(elem_classes=["celeb-basis-line"]):
                group = gradio.Dropdown(
                    [_NO_GROUP], value=_NO_GROUP, label="A group of celebrities", elem_id="celeb_basis_steer_group"
                )
                strength = gradio.Slider(
                    -1,
                    1,
                    value=_GROUP_STRENGTH,
                    step=0.05,
                    label="Away from it (-) or toward it (+)",
                    elem_id="celeb_basis_steer_group_strength",
                )
                self.groups += [own(group), own(strength)]

    def _create_preview_form(self) -> None:
        with gradio.Accordion("Preview settings", open=False, elem_id="celeb_basis_blend_drawing"):
            self.prompt = own(
                gradio.Textbox(
                    "a photo of {}",
                    label="Prompt",
                    info="{} stands for the blend",
                    elem_id="celeb_basis_blend_prompt",
                )
            )
            with gradio.Row():
                self.count = own(gradio.Slider(1, MAX_PREVIEWS, value=1, step=1, label="Images"))
                self.steps = own(
                    gradio.Slider(1, 150, value=20, step=1, label="Sampling steps", elem_id="celeb_basis_blend_steps")
                )
            with gradio.Row():
                self.guidance = own(gradio.Slider(1, 30, value=7.5, step=0.5, label="CFG scale"))
                self.seed = own(gradio.Number(0, precision=0, label="Seed"))

    def _create_save_form(self) -> None:
        self.name = own(
            gradio.Textbox(
                label="Name of the blend",
                placeholder="only needed to save it",
                elem_id="celeb_basis_blend_name",
                max_lines=1,
            )
        )
        self.name_note = gradio.HTML("")
        self.replace = own(gradio.Checkbox(False, label="Replace a person with this name"))
        with gradio.Row():
            self.preview_button = gradio.Button("Preview", elem_id="celeb_basis_blend_preview")
            self.save_button = gradio.Button("Save", variant="primary", elem_id="celeb_basis_blend_save")
            self.interrupt_button = gradio.Button("Interrupt", elem_id="celeb_basis_blend_stop", visible=False)

    def _connect(self, tab: Any) -> None:
        people, weights, view, note = self.people, self.weights, self.view, self.note
        on(tab.select, self.refresh, [people, self.groups[0]], [people, self.groups[0]], note=note, quiet=True)
        view.refresh_at(tab.select)
        on(
            people.change,
            self.show_weights,
            [people, self.shown_people, *weights],
            [self.shown_people, *weights, self.shares],
            quiet=True,
        )
        for weight in weights:
            on(weight.input, self.show_shares, [people, *weights], [self.shares], quiet=True)
        for event in (self.name.input, self.replace.change):
            on(event, self.check_name, [self.name, self.replace], [self.name_note], quiet=True)
        blend = [
            people,
            self.name,
            self.toward_mean,
            self.keep_radius,
            self.replace,
            *self.celebrities,
            *self.groups,
            *weights,
        ]
        preview = [self.prompt, self.count, self.steps, self.guidance, self.seed]
        on(self.preview_button.click, self.preview, [*preview, *blend], view.outputs, note=note)
        on(self.save_button.click, self.save, blend, [*view.outputs, people], note=note)
        on(self.interrupt_button.click, self.interrupt, [], view.outputs, note=note)

    # Handlers

    def refresh(self, chosen: list[str] | None, group: str | None) -> Changes:
        """Offer the people of the library and the groups of the list of names; those chosen who are still there stay."""
        names = list(self.service.workspace.library.names())
        try:
            groups = [_NO_GROUP, *self.service.inventing.groups()]
        except CelebBasisError:  # the sub-tab Basis says what is wrong with the list
            groups = [_NO_GROUP]
        return {
            self.people: update(choices=names, value=[name for name in chosen or [] if name in names]),
            self.groups[0]: update(choices=groups, value=group if group in groups else _NO_GROUP),
        }

    def show_people(self) -> Changes:
        """Offer the people of the library after a blend was saved; the choice stays."""
        return {self.people: update(choices=list(self.service.workspace.library.names()))}

    def show_weights(self, people: list[str] | None, shown_people: list[str], *weights: float) -> Changes:
        """Show a slider for each chosen person, who keeps their weight.

        Args:
            people: The people who are chosen now.
            shown_people: Those that the sliders belonged to before.
            *weights: Values of the sliders.
        """
        names = (people or [])[:MAX_PEOPLE]
        before = dict(zip(shown_people, weights, strict=False))
        now = [float(before.get(name, _WEIGHT)) for name in names]
        changes: Changes = {slider: update(visible=False, value=_WEIGHT) for slider in self.weights}
        for slider, name, weight in zip(self.weights, names, now, strict=False):
            changes[slider] = update(visible=True, label=name, value=weight)
        return {self.shown_people: names, **changes, **self.show_shares(people, *now)}

    def show_shares(self, people: list[str] | None, *weights: float) -> Changes:
        """Show each person's share in the blend."""
        return {self.shares: markup.shares(_parts(people, weights))}

    def check_name(self, name: str, replace: bool) -> Changes:
        """Check the name while it is typed."""
        name = (name or "").strip()
        if not name:
            return {self.name_note: ""}
        problem = self.service.people.check_name(name, replace=bool(replace))
        note = markup.note(problem, "error") if problem else markup.note(f"Write <{name}> in prompts.", "good")
        return {self.name_note: note}

    def preview(
        self, prompt: str, count: float, steps: float, guidance: float, seed: float | None, *blend: Any
    ) -> Changes:
        """Generate images of the blend without saving it."""
        request = PreviewRequest(
            _request(*blend),
            prompt=prompt or "",
            count=int(count),
            steps=int(steps),
            guidance=float(guidance),
            seed=int(seed or 0),
        )
        self.service.preview_blend(request)
        return self.view.show()

    def save(self, *blend: Any) -> Changes:
        """Add the blend to the library."""
        job = self.service.start_blend(_request(*blend))
        job.wait(1.0)  # most are finished by then; the page sees the end of the others later
        return {**self.view.show(), **(self.show_people() if job.finished else {})}

    def interrupt(self) -> Changes:
        """Interrupt the preview or the blend that is shown."""
        job = self.view.interrupt()
        message = "There is nothing to interrupt." if job is None else "Stopping now."
        return {**self.view.show(job), self.note: markup.note(message)}


def _request(
    people: list[str] | None,
    name: str,
    toward_mean: float,
    keep_radius: bool,
    replace: bool,
    *steering_and_weights: Any,
) -> BlendRequest:
    steering, weights = steering_and_weights[: 2 * STEERED + 2], steering_and_weights[2 * STEERED + 2 :]
    named = [
        ((name or "").strip(), float(strength)) for name, strength in zip(steering[::2], steering[1::2], strict=True)
    ]
    return BlendRequest(
        parts=_parts(people, weights),
        name=(name or "").strip(),
        toward_mean=float(toward_mean),
        keep_radius=bool(keep_radius),
        replace=bool(replace),
        celebrities=tuple(one for one in named[:STEERED] if one[0]),
        groups=tuple(one for one in named[STEERED:] if one[0] not in ("", _NO_GROUP)),
    )


def _parts(people: list[str] | None, weights: tuple[float, ...]) -> tuple[tuple[str, float], ...]:
    names = (people or [])[:MAX_PEOPLE]
    return tuple((name, float(weight)) for name, weight in zip(names, weights, strict=False) if weight)
