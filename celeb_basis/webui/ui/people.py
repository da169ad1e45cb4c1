"""The sub-tab *People*: the library, and what can be done with a person in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.errors import IdentityError
from celeb_basis.exports.textual_inversion import LAYOUTS
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.webui.schemas import NoSuchPersonError
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import Changes, gradio, on, own, update
from celeb_basis.webui.ui.markup import NoteKind

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

MAX_CARDS = 60
"""Cards on the page; a search finds the others among thousands."""

_PICK = "celeb_basis_pick_person"
_NONE_SELECTED = "Select a person to see details."
_EXPORTS = {"Identity file, complete": "identity"} | {layout.tool: key for key, layout in LAYOUTS.items()}
"""Layouts of exported files: their labels on the page, and their names in the service."""


class PeopleTab:
    """The cards, the selected person's details and actions, and their event handlers."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def build(self, tab: Any) -> None:
        """Create the components inside ``tab`` and connect their events."""
        self.selected = gradio.State("")
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                with gradio.Row(elem_classes=["celeb-basis-line"]):
                    self.search = own(
                        gradio.Textbox(label="Search", placeholder="part of a name", scale=4, max_lines=1)
                    )
                    self.refresh_button = gradio.Button("Refresh", size="sm", scale=1, min_width=80)
                self.cards = gradio.HTML("", elem_id="celeb_basis_people")
                self._create_import_form()
            with gradio.Column(scale=4, elem_classes=["celeb-basis-side"]):
                self.details = gradio.HTML(markup.quiet(_NONE_SELECTED), elem_id="celeb_basis_person")
                with gradio.Column(visible=False) as self.actions:
                    self._create_notes_form()
                    self._create_export_form()
                    self._create_delete_form()
                self.note = components.note_area("celeb_basis_people_note")
        self.picked = components.hidden_text(_PICK)
        self._connect(tab)

    # Layout

    def _create_import_form(self) -> None:
        with gradio.Accordion("Import", open=False, elem_id="celeb_basis_import"):
            self.import_files = own(
                gradio.File(
                    label="Identity files or textual inversions (.safetensors, .pt, .bin, .png)",
                    file_count="multiple",
                    elem_id="celeb_basis_import_files",
                    height=140,
                )
            )
            self.import_name = own(
                gradio.Textbox(label="Name", placeholder="optional, for a single file; default: the name in the file")
            )
            self.import_replace = own(gradio.Checkbox(False, label="Replace people with the same names"))
            self.import_button = gradio.Button("Import", elem_id="celeb_basis_import_go")
            self.import_note = components.note_area("celeb_basis_import_note")

    def _create_notes_form(self) -> None:
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            self.new_name = own(gradio.Textbox(label="New name", elem_id="celeb_basis_new_name", scale=3, max_lines=1))
            self.rename_button = gradio.Button("Rename", size="sm", scale=1, min_width=80, elem_id="celeb_basis_rename")
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            with gradio.Column(scale=3):
                self.notes = own(gradio.Textbox(label="Notes", lines=2, elem_id="celeb_basis_notes"))
                self.consent = own(
                    gradio.Textbox(
                        label="Consent",
                        placeholder="who agreed, when and how",
                        max_lines=3,
                        elem_id="celeb_basis_consent_kept",
                    )
                )
            self.save_notes_button = gradio.Button(
                "Save notes", size="sm", scale=1, min_width=80, elem_id="celeb_basis_save_notes"
            )

    def _create_export_form(self) -> None:
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            self.layout = own(gradio.Dropdown([*_EXPORTS], value=next(iter(_EXPORTS)), label="Export as", scale=3))
            self.export_button = gradio.Button("Export", size="sm", scale=1, min_width=80, elem_id="celeb_basis_export")
        self.links = gradio.HTML("", elem_id="celeb_basis_links")

    def _create_delete_form(self) -> None:
        with gradio.Row():
            self.embedding_button = gradio.Button("Copy to the embeddings folder", size="sm")
            self.delete_button = gradio.Button(
                "Delete with everything", size="sm", variant="stop", elem_id="celeb_basis_delete"
            )
        with gradio.Column(visible=False) as self.confirmation:
            self.traces = gradio.HTML("", elem_id="celeb_basis_delete_told")
            self.with_blends = own(
                gradio.Checkbox(True, label="Also delete blends of this person", elem_id="celeb_basis_delete_mixtures")
            )
            with gradio.Row():
                self.confirm_button = gradio.Button(
                    "Delete permanently", size="sm", variant="stop", elem_id="celeb_basis_delete_yes"
                )
                self.cancel_button = gradio.Button("Cancel", size="sm", elem_id="celeb_basis_delete_no")

    def _connect(self, tab: Any) -> None:
        selected, search, note = self.selected, self.search, self.note
        notes = [self.notes, self.consent]
        shown = [
            selected,
            self.cards,
            self.details,
            self.actions,
            self.new_name,
            *notes,
            self.links,
            self.confirmation,
        ]
        on(tab.select, self.show, [selected, search], shown, note=note, quiet=True)
        on(self.refresh_button.click, self.show, [selected, search], shown, note=note)
        on(search.input, self.show_cards, [selected, search], [self.cards], note=note, quiet=True)
        on(self.picked.input, self.pick, [self.picked, search], shown, note=note, quiet=True)
        on(self.rename_button.click, self.rename, [selected, search, self.new_name], shown, note=note)
        on(self.save_notes_button.click, self.save_notes, [selected, search, *notes], shown, note=note)
        on(self.export_button.click, self.export, [selected, self.layout], [self.links], note=note)
        on(self.embedding_button.click, self.copy_to_embeddings, [selected], [], note=note)
        deletion, question = [selected, self.with_blends], [self.confirmation, self.traces]
        on(self.delete_button.click, self.ask, deletion, question, note=note, quiet=True)
        on(self.with_blends.change, self.ask, deletion, question, quiet=True)
        on(self.cancel_button.click, self.cancel, [], [self.confirmation], quiet=True)
        on(self.confirm_button.click, self.delete, [selected, search, self.with_blends], shown, note=note)
        on(
            self.import_button.click,
            self.import_people,
            [self.import_files, self.import_name, self.import_replace, search],
            [*shown, self.import_files],
            note=self.import_note,
            clear_on_error=self.import_files,
        )

    # Handlers

    def show(self, selected: str, search: str) -> Changes:
        """Show the cards, and the selected person's details and actions."""
        status = self._status(selected) if selected else None
        name = "" if status is None else selected
        metadata = status.identity.metadata if status is not None and status.identity is not None else None
        return {
            self.selected: name,
            **self.show_cards(name, search),
            self.details: markup.person(status) if status is not None else markup.quiet(_NONE_SELECTED),
            self.actions: update(visible=status is not None),
            self.new_name: name,
            self.notes: metadata.notes if metadata is not None else "",
            self.consent: metadata.consent if metadata is not None else "",
            self.links: "",
            self.confirmation: update(visible=False),
        }

    def show_cards(self, selected: str, search: str) -> Changes:
        """Show the people whose names contain ``search``; only the files of those that are shown are read."""
        wanted = (search or "").casefold().strip("<> ")
        everyone = self.service.workspace.library.names()
        names = [name for name in everyone if wanted in name.casefold()]
        people = self.service.people.entries_of(names[:MAX_CARDS])
        return {self.cards: markup.cards(people, selected, _PICK, len(names) or len(everyone))}

    def pick(self, name: str, search: str) -> Changes:
        """Select the person whose card was clicked."""
        return self.show(components.picked(name), search)

    def rename(self, selected: str, search: str, new_name: str) -> Changes:
        """Rename the selected person."""
        status = self.service.people.rename(selected, new_name or "")
        note = markup.note(f"Renamed to {status.placeholder_token}.", "good", people_changed=True)
        return {**self.show(status.name, search), self.note: note}

    def save_notes(self, selected: str, search: str, notes: str, consent: str) -> Changes:
        """Save the notes, and the note on the consent."""
        self.service.people.set_notes(selected, notes or "", consent or "")
        return {
            **self.show(selected, search),
            self.note: markup.note("The notes are saved.", "good", people_changed=True),
        }

    def export(self, selected: str, layout: str) -> Changes:
        """Offer links that hold the files."""
        return {self.links: markup.downloads(self.service.import_export.export(selected, _EXPORTS[layout]))}

    def copy_to_embeddings(self, selected: str) -> Changes:
        """Write a copy into the host's embeddings folder, which works without this extension."""
        paths = self.service.import_export.to_host(selected)
        return {self.note: markup.note(f"Saved to {', '.join(str(path) for path in paths)}.", "good")}

    def ask(self, selected: str, with_blends: bool) -> Changes:
        """List what would be deleted, with the buttons to confirm or cancel."""
        if not selected:
            return {self.confirmation: update(visible=False), self.traces: ""}
        traces = self.service.people.traces(selected, mixtures=bool(with_blends))
        return {self.confirmation: update(visible=True), self.traces: markup.deletion(traces)}

    def cancel(self) -> Changes:
        """Delete nothing."""
        return {self.confirmation: update(visible=False)}

    def delete(self, selected: str, search: str, with_blends: bool) -> Changes:
        """Delete the selected person with everything derived, which the user has confirmed."""
        deleted = self.service.people.delete(selected, mixtures=bool(with_blends))
        note = markup.note(deleted.sentence(), "hint" if deleted.left else "good", people_changed=True)
        return {**self.show("", search), self.note: note}

    def import_people(self, files: Any, name: str, replace: bool, search: str) -> Changes:
        """Import files; unusable ones are reported, the others imported."""
        from celeb_basis.webui.import_export import split_off_celebbasis_basis  # not at the host's start

        given = components.uploads(files, spent=True)
        # The basis of the CelebBasis repository is no person: it gives the coefficients beside it their meaning.
        basis, people = split_off_celebbasis_basis(given)
        messages: list[tuple[str, NoteKind]] = []
        if not given:
            messages = [("Choose a file first.", "error")]
        elif not people:
            messages = [
                (
                    "This is the basis of the CelebBasis repository, not a person: import it together with its "
                    "coefficient files.",
                    "error",
                )
            ]
        single_name = (name or "").strip() if len(people) == 1 else ""
        last = ""
        for file_name, data in people:
            try:
                imported = self.service.import_export.import_file(
                    data, file_name, single_name or None, replace_existing=bool(replace), authors_basis=basis
                )
            except Exception as error:
                if not components.is_explained(error):
                    raise
                messages.append((str(error), "error"))
                continue
            for status in imported:
                last = status.name
                messages.append((f"{status.placeholder_token} is imported.", "good"))
        return {
            **self.show(last, search),
            self.import_files: None,
            self.import_note: markup.notes(messages, people_changed=bool(last)),
        }

    def _status(self, name: str) -> IdentityStatus | None:
        """A person; ``None`` for one who was removed since. A file under an unusable name comes with its problem."""
        try:
            return self.service.people.entry(name)
        except NoSuchPersonError:
            return None
        except IdentityError as error:
            path = dict(self.service.workspace.library.files()).get(name)
            return None if path is None else IdentityStatus(name, path, problem=str(error), reason=str(error))
