"""*Learn*: people, photos and settings on the left, what is going on on the right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError
from celeb_basis.settings import PRESETS
from celeb_basis.webui.ui import components, learn_form, markup
from celeb_basis.webui.ui.components import KEEP, Watch, gradio, on, own, update
from celeb_basis.webui.ui.learn_form import Draft, position

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

PRESET_LABELS = {"quick": "Quick", "balanced": "Balanced", "best": "Best", "paper": "As in the paper"}
_IDLE = "Nothing is being learned. Drop a photo, give a name, press Learn."


@dataclass
class _Form:
    """The components that show the draft, in the order in which :meth:`LearnTab.show` answers."""

    draft: Any
    people: Any
    remove_person: Any
    name: Any
    name_note: Any
    thumbs: Any
    photo: Any
    face: Any
    warnings: Any
    remove_photo: Any

    def all(self) -> list[Any]:
        return [getattr(self, name) for name in self.__dataclass_fields__]


class LearnTab:
    """Lays the sub-tab out and answers its events."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.watch = Watch(service, ("learn", "faces"), "celeb_basis_learn_poll", _IDLE)

    def build(self, tab: Any) -> None:
        """Make the components, inside ``tab``."""
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                asking = self._licence_part()
                form, files, add_person, picks = self._person_part()
                preset, settings, memory, others, buttons, note = self._run_part()
            with gradio.Column(scale=4, elem_classes=["celeb-basis-side"]):
                self.watch.build(plot=True, others=[note, *asking[:2]], at_end=lambda: ("", *self.ask_licence()))
        self._connect_person(form, files, add_person, picks, note, others[3])
        self._connect_run(form, preset, settings, others, buttons, note)
        for event in (tab.select, preset.input, *(field.change for field in _telling_memory(settings))):
            on(event, self.tell_memory, [preset, *settings], [memory], quiet=True)
        on(tab.select, self.ask_licence, [], asking[:2], quiet=True)
        on(asking[2].click, self.agree, [], [*self.watch.outputs, *asking[:2]], note=note)
        self.watch.show_at(tab.select)

    # Layout

    def _licence_part(self) -> list[Any]:
        """What a visitor has to know about the face models before the first photo, and to agree to."""
        told, visible = self._faces_note()
        told_part = gradio.HTML(told, elem_id="celeb_basis_faces_note")
        with gradio.Row(visible=visible, elem_classes=["celeb-basis-line"]) as row:
            agree = gradio.Button(
                "I agree to this licence: download the face models", elem_id="celeb_basis_agree", variant="primary"
            )
        return [told_part, row, agree]

    def _person_part(self) -> tuple[_Form, Any, Any, list[Any]]:
        draft = gradio.State(Draft)
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            people = own(
                gradio.Radio(["1: no name yet"], value="1: no name yet", label="People of this run", visible=False)
            )
        name = own(
            gradio.Textbox(
                label="Name", placeholder="ada: she is <ada> in prompts then", elem_id="celeb_basis_name", max_lines=1
            )
        )
        name_note = gradio.HTML("", elem_id="celeb_basis_name_note")
        files = own(
            gradio.File(
                label="Photos of this person: one is enough",
                file_count="multiple",
                file_types=["image"],
                elem_id="celeb_basis_photos",
                height=140,
            )
        )
        thumbs = gradio.HTML("", elem_id="celeb_basis_thumbs")
        photo = gradio.HTML("", elem_id="celeb_basis_photo")
        face = own(gradio.Radio([], label="Face to learn", visible=False, elem_id="celeb_basis_face"))
        warnings = gradio.HTML("", elem_id="celeb_basis_warnings")
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            add_person = gradio.Button("Add another person", size="sm", elem_id="celeb_basis_add_person")
            remove_person = gradio.Button("Remove this person", size="sm", visible=False)
            remove_photo = gradio.Button("Remove this photo", size="sm", visible=False)
        picks = [components.hidden_text("celeb_basis_pick_photo"), components.hidden_text("celeb_basis_pick_face")]
        form = _Form(draft, people, remove_person, name, name_note, thumbs, photo, face, warnings, remove_photo)
        return form, files, add_person, picks

    def _run_part(self) -> tuple[Any, list[Any], Any, list[Any], list[Any], Any]:
        preset = own(
            gradio.Radio(
                [(PRESET_LABELS.get(name, name), name) for name in PRESETS],
                value="balanced",
                label="Preset",
                info="Quick and Best let this checkpoint draw up to 640 celebrities twice, once: as long as 1,280 pictures.",
                elem_id="celeb_basis_preset",
            )
        )
        with gradio.Accordion("Advanced settings", open=False, elem_id="celeb_basis_advanced"):
            settings = _settings_form()
        memory = gradio.HTML("", elem_id="celeb_basis_memory")
        with gradio.Accordion("Notes", open=False):
            notes = own(gradio.Textbox(label="Notes kept with the person", lines=2))
            consent_note = own(
                gradio.Textbox(label="About the consent", placeholder="who agreed, when and how; kept with the person")
            )
        replace = own(gradio.Checkbox(False, label="Replace people of the same names", elem_id="celeb_basis_replace"))
        consent = own(
            gradio.Checkbox(
                False,
                label="Everybody in these photos agrees to being learned, or it is me",
                elem_id="celeb_basis_consent",
            )
        )
        with gradio.Row():
            start = gradio.Button("Learn", variant="primary", elem_id="celeb_basis_start")
            stop = gradio.Button("Interrupt", elem_id="celeb_basis_interrupt")
            resume = gradio.Button("Resume", elem_id="celeb_basis_resume")
        note = components.message("celeb_basis_learn_note")
        return preset, settings, memory, [consent, consent_note, notes, replace], [start, stop, resume], note

    def _faces_note(self) -> tuple[str, bool]:
        """The notice on the face models, and whether their licence has to be agreed to."""
        status = self.service.faces.status()
        if status["present"]:
            return "", False
        if status["problem"]:
            return markup.note(status["problem"], "error"), False
        size = f"{status['download_bytes'] / 1e6:.0f} MB"
        if not status["to_agree"]:
            return markup.note(
                f"The face models {status['pack']} are not here yet: the first photo downloads {size}."
            ), False
        return markup.note(
            f"The face models {status['pack']} ({size}) are not here yet. Their licence: {status['licence']} "
            f"({status['terms']}) They are downloaded when you agree to it. Another pack can be chosen in Settings, "
            "Celeb Basis."
        ), True

    # Events

    def _connect_person(
        self, form: _Form, files: Any, add_person: Any, picks: list[Any], note: Any, replace: Any
    ) -> None:
        shown, edited = form.all(), [form.draft, form.name]
        on(files.upload, self.add_photos, [*edited, files], [*shown, files], note=note, cleared=files)
        # The script clicks the button when nobody has typed for a moment: a check for each key would overtake another.
        check = components.hidden_button("celeb_basis_check_name")
        for event in (check.click, form.name.blur, replace.change):
            on(event, self.set_name, [*edited, replace], [form.draft, form.name_note], quiet=True)
        on(form.people.input, self.show_person, [*edited, form.people], shown, quiet=True)
        on(add_person.click, self.add_person, edited, shown, note=note)
        on(form.remove_person.click, self.remove_person, [form.draft], shown, note=note)
        on(form.remove_photo.click, self.remove_photo, [form.draft], shown, note=note)
        on(form.face.input, self.choose_face, [form.draft, form.face], shown, quiet=True)
        on(picks[0].input, self.show_photo, [form.draft, picks[0]], shown, quiet=True)
        on(picks[1].input, self.pick_face, [form.draft, picks[1]], shown, quiet=True)

    def _connect_run(
        self, form: _Form, preset: Any, settings: list[Any], others: list[Any], buttons: list[Any], note: Any
    ) -> None:
        on(preset.input, lambda name: tuple(learn_form.preset_values(name)), [preset], settings, quiet=True)
        start, stop, resume = buttons
        inputs = [form.draft, form.name, preset, *others, *settings]
        consent = others[0]
        on(start.click, self.start, inputs, [*form.all(), *self.watch.outputs, consent], note=note)
        on(stop.click, self.interrupt, [], self.watch.outputs, note=note)
        on(resume.click, self.resume, [], self.watch.outputs, note=note)

    # Handlers

    def ask_licence(self) -> tuple[Any, ...]:
        """The notice on the face models as it is now, and the button if it is needed."""
        told, visible = self._faces_note()
        return told, update(visible=visible)

    def agree(self) -> tuple[Any, ...]:
        """The visitor agrees: the download begins."""
        job = self.service.start_faces(accept_licence=True)
        return (
            *self.watch.follow(job),
            *self.ask_licence(),
            markup.note("The face models are being downloaded.", "good"),
        )

    def add_photos(self, draft: Draft, name: str, uploaded: Any) -> tuple[Any, ...]:
        """Find the faces of the dropped photos; photos of no use are told and the others taken."""
        person = draft.person  # whoever is edited when the last face is found: the photos are this one's
        person.name = (name or "").strip()
        files = components.uploads(uploaded, spent=True)
        waiting = [file_name for file_name, _ in files]
        draft.looked_at += waiting
        problems = []
        try:
            for file_name, data in files:
                try:
                    person.add_photo(file_name, data, self.service.faces.find_faces(data, file_name))
                except Exception as error:
                    if not components.explained(error):
                        raise
                    problems.append(str(error))
        finally:
            for file_name in waiting:
                draft.looked_at.remove(file_name)
        return *self.show(draft), None, "".join(markup.note(problem, "error") for problem in problems)

    def set_name(self, draft: Draft, name: str, replace: bool) -> tuple[Any, ...]:
        """The live check of the name."""
        person = draft.person
        person.name = name = (name or "").strip()
        told = self._name_note(name, replace)
        # The check of an earlier keystroke may be done later: it must not stand under the finished name.
        return draft, told if person.name == name else KEEP

    def show_person(self, draft: Draft, name: str, label: str) -> tuple[Any, ...]:
        """Edit another person."""
        chosen = position(draft.labels(), label)
        draft.person.name = (name or "").strip()
        draft.current = chosen
        return self.show(draft, new_person=True)

    def add_person(self, draft: Draft, name: str) -> tuple[Any, ...]:
        """One more person."""
        draft.person.name = (name or "").strip()
        draft.add_person()
        return self.show(draft, new_person=True)

    def remove_person(self, draft: Draft) -> tuple[Any, ...]:
        """One person less."""
        draft.remove_person()
        return self.show(draft, new_person=True)

    def show_photo(self, draft: Draft, index: str) -> tuple[Any, ...]:
        """Look at another photo."""
        if (number := components.picked(index)).isdecimal():
            draft.person.shown = min(int(number), len(draft.person.photos) - 1)
        return self.show(draft)

    def remove_photo(self, draft: Draft) -> tuple[Any, ...]:
        """One photo less."""
        draft.remove_photo()
        return self.show(draft)

    def choose_face(self, draft: Draft, number: str) -> tuple[Any, ...]:
        """Mean another face of the photo."""
        draft.choose_face(str(number or "").removeprefix("Face "))
        return self.show(draft)

    def pick_face(self, draft: Draft, number: str) -> tuple[Any, ...]:
        """The same by a click on the photo."""
        draft.choose_face(components.picked(number))
        return self.show(draft)

    def tell_memory(self, preset: str, *settings: Any) -> tuple[Any, ...]:
        """How much memory the run would take, before it is started."""
        try:
            need = self.service.memory_need(preset, learn_form.changes(preset, settings))
        except CelebBasisError as error:
            return (markup.note(str(error), "error"),)
        return (markup.note(need.sentence(), "hint" if need.fits else "error") if need else "",)

    def start(
        self,
        draft: Draft,
        name: str,
        preset: str,
        consent: bool,
        consent_note: str,
        notes: str,
        replace: bool,
        *settings: Any,
    ) -> tuple[Any, ...]:
        """Queue the run and empty the form; the next people are asked for their consent again."""
        draft.person.name = (name or "").strip()
        request = draft.request(
            preset,
            learn_form.changes(preset, settings),
            consent=consent,
            consent_note=consent_note or "",
            notes=notes or "",
            replace=replace,
        )
        job = self.service.start_learning(request)
        draft.clear()
        waits = sum(not other.finished for other in self.service.jobs()) > 1
        told = "Queued: it begins when the runs before it are done." if waits else "Learning has begun."
        told += " It goes on when this page is closed."
        return *self.show(draft, new_person=True), *self.watch.follow(job), False, markup.note(told, "good")

    def interrupt(self) -> tuple[Any, ...]:
        """End the run that is shown."""
        job = self.watch.current()
        told = "It stops after the step under way, and can be resumed."
        if job is not None and job.kind == "faces":
            told = "The download stops; it goes on from there when you agree again."
        return self.watch.interrupt("Nothing is being learned.", told)

    def resume(self) -> tuple[Any, ...]:
        """Go on with the newest run that can go on."""
        jobs = [job for job in self.service.jobs() if job.kind == "learn" and job.resumable]
        if not jobs:
            return *self.watch.answers(self.watch.current()), markup.note("There is no interrupted run to go on with.")
        job = self.service.resume(jobs[0].id)
        return *self.watch.follow(job), markup.note("It goes on where it stood.", "good")

    def show(self, draft: Draft, *, new_person: bool = False) -> tuple[Any, ...]:
        """The draft in all components of :class:`_Form`. The name's own field is left alone: somebody may be typing."""
        labels, person = draft.labels(), draft.person
        photo = person.photo
        faces = [f"Face {number}" for number in range(1, len(photo.found.faces) + 1)] if photo else []
        warnings = ""
        if photo is not None and photo.found.faces:
            warnings = markup.hints(photo.found.faces[photo.face].warnings) or markup.note("A good photo.", "good")
        elif photo is not None:
            warnings = markup.note(photo.found.problem, "error")
        several = len(person.photos) > 1
        thumbs = [(one.name, one.found.picture) for one in person.photos] if several else []
        return (
            draft,
            update(choices=labels, value=labels[draft.current], visible=len(labels) > 1),
            update(visible=len(labels) > 1),
            person.name if new_person else KEEP,
            self._name_note(person.name, False) if new_person else KEEP,
            markup.thumbnails(thumbs, person.shown, "celeb_basis_pick_photo"),
            markup.photo(photo.found, photo.face, "celeb_basis_pick_face", photo.name) if photo else "",
            update(choices=faces, value=faces[photo.face] if photo and faces else None, visible=len(faces) > 1),
            warnings,
            update(visible=photo is not None),
        )

    def _name_note(self, name: str, replace: bool) -> str:
        if not name:
            return ""
        problem = self.service.people.check_name(name, replace=replace)
        return markup.note(problem, "error") if problem else markup.note(f"In prompts: <{name}>", "good")


def _telling_memory(settings: list[Any]) -> list[Any]:
    """The fields that the estimate of memory depends on."""
    named = zip(learn_form.form_fields(), settings, strict=True)
    return [field for one, field in named if one.name in ("batch_size", "precision", "checkpointing", "size")]


def _settings_form() -> list[Any]:
    made = []
    with gradio.Row(elem_classes=["celeb-basis-settings"]):
        for one in learn_form.form_fields():
            common = {"label": one.label, "info": one.info, "elem_id": f"celeb_basis_set_{one.name}"}
            if one.kind == "switch":
                component = gradio.Checkbox(one.default, **common)
            elif one.kind == "choice":
                component = gradio.Dropdown(list(one.choices), value=one.default, **common)
            else:
                component = gradio.Number(one.default, precision=0 if one.kind == "whole" else None, **common)
            made.append(own(component))
    return made
