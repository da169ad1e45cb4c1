"""The state of the Learn tab's form: people with photos and selected faces, and the advanced settings. No gradio here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from celeb_basis.errors import TrainingError
from celeb_basis.faces.network import Floats
from celeb_basis.faces.portraits import different_people
from celeb_basis.settings import PRESET_NAMES, TrainingSettings, preset
from celeb_basis.webui.schemas import FoundFace, FoundFaces, LearnRequest, PhotoUpload, UploadedPhoto
from celeb_basis.webui.ui.markup import PHOTO_SIDE

PRESET_LABELS = {
    "auto": "Automatic",
    "quick": "Quick",
    "balanced": "Balanced",
    "best": "Best",
    "paper": "As in the paper",
}

# People and photos


@dataclass
class DraftPhoto:
    """An uploaded photo with its faces, one of which is selected."""

    name: str
    data: bytes
    found: FoundFaces
    """In a copy of the photo as small as the page shows it: a host keeps every user's draft for as long as it runs."""
    face: int = 0
    """Index of the selected face; faces are in order of size, the largest first."""
    vectors: dict[int, Floats] = field(default_factory=dict)
    """Face vectors that were computed, by the face's index."""

    def vector(self, compute: Callable[[FoundFace], Floats]) -> Floats:
        """``(512,)`` face vector of the selected face; ``compute`` is called once for each face."""
        if self.face not in self.vectors:
            self.vectors[self.face] = compute(self.found.faces[self.face])
        return self.vectors[self.face]


@dataclass
class DraftPerson:
    """A person to be learned."""

    name: str = ""
    photos: list[DraftPhoto] = field(default_factory=list)
    shown: int = 0
    """Index of the photo that is shown."""

    @property
    def photo(self) -> DraftPhoto | None:
        """The photo that is shown."""
        return self.photos[self.shown] if 0 <= self.shown < len(self.photos) else None

    def likeness_warnings(self, compute: Callable[[FoundFace], Floats]) -> tuple[str, ...]:
        """A sentence for each photo whose selected face seems to be another person's.

        Args:
            compute: Computes the ``(512,)`` face vector of a face.
        """
        photos = [photo for photo in self.photos if photo.found.faces]
        if len(photos) < 2:
            return ()
        return different_people([photo.name for photo in photos], [photo.vector(compute) for photo in photos])

    def add_photo(self, name: str, data: bytes, found: FoundFaces) -> None:
        """Add a photo and show it."""
        self.photos.append(DraftPhoto(name, data, found.within(PHOTO_SIDE)))
        self.shown = len(self.photos) - 1


@dataclass
class Draft:
    """The people of a run that has not started yet; there is always at least one."""

    people: list[DraftPerson] = field(default_factory=lambda: [DraftPerson()])
    current: int = 0
    detecting: list[str] = field(default_factory=list)
    """Names of the photos in which faces are being detected: handlers run concurrently."""

    @property
    def person(self) -> DraftPerson:
        """The person who is being edited."""
        return self.people[self.current]

    def labels(self) -> list[str]:
        """A label for each person; the numbers tell people without a name apart."""
        return [f"{number}: {person.name or 'no name yet'}" for number, person in enumerate(self.people, 1)]

    def add_person(self) -> None:
        """Add a person and edit them."""
        self.people.append(DraftPerson())
        self.current = len(self.people) - 1

    def remove_person(self) -> None:
        """Remove the person who is being edited."""
        del self.people[self.current]
        if not self.people:
            self.people.append(DraftPerson())
        self.current = min(self.current, len(self.people) - 1)

    def clear(self) -> None:
        """Remove everyone, in place, so that a second click on the same button finds nothing to start."""
        self.people[:] = [DraftPerson()]
        self.current = 0

    def remove_photo(self) -> None:
        """Remove the photo that is shown."""
        person = self.person
        if person.photo is not None:
            del person.photos[person.shown]
            person.shown = max(0, min(person.shown, len(person.photos) - 1))

    def select_face(self, number: str) -> None:
        """Select the face with this number, counted from 1 as on the page; anything else is ignored."""
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
        """The request for the service. People without a name and photos are left out if there are others.

        Raises:
            TrainingError: Faces are still being detected: those photos would be missing.
        """
        if self.detecting:
            raise TrainingError(
                f"Faces are still being detected in {self.detecting[0]}: wait a moment, then press Learn again."
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
    """Index of ``label``; 0 if it is unknown, as after a person was renamed."""
    return labels.index(label) if label in labels else 0


# Advanced settings


@dataclass(frozen=True)
class FormField:
    """A training setting as the form shows it."""

    name: str
    label: str
    kind: Literal["switch", "choice", "whole", "number"]
    default: Any
    info: str
    """Help text, with the range of a number."""
    choices: tuple[str, ...] = ()
    group: str = ""
    """The heading that it stands under."""


def form_fields() -> tuple[FormField, ...]:
    """The fields of all training settings, in their order."""
    hints = get_type_hints(TrainingSettings)
    return tuple(_field(item.name, hints[item.name], item.default, item.metadata) for item in fields(TrainingSettings))


def preset_choices(costs: Mapping[str, str]) -> list[tuple[str, str]]:
    """The presets, each with what it takes on a line of its own.

    Args:
        costs: What each takes, in a few words.
    """
    return [(f"{PRESET_LABELS.get(name, name)}\n{costs.get(name, '')}".strip(), name) for name in PRESET_NAMES]


def field_groups() -> dict[str, list[FormField]]:
    """The fields by the heading that they stand under."""
    groups: dict[str, list[FormField]] = {}
    for one in form_fields():
        groups.setdefault(one.group, []).append(one)
    return groups


def preset_values(name: str) -> list[Any]:
    """The values of a preset, in the fields' order; for *Automatic* those of the one that needs no preparation.

    Raises:
        SettingsError: There is no such preset.
    """
    settings = preset(name)
    return [getattr(settings, item.name) for item in fields(TrainingSettings)]


def changes(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """The settings that differ from a preset; an empty field counts as the preset's own value.

    Args:
        name: The preset.
        values: The values of the form, in the fields' order.

    Raises:
        SettingsError: There is no such preset.
    """
    triples = zip(form_fields(), values, preset_values(name), strict=True)
    return {field.name: _plain(field, value) for field, value, usual in triples if value not in (None, "", usual)}


def _field(name: str, kind: Any, default: Any, metadata: Mapping[str, Any]) -> FormField:
    label, group = str(metadata["label"] or name.replace("_", " ").capitalize()), str(metadata["group"])
    info = str(metadata["help"])
    info = info[0].upper() + info[1:]
    if choices := get_args(kind):
        return FormField(name, label, "choice", default, info, tuple(map(str, choices)), group)
    if kind is bool:
        return FormField(name, label, "switch", default, info, group=group)
    with_range = f"{info} ({_readable(metadata['low'])} to {_readable(metadata['high'])})"
    return FormField(name, label, "whole" if kind is int else "number", default, with_range, group=group)


def _readable(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _plain(field: FormField, value: Any) -> Any:
    # In some versions of gradio, a number field answers 400.0 for 400.
    if field.kind == "whole" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
