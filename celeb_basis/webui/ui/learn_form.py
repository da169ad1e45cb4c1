"""What a visitor has put together on the Learn tab and not yet started: people, photos, chosen faces. No gradio here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from celeb_basis.errors import TrainingError
from celeb_basis.settings import TrainingSettings, preset
from celeb_basis.webui.schemas import FoundFaces, LearnRequest, PhotoUpload, UploadedPhoto
from celeb_basis.webui.ui.markup import PHOTO_SIDE


@dataclass
class DraftPhoto:
    """A photo with the faces that were found, and the one that is meant."""

    name: str
    data: bytes
    found: FoundFaces
    """In a picture as small as the page shows it: a host keeps every visitor's draft for as long as it runs."""
    face: int = 0
    """Counted from 0 by falling size."""


@dataclass
class DraftPerson:
    """Somebody to be learned."""

    name: str = ""
    photos: list[DraftPhoto] = field(default_factory=list)
    shown: int = 0
    """The photo that is looked at."""

    @property
    def photo(self) -> DraftPhoto | None:
        """The photo that is looked at."""
        return self.photos[self.shown] if 0 <= self.shown < len(self.photos) else None

    def add_photo(self, name: str, data: bytes, found: FoundFaces) -> None:
        """One more photo; it is shown."""
        self.photos.append(DraftPhoto(name, data, found.within(PHOTO_SIDE)))
        self.shown = len(self.photos) - 1


@dataclass
class Draft:
    """Everybody to be learned in one run; never empty."""

    people: list[DraftPerson] = field(default_factory=lambda: [DraftPerson()])
    current: int = 0
    looked_at: list[str] = field(default_factory=list)
    """Names of the photos in which faces are being looked for now: handlers run beside each other."""

    @property
    def person(self) -> DraftPerson:
        """The person that is being edited."""
        return self.people[self.current]

    def labels(self) -> list[str]:
        """One label a person: the number keeps them apart while they have no names."""
        return [f"{number}: {person.name or 'no name yet'}" for number, person in enumerate(self.people, 1)]

    def photo_labels(self) -> list[str]:
        """One label a photo of the person that is being edited."""
        return [f"{number}: {photo.name}" for number, photo in enumerate(self.person.photos, 1)]

    def add_person(self) -> None:
        """One more person, who is edited now."""
        self.people.append(DraftPerson())
        self.current = len(self.people) - 1

    def remove_person(self) -> None:
        """Take the person that is being edited out."""
        del self.people[self.current]
        if not self.people:
            self.people.append(DraftPerson())
        self.current = min(self.current, len(self.people) - 1)

    def clear(self) -> None:
        """Start anew, in place: a second click on the same button finds nothing to start."""
        self.people[:] = [DraftPerson()]
        self.current = 0

    def remove_photo(self) -> None:
        """Take the shown photo out."""
        person = self.person
        if person.photo is not None:
            del person.photos[person.shown]
            person.shown = max(0, min(person.shown, len(person.photos) - 1))

    def choose_face(self, number: str) -> None:
        """Mean the face with this number, counted from 1 as on the drawn photo; anything else is ignored."""
        photo = self.person.photo
        if photo is not None and number.strip().isdecimal() and 1 <= int(number) <= len(photo.found.faces):
            photo.face = int(number) - 1

    def request(
        self,
        preset: str,
        settings: Mapping[str, Any],
        *,
        consent: bool,
        consent_note: str = "",
        notes: str = "",
        replace: bool = False,
    ) -> LearnRequest:
        """What the service is asked for. People without name and photos are left out if there are others.

        Raises: :class:`TrainingError` while faces are looked for: those photos would be missing.
        """
        if self.looked_at:
            raise TrainingError(
                f"Faces are still being looked for in {self.looked_at[0]}: wait a moment, and press Learn."
            )
        people = [person for person in self.people if person.name.strip() or person.photos] or self.people
        return LearnRequest(
            people=tuple(
                PhotoUpload(
                    person.name.strip(),
                    tuple(UploadedPhoto(photo.data, photo.name, photo.face) for photo in person.photos),
                )
                for person in people
            ),
            preset=preset,
            settings=dict(settings),
            consent=consent,
            consent_note=consent_note.strip(),
            notes=notes.strip(),
            replace=replace,
        )


def position(labels: Sequence[str], label: str) -> int:
    """Where ``label`` stands; 0 if it is unknown, as after somebody was renamed."""
    return labels.index(label) if label in labels else 0


# FOLDED: The form of advanced settings, from the settings' own metadata. No gradio here.


@dataclass(frozen=True)
class FormField:
    """One setting as a form shows it."""

    name: str
    label: str
    kind: Literal["switch", "choice", "whole", "number"]
    default: Any
    info: str
    """Help text with the range."""
    choices: tuple[str, ...] = ()


def form_fields() -> tuple[FormField, ...]:
    """Every learning setting in its order."""
    hints = get_type_hints(TrainingSettings)
    return tuple(_field(item.name, hints[item.name], item.default, item.metadata) for item in fields(TrainingSettings))


def preset_values(name: str) -> list[Any]:
    """The values of a preset, in the fields' order.

    Raises: :class:`SettingsError` if there is no such preset.
    """
    settings = preset(name)
    return [getattr(settings, item.name) for item in fields(TrainingSettings)]


def changes(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """The settings that differ from the preset ``name``; an emptied field counts as the preset's own value.

    Raises: :class:`SettingsError` for an unknown preset.
    """
    own = preset_values(name)
    pairs = zip(form_fields(), values, own, strict=True)
    return {field.name: _plain(field, value) for field, value, usual in pairs if value not in (None, "", usual)}


def _field(name: str, kind: Any, default: Any, metadata: Mapping[str, Any]) -> FormField:
    label = name.replace("_", " ").capitalize()
    text = str(metadata["help"])
    text = text[0].upper() + text[1:]
    if choices := get_args(kind):
        return FormField(name, label, "choice", default, text, tuple(map(str, choices)))
    if kind is bool:
        return FormField(name, label, "switch", default, text)
    low, high = metadata["low"], metadata["high"]
    reach = f"{text} ({_shown(low)} to {_shown(high)})"
    return FormField(name, label, "whole" if kind is int else "number", default, reach)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _plain(field: FormField, value: Any) -> Any:
    # A number field of the page answers 400.0 for 400 in some versions of gradio.
    if field.kind == "whole" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
