"""*People*: everybody in the library, and what can be done with one of them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Literal

from celeb_basis.errors import IdentityError
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.webui.people import split_off_celebbasis_basis
from celeb_basis.webui.schemas import NoSuchPersonError
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import gradio, on, own, update

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

MOST_CARDS = 60
"""Cards on the page; a search finds the others among thousands."""
_PICK = "celeb_basis_pick_person"
_NOBODY = '<p class="quiet">Choose somebody to see more of them.</p>'


class PeopleTab:
    """Lays the sub-tab out and answers its events."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def build(self, tab: Any) -> None:
        """Make the components, inside ``tab``."""
        chosen = gradio.State("")
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                with gradio.Row(elem_classes=["celeb-basis-line"]):
                    search = own(gradio.Textbox(label="Search", placeholder="a part of a name", scale=4, max_lines=1))
                    refresh = gradio.Button("Refresh", size="sm", scale=1, min_width=80)
                cards = gradio.HTML("", elem_id="celeb_basis_people")
                with gradio.Accordion("Import", open=False, elem_id="celeb_basis_import"):
                    imports = self._import_part()
            with gradio.Column(scale=4, elem_classes=["celeb-basis-side"]):
                about = gradio.HTML(_NOBODY, elem_id="celeb_basis_person")
                with gradio.Column(visible=False) as actions:
                    parts = self._actions_part()
                note = components.message("celeb_basis_people_note")
        pick = components.hidden_text(_PICK)
        notes = [parts["notes"], parts["consent"]]
        shown = [chosen, cards, about, actions, parts["new_name"], *notes, parts["links"], parts["sure"]]
        everything = [chosen, search]
        on(tab.select, self.show, everything, shown, note=note, quiet=True)
        on(refresh.click, self.show, everything, shown, note=note)
        on(search.input, self.cards, everything, [cards], note=note, quiet=True)
        on(pick.input, self.choose, [pick, search], shown, note=note, quiet=True)
        on(parts["rename"].click, self.rename, [*everything, parts["new_name"]], shown, note=note)
        on(parts["save"].click, self.save_notes, [*everything, *notes], shown, note=note)
        on(parts["export"].click, self.export, [chosen, parts["layout"]], [parts["links"]], note=note)
        on(parts["to_host"].click, self.export_to_host, [chosen], [], note=note)
        on(
            parts["delete"].click,
            self.ask,
            [chosen, parts["mixtures"]],
            [parts["sure"], parts["told"]],
            note=note,
            quiet=True,
        )
        on(parts["mixtures"].change, self.ask, [chosen, parts["mixtures"]], [parts["sure"], parts["told"]], quiet=True)
        on(parts["no"].click, lambda: update(visible=False), [], [parts["sure"]], quiet=True)
        on(parts["yes"].click, self.delete, [*everything, parts["mixtures"]], shown, note=note)
        files, name, replace, take = imports
        on(take.click, self.take, [files, name, replace, search], [*shown, files], note=note, cleared=files)

    def _import_part(self) -> tuple[Any, Any, Any, Any]:
        files = own(
            gradio.File(
                label="Identity files, or textual inversions of any tool (.safetensors, .pt, .bin)",
                file_count="multiple",
                elem_id="celeb_basis_import_files",
                height=140,
            )
        )
        name = own(gradio.Textbox(label="Name", placeholder="as the file says; only for a single file"))
        replace = own(gradio.Checkbox(False, label="Replace people of the same names"))
        return files, name, replace, gradio.Button("Import", elem_id="celeb_basis_import_go")

    def _actions_part(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            made["new_name"] = own(
                gradio.Textbox(label="New name", elem_id="celeb_basis_new_name", scale=3, max_lines=1)
            )
            made["rename"] = gradio.Button("Rename", size="sm", scale=1, min_width=80, elem_id="celeb_basis_rename")
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            with gradio.Column(scale=3):
                made["notes"] = own(gradio.Textbox(label="Notes", lines=2, elem_id="celeb_basis_notes"))
                made["consent"] = own(
                    gradio.Textbox(
                        label="Consent",
                        placeholder="who agreed, when and how",
                        max_lines=3,
                        elem_id="celeb_basis_consent_kept",
                    )
                )
            made["save"] = gradio.Button(
                "Save notes", size="sm", scale=1, min_width=80, elem_id="celeb_basis_save_notes"
            )
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            made["layout"] = own(
                gradio.Dropdown([*_layouts()], value=next(iter(_layouts())), label="Export as", scale=3)
            )
            made["export"] = gradio.Button("Export", size="sm", scale=1, min_width=80, elem_id="celeb_basis_export")
        made["links"] = gradio.HTML("", elem_id="celeb_basis_links")
        with gradio.Row():
            made["to_host"] = gradio.Button("Put into the embeddings folder", size="sm")
            made["delete"] = gradio.Button(
                "Delete with everything", size="sm", variant="stop", elem_id="celeb_basis_delete"
            )
        with gradio.Column(visible=False) as sure:
            made["told"] = gradio.HTML("", elem_id="celeb_basis_delete_told")
            made["mixtures"] = own(
                gradio.Checkbox(True, label="Mixtures of this person too", elem_id="celeb_basis_delete_mixtures")
            )
            with gradio.Row():
                made["yes"] = gradio.Button(
                    "Delete for good", size="sm", variant="stop", elem_id="celeb_basis_delete_yes"
                )
                made["no"] = gradio.Button("Keep", size="sm", elem_id="celeb_basis_delete_no")
        made["sure"] = sure
        return made

    def cards(self, chosen: str, search: str) -> str:
        """Everybody whose name holds ``search``; only those that are shown are read."""
        wanted = (search or "").casefold().strip("<> ")
        everybody = self.service.workspace.library.names()
        names = [name for name in everybody if wanted in name.casefold()]
        people = self.service.people.entries_of(names[:MOST_CARDS])
        total = len(names) or len(everybody)
        return markup.cards(people, chosen, _PICK, total)

    def _entry(self, name: str) -> IdentityStatus | None:
        """Somebody; ``None`` for who was removed in the meantime. A file that somebody put there under a name of no use
        is told with its problem.
        """
        try:
            return self.service.people.entry(name)
        except NoSuchPersonError:
            return None
        except IdentityError as error:
            path = dict(self.service.workspace.library.files()).get(name)
            return None if path is None else IdentityStatus(name, path, problem=str(error), reason=str(error))

    def show(self, chosen: str, search: str) -> tuple[Any, ...]:
        """All components for the chosen person, or for nobody."""
        entry = self._entry(chosen) if chosen else None
        chosen = "" if entry is None else chosen
        kept = entry.identity.metadata if entry is not None and entry.identity is not None else None
        return (
            chosen,
            self.cards(chosen, search),
            markup.person(entry) if entry is not None else _NOBODY,
            update(visible=entry is not None),
            chosen,
            kept.notes if kept is not None else "",
            kept.consent if kept is not None else "",
            "",
            update(visible=False),
        )

    def choose(self, name: str, search: str) -> tuple[Any, ...]:
        """Look at somebody."""
        return self.show(components.picked(name), search)

    def rename(self, chosen: str, search: str, new_name: str) -> tuple[Any, ...]:
        """Give the chosen person another name."""
        entry = self.service.people.rename(chosen, new_name or "")
        return *self.show(entry.name, search), markup.note(
            f"Now called {entry.placeholder_token}.", "good"
        ) + markup.changed()

    def save_notes(self, chosen: str, search: str, notes: str, consent: str) -> tuple[Any, ...]:
        """Keep other notes, and another note on the consent."""
        self.service.people.set_notes(chosen, notes or "", consent or "")
        return *self.show(chosen, search), markup.note("The notes are saved.", "good") + markup.changed()

    def ask(self, chosen: str, mixtures: bool) -> tuple[Any, ...]:
        """Say what deleting would delete, with the buttons that do it or do not."""
        if not chosen:
            return update(visible=False), ""
        told = self.service.people.traces(chosen, mixtures=bool(mixtures)).sentence()
        kept = "Pictures that you drew with the WebUI itself stay in its output folders: they are yours to delete."
        return update(visible=True), markup.note(f"{told} {kept}", "error")

    def delete(self, chosen: str, search: str, mixtures: bool) -> tuple[Any, ...]:
        """Remove the chosen person with everything derived, which was asked before."""
        deleted = self.service.people.delete(chosen, mixtures=bool(mixtures))
        kind: Literal["hint", "good"] = "hint" if deleted.left else "good"
        return *self.show("", search), markup.note(deleted.sentence(), kind) + markup.changed()

    def export(self, chosen: str, layout: str) -> tuple[Any, ...]:
        """Links that hold the files."""
        links = []
        for name, data in self.service.import_export.export(chosen, _layouts()[layout]):
            uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode("ascii")
            links.append(f'<a download="{markup.text(name)}" href="{uri}">Download {markup.text(name)}</a>')
        return f'<p class="celeb-basis-links">{"<br>".join(links)}</p>', ""

    def export_to_host(self, chosen: str) -> str:
        """A copy that works without this extension."""
        paths = self.service.import_export.to_host(chosen)
        return markup.note(f"Written to {', '.join(str(path) for path in paths)}.", "good")

    def take(self, files: Any, name: str, replace: bool, search: str) -> tuple[Any, ...]:
        """Import files; those of no use are told and the others taken."""
        given = components.uploads(files, spent=True)
        if not given:
            return *self.show("", search), None, markup.note("Give a file first.", "error")
        # The authors' basis is nobody: it tells what the coefficients beside it mean.
        basis, given = split_off_celebbasis_basis(given)
        if not given:
            text = "This is the authors' basis and no person: give it together with their coefficient files."
            return *self.show("", search), None, markup.note(text, "error")
        own_name = (name or "").strip() if len(given) == 1 else ""
        told, last = "", ""
        for file_name, data in given:
            try:
                taken = self.service.import_export.import_file(
                    data, file_name, own_name or None, replace_existing=bool(replace), authors_basis=basis
                )
            except Exception as error:
                if not components.explained(error):
                    raise
                told += markup.note(str(error), "error")
                continue
            for entry in taken:
                last = entry.name
                told += markup.note(f"{entry.placeholder_token} is here.", "good") + markup.changed()
        return *self.show(last, search), None, told


def _layouts() -> dict[str, str]:
    """What the page calls a layout, and what the service calls it."""
    from celeb_basis.exports.textual_inversion import LAYOUTS

    return {"Identity file, with everything": "identity"} | {rules.tool: key for key, rules in LAYOUTS.items()}
