"""The sub-tab *Learn*: photo, name, preset and consent on the left, the photo's faces and the run on the right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError
from celeb_basis.settings import AUTO
from celeb_basis.webui.timings import Pace, preset_costs
from celeb_basis.webui.ui import components, learn_form, likeness_markup, markup
from celeb_basis.webui.ui.components import Changes, JobView, gradio, on, own, update
from celeb_basis.webui.ui.interrupted_runs import SavedRuns
from celeb_basis.webui.ui.learn_form import Draft, DraftPerson, position
from celeb_basis.webui.ui.markup import NoteKind

if TYPE_CHECKING:
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.service import Service

_IDLE = (
    "Drop one photo of a person: face clearly visible, one person or several.",
    "Give them a short name, confirm that they agree, and press Learn. It takes minutes.",
    "Write <name> in any prompt: a photo of <name> on a beach.",
)
"""The three steps of a newcomer, shown while there is no run."""
_NO_CHECKPOINT = "How much memory the run takes is shown as soon as a checkpoint is loaded."
_OPENED = "celeb_basis_learn_opened"
_MEMORY_SETTINGS = ("batch_size", "precision", "checkpointing", "size")
"""The settings that the estimate of the memory depends on."""


class LearnTab:
    """The form and its event handlers. The people and photos of the form are a :class:`Draft`, kept for each user."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.view = JobView(
            service, ("learn", "faces", "prepare"), "celeb_basis_learn_poll", _IDLE, likeness_markup.results
        )
        self.runs = SavedRuns(service, self.view)

    def build(self, tab: Any) -> None:
        """Create the components inside ``tab`` and connect their events."""
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                self._create_license_notice()
                self._create_person_form()
                self._create_run_form()
                self._create_more()
            with gradio.Column(scale=4, elem_classes=["celeb-basis-side"]):
                self._create_photo_view()
                self.runs.build()
                self.view.build(
                    details=True,
                    beside=lambda job: {**self.show_buttons(job), **self.runs.show()},
                    beside_outputs=[self.interrupt_button, self.resume_button, self.runs.list],
                    at_end=lambda: {self.note: "", **self.show_license(), **self.show_presets()},
                    at_end_outputs=[self.note, *self.license_outputs, self.preset],
                )
        self.draft_outputs = [
            self.draft,
            self.people,
            self.remove_person_button,
            self.name,
            self.name_note,
            self.replace,
            self.likeness_note,
            self.thumbnails,
            self.photo,
            self.face,
            self.warnings,
            self.remove_photo_button,
        ]
        self._connect_person_form()
        self._connect_run_form(tab)

    # Layout

    def _create_license_notice(self) -> None:
        """What a user has to know about the face models, and to agree to, before the first photo."""
        notice, to_agree = markup.license_notice(self.service.faces.status())
        self.license_notice = gradio.HTML(notice, elem_id="celeb_basis_faces_note")
        with gradio.Row(visible=to_agree, elem_classes=["celeb-basis-line"]) as self.license_row:
            self.agree_button = gradio.Button(
                "I agree to this license: download the face models", elem_id="celeb_basis_agree", variant="primary"
            )
        self.license_outputs = [self.license_notice, self.license_row]

    def _create_person_form(self) -> None:
        self.draft = gradio.State(Draft)
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            labels = Draft().labels()
            self.people = own(gradio.Radio(labels, value=labels[0], label="People in this run", visible=False))
        self.files = own(
            gradio.File(
                label="Photo of the person (one is enough)",
                file_count="multiple",
                file_types=["image"],
                elem_id="celeb_basis_photos",
                height=110,
            )
        )
        self.photo_note = components.note_area("celeb_basis_photo_note")
        self.likeness_note = gradio.HTML("", elem_id="celeb_basis_likeness_note", elem_classes=["celeb-basis-message"])
        self.name = own(
            gradio.Textbox(
                label="Name",
                placeholder="ada, used in prompts as <ada>",
                elem_id="celeb_basis_name",
                max_lines=1,
            )
        )
        self.name_note = gradio.HTML("", elem_id="celeb_basis_name_note")
        self.replace = own(
            gradio.Checkbox(
                False, label="Replace the person with this name", elem_id="celeb_basis_replace", visible=False
            )
        )
        self.picked_photo = components.hidden_text("celeb_basis_pick_photo")
        self.picked_face = components.hidden_text("celeb_basis_pick_face")

    def _create_run_form(self) -> None:
        choices = learn_form.preset_choices(preset_costs(Pace()))
        self.preset = own(gradio.Radio(choices, value=AUTO, label="Preset", elem_id="celeb_basis_preset"))
        self.consent = own(
            gradio.Checkbox(
                False, label="Everyone shown has agreed to this, or it is me", elem_id="celeb_basis_consent"
            )
        )
        with gradio.Row():
            self.learn_button = gradio.Button("Learn", variant="primary", elem_id="celeb_basis_start")
            self.interrupt_button = gradio.Button("Interrupt", elem_id="celeb_basis_interrupt", visible=False)
            self.resume_button = gradio.Button("Resume", elem_id="celeb_basis_resume", visible=False)
        self.note = components.note_area("celeb_basis_learn_note")
        self.memory = gradio.HTML("", elem_id="celeb_basis_memory")
        self.prepare_button = gradio.Button(
            "Prepare this checkpoint", size="sm", elem_id="celeb_basis_prepare", visible=False
        )

    def _create_more(self) -> None:
        """What most runs do without."""
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            self.add_person_button = gradio.Button("Add another person", size="sm", elem_id="celeb_basis_add_person")
            self.remove_person_button = gradio.Button("Remove this person", size="sm", visible=False)
        self.settings: dict[str, Any] = {}
        with gradio.Accordion("Advanced settings", open=False, elem_id="celeb_basis_advanced"):
            for group, group_fields in learn_form.field_groups().items():
                gradio.HTML(markup.heading(group))
                with gradio.Row(elem_classes=["celeb-basis-settings"]):
                    self.settings |= {field.name: components.setting(field) for field in group_fields}
        # In the order of the settings themselves, in which a form's values are read.
        self.settings = {field.name: self.settings[field.name] for field in learn_form.form_fields()}
        with gradio.Accordion("Notes", open=False):
            self.notes = own(gradio.Textbox(label="Notes, saved with the person", lines=2))
            self.consent_note = own(
                gradio.Textbox(label="Consent details, saved with the person", placeholder="who agreed, when and how")
            )

    def _create_photo_view(self) -> None:
        self.thumbnails = gradio.HTML("", elem_id="celeb_basis_thumbs")
        self.photo = gradio.HTML("", elem_id="celeb_basis_photo")
        self.face = own(gradio.Radio([], label="Face to learn", visible=False, elem_id="celeb_basis_face"))
        self.warnings = gradio.HTML("", elem_id="celeb_basis_warnings")
        self.remove_photo_button = gradio.Button(
            "Remove this photo", size="sm", visible=False, elem_id="celeb_basis_remove_photo"
        )

    # Events

    def _connect_person_form(self) -> None:
        edited, shown, note = [self.draft, self.name], self.draft_outputs, self.note
        added = on(
            self.files.upload,
            self.add_photos,
            [*edited, self.files],
            [
                *shown,
                self.files,
                self.preset,
            ],  # the face models are here now: whether the checkpoint is prepared is known
            note=self.photo_note,
            clear_on_error=self.files,
        )
        shown_memory = [self.memory, self.prepare_button]  # the offer to prepare depends on the face models as well
        on(added.then, self.show_memory, [self.preset, *self.settings.values()], shown_memory, quiet=True)
        # The script clicks this button when the user pauses while typing: one check per key would overtake another.
        check_button = components.hidden_button("celeb_basis_check_name")
        for event in (check_button.click, self.name.blur, self.replace.change):
            on(event, self.check_name, [*edited, self.replace], [self.draft, self.name_note, self.replace], quiet=True)
        on(self.people.input, self.select_person, [*edited, self.people], shown, quiet=True)
        on(self.add_person_button.click, self.add_person, edited, shown, note=note)
        on(self.remove_person_button.click, self.remove_person, [self.draft], shown, note=note)
        on(self.remove_photo_button.click, self.remove_photo, [self.draft], shown, note=note)
        on(self.face.input, self.select_face, [self.draft, self.face], shown, quiet=True)
        on(self.picked_photo.input, self.pick_photo, [self.draft, self.picked_photo], shown, quiet=True)
        on(self.picked_face.input, self.pick_face, [self.draft, self.picked_face], shown, quiet=True)

    def _connect_run_form(self, tab: Any) -> None:
        settings, view, note = list(self.settings.values()), self.view, self.note
        on(self.preset.input, self.fill_settings, [self.preset], settings, quiet=True)
        memory_fields = [self.settings[name] for name in _MEMORY_SETTINGS]
        for event in (self.preset.input, *(field.change for field in memory_fields)):
            on(event, self.show_memory, [self.preset, *settings], [self.memory, self.prepare_button], quiet=True)
        # The sub-tab that is open on a fresh page is never selected: the script clicks this button when it is first seen.
        opened_button = components.hidden_button(_OPENED)
        for event in (tab.select, opened_button.click):
            on(event, self.show_memory, [self.preset, *settings], [self.memory, self.prepare_button], quiet=True)
            now = [self.runs.list, *self.license_outputs, self.preset, self.interrupt_button, self.resume_button]
            on(event, self.show_now, [], now, quiet=True)
        view.refresh_at(tab.select)
        on(self.agree_button.click, self.agree, [], [*view.outputs, *self.license_outputs], note=note)
        given = [self.preset, self.consent, self.consent_note, self.notes, self.replace]
        form = [self.draft, self.name, *given, *settings]
        started = [*self.draft_outputs, *view.outputs, self.consent, self.photo_note]
        on(self.learn_button.click, self.start, form, started, note=note)
        on(self.prepare_button.click, self.prepare, [], [*view.outputs, self.memory, self.prepare_button], note=note)
        on(self.interrupt_button.click, self.interrupt, [], view.outputs, note=note)
        self.runs.connect(note, self.resume_button)

    # Handlers: the face models

    def show_license(self) -> Changes:
        """The notice about the face models as it is now, and the button if it is needed."""
        notice, to_agree = markup.license_notice(self.service.faces.status())
        return {self.license_notice: notice, self.license_row: update(visible=to_agree)}

    def agree(self) -> Changes:
        """The user agrees to the license: the download begins."""
        self.service.start_faces(accept_licence=True)
        note = markup.note("Downloading the face models.", "good")
        return {**self.view.show(), **self.show_license(), self.note: note}

    # Handlers: people and photos

    def add_photos(self, draft: Draft, name: str, uploaded: Any) -> Changes:
        """Detect the faces of the uploaded photos; unusable photos are reported, the others added."""
        person = draft.person  # another one may be edited when the last face is found: the photos are this one's
        person.name = (name or "").strip()
        files = components.uploads(uploaded, spent=True)
        file_names = [file_name for file_name, _ in files]
        draft.detecting += file_names
        problems: list[tuple[str, NoteKind]] = []
        try:
            for file_name, data in files:
                try:
                    person.add_photo(file_name, data, self.service.faces.find_faces(data, file_name))
                except Exception as error:
                    if not components.is_explained(error):
                        raise
                    problems.append((str(error), "error"))
        finally:
            for file_name in file_names:
                draft.detecting.remove(file_name)
        shown = {**self.show_draft(draft), **self.show_presets()}
        return {**shown, self.files: None, self.photo_note: markup.notes(problems)}

    def check_name(self, draft: Draft, name: str, replace: bool) -> Changes:
        """Check the name while it is typed."""
        person = draft.person
        person.name = name = (name or "").strip()
        shown = self._show_name(name, replace)
        if person.name != name:  # a later keystroke was checked sooner: this note must not stand under its name
            return {self.draft: draft}
        return {self.draft: draft, **shown}

    def select_person(self, draft: Draft, name: str, label: str) -> Changes:
        """Edit another person."""
        selected = position(draft.labels(), label)
        draft.person.name = (name or "").strip()
        draft.current = selected
        return self.show_draft(draft, new_person=True)

    def add_person(self, draft: Draft, name: str) -> Changes:
        """Add a person."""
        draft.person.name = (name or "").strip()
        draft.add_person()
        return self.show_draft(draft, new_person=True)

    def remove_person(self, draft: Draft) -> Changes:
        """Remove the person who is being edited."""
        draft.remove_person()
        return self.show_draft(draft, new_person=True)

    def pick_photo(self, draft: Draft, index: str) -> Changes:
        """Show the photo whose thumbnail was clicked."""
        if (number := components.picked(index)).isdecimal():
            draft.person.shown = min(int(number), len(draft.person.photos) - 1)
        return self.show_draft(draft)

    def remove_photo(self, draft: Draft) -> Changes:
        """Remove the photo that is shown."""
        draft.remove_photo()
        return self.show_draft(draft)

    def select_face(self, draft: Draft, label: str) -> Changes:
        """Select another face of the photo by its label."""
        draft.select_face(str(label or "").removeprefix("Face "))
        return self.show_draft(draft)

    def pick_face(self, draft: Draft, number: str) -> Changes:
        """Select the face that was clicked on the photo."""
        draft.select_face(components.picked(number))
        return self.show_draft(draft)

    def show_draft(self, draft: Draft, *, new_person: bool = False) -> Changes:
        """Show the person who is being edited.

        Args:
            draft: The people of the form.
            new_person: Whether it is another person than before. Otherwise the field of the name is left alone, because
                the user may be typing in it.
        """
        labels, person = draft.labels(), draft.person
        photo = person.photo
        faces = [f"Face {number}" for number in range(1, len(photo.found.faces) + 1)] if photo else []
        thumbnails = [(one.name, one.found.picture) for one in person.photos] if len(person.photos) > 1 else []
        changes = {
            self.draft: draft,
            self.people: update(choices=labels, value=labels[draft.current], visible=len(labels) > 1),
            self.remove_person_button: update(visible=len(labels) > 1),
            self.likeness_note: self._likeness_note(person),
            self.thumbnails: markup.thumbnails(thumbnails, person.shown, "celeb_basis_pick_photo"),
            self.photo: "",
            self.face: update(
                choices=faces, value=faces[photo.face] if photo and faces else None, visible=len(faces) > 1
            ),
            self.warnings: "",
            self.remove_photo_button: update(visible=photo is not None),
        }
        if new_person:
            changes |= {self.name: person.name, **self._show_name(person.name, False)}
        if photo is not None:
            changes[self.photo] = markup.photo(photo.found, photo.face, "celeb_basis_pick_face", photo.name)
            if not faces:
                changes[self.warnings] = markup.note(photo.found.problem, "error")
            elif warnings := photo.found.faces[photo.face].warnings:
                changes[self.warnings] = markup.notes((warning, "hint") for warning in warnings)
            else:
                changes[self.warnings] = markup.note("This is a good photo.", "good")
        return changes

    def _likeness_note(self, person: DraftPerson) -> str:
        """A warning about photos that show different people, under the field that they were dropped on."""
        try:
            warnings = person.likeness_warnings(lambda face: self.service.faces.vector(face))
        except CelebBasisError:  # the face models are gone: the run will say so
            return ""
        return markup.notes((warning, "hint") for warning in warnings)

    def _show_name(self, name: str, replace: bool) -> Changes:
        """What there is to say of a name, and the question whether to replace a person of this name."""
        if not name:
            return {self.name_note: "", self.replace: update(value=False, visible=False)}
        problem = self.service.people.check_name(name, replace=False)
        taken = bool(problem) and not self.service.people.check_name(name, replace=True)
        if taken and replace:
            note = markup.note(f"<{name}> will be learned again; the person of now is replaced at the end.")
        else:
            note = markup.note(problem, "error") if problem else markup.note(f"Write <{name}> in prompts.", "good")
        return {self.name_note: note, self.replace: update(value=taken and replace, visible=taken)}

    # Handlers: the run

    def fill_settings(self, preset: str) -> Changes:
        """Show the values of another preset."""
        return dict(zip(self.settings.values(), learn_form.preset_values(preset), strict=True))

    def show_now(self) -> Changes:
        """Show what may have changed while this was not looked at."""
        buttons = self.show_buttons(self.view.current())
        return {**self.runs.show(), **self.show_license(), **self.show_presets(), **buttons}

    def show_presets(self) -> Changes:
        """The presets, with what they take on the checkpoint of now."""
        return {self.preset: update(choices=learn_form.preset_choices(self.service.preset_costs()))}

    def show_buttons(self, job: Job | None) -> Changes:
        """The buttons that can be used now: a run that is under way can be interrupted, one that stopped resumed."""
        under_way = job is not None and not job.finished
        resumable = not under_way and any(not run.running for run in self.service.saved_runs())
        return {self.interrupt_button: update(visible=under_way), self.resume_button: update(visible=resumable)}

    def show_memory(self, preset: str, *settings: Any) -> Changes:
        """How much memory the run would take, before it is started."""
        try:
            need = self.service.memory_need(preset, learn_form.changes(preset, settings))
        except CelebBasisError as error:
            return {self.memory: markup.note(str(error), "error")}
        if need is None:
            return {self.memory: markup.unknown(_NO_CHECKPOINT, _OPENED)}
        offer, sentence = self.service.preparation_offer(preset), need.sentence()
        shown = markup.quiet(sentence) if need.fits else markup.note(sentence, "error")
        return {
            self.memory: shown + (markup.quiet(offer) if offer else ""),
            self.prepare_button: update(visible=bool(offer)),
        }

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
    ) -> Changes:
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
        self.service.start_learning(request)
        draft.clear()
        waits = sum(not job.finished for job in self.service.jobs()) > 1
        message = "Queued. The run starts when the runs before it are done." if waits else "Learning has started."
        message += " You can close this page; the run continues."
        return {
            **self.show_draft(draft, new_person=True),
            **self.view.show(),
            self.consent: False,
            self.photo_note: "",
            self.note: markup.note(message, "good"),
        }

    def prepare(self) -> Changes:
        """Queue preparing the checkpoint."""
        self.service.start_preparation()
        return {**self.view.show(), self.memory: "", self.prepare_button: update(visible=False)}

    def interrupt(self) -> Changes:
        """Interrupt the run, or the download, that is shown."""
        job = self.view.interrupt()
        if job is None:
            message = "There is no run to interrupt."
        elif job.kind == "faces":
            message = "The download stops. It continues from there when you agree again."
        elif job.kind == "prepare":
            message = "The preparation stops. It continues from there when you prepare again."
        elif job.result.get("people"):
            message = "The likeness is not measured. Everyone is saved."
        else:
            message = "The run stops after the current step. You can resume it later."
        return {**self.view.show(job), self.note: markup.note(message)}
