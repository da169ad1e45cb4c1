"""What page and API ask of the service, and what they get back: plain data without gradio or fastapi."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from celeb_basis.errors import IdentityError, SettingsError, TrainingError
from celeb_basis.evaluation.prompts import EVALUATION_PROMPTS
from celeb_basis.faces.types import DetectedFace, Pixels
from celeb_basis.files import checked_name
from celeb_basis.settings import TrainingSettings, preset


class NoSuchPersonError(IdentityError):
    """Nobody in the library is called so."""


class NoSuchJobError(TrainingError):
    """No job has this id."""


class BusyError(IdentityError):
    """A job is at work on the person."""


class NameTakenError(IdentityError):
    """The name belongs to somebody or something else."""


MAX_PEOPLE = 32
"""People of one run. They share a head and its steps; more are better learned one after the other."""
MAX_PHOTOS = 64
"""Photos of one person."""


@dataclass(frozen=True)
class PhotoToLearn:
    """One photo, and which of its faces is the person's."""

    data: bytes | Pixels
    """A picture file's content, or upright RGB pixels."""
    name: str = "photo"
    """File name, for messages."""
    face: int | None = None
    """Counted from 0 by falling size, as :class:`FoundFaces` lists them; the largest if ``None``."""

    def file_content(self) -> bytes:
        """The photo as a picture file's content."""
        if isinstance(self.data, bytes):
            return self.data
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.data).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


@dataclass(frozen=True)
class PersonToLearn:
    """Somebody to learn."""

    name: str
    photos: tuple[PhotoToLearn, ...]


@dataclass(frozen=True)
class LearnRequest:
    """A run: people who are learned together and share its head."""

    people: tuple[PersonToLearn, ...]
    preset: str = "balanced"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the preset's settings; values may be text."""
    consent: bool = False
    """Whether the user states that everybody shown agrees. Nobody is learned without."""
    consent_note: str = ""
    """Kept in the identities, with the statement."""
    notes: str = ""
    replace: bool = False
    """Whether identities of the same names are replaced."""
    accept_licence: bool = False
    """Whether the user agrees to the licence of the face models, should they have to be downloaded."""
    preview_every: int | None = None
    """Steps between two preview pictures, 0 for none; what the settings page says if ``None``."""

    def learn_settings(self) -> TrainingSettings:
        """The preset with the changes.

        Raises: :class:`SettingsError` for an unknown preset or setting, or a value out of its range.
        """
        return preset(self.preset).changed(self.settings)

    def check(self) -> None:
        """Raise the sentence that says what is wrong with the request, without looking at the photos.

        Raises: :class:`TrainingError`, :class:`IdentityError`, :class:`SettingsError`.
        """
        if not self.people:
            raise TrainingError("There is nobody to learn: give at least one person with a photo.")
        if len(self.people) > MAX_PEOPLE:
            raise TrainingError(f"{len(self.people)} people are too many for one run: give at most {MAX_PEOPLE}.")
        seen: set[str] = set()
        for person in self.people:
            name = checked_name(person.name)
            if name.casefold() in seen:
                raise TrainingError(f"Two people are both called {name!r}: give each a name of their own.")
            seen.add(name.casefold())
            if not person.photos:
                raise TrainingError(f"{name} has no photo: give at least one with a clear face.")
            if len(person.photos) > MAX_PHOTOS:
                raise TrainingError(f"{name} has {len(person.photos)} photos: give at most {MAX_PHOTOS}.")
        if not self.consent:
            raise TrainingError(
                "Consent is missing: confirm that everybody in the photos agrees to being learned, then start again."
            )
        self.learn_settings()


@dataclass(frozen=True)
class EvaluateRequest:
    """The three figures for one person on a grid of prompts."""

    name: str
    photos: tuple[PhotoToLearn, ...] = ()
    """Real photos to compare with; the identity's thumbnail if there are none."""
    kinds: tuple[str, ...] = ()
    """Kinds of ``judging.EVALUATION_PROMPTS``; all if empty."""
    prompts: int = 0
    """Only the first so many; 0 takes all."""
    seeds: int = 1
    """Pictures of each prompt."""
    seed: int = 0
    steps: int = 30
    guidance: float = 7.5
    accept_licence: bool = False
    """As in :class:`LearnRequest`."""

    def check(self) -> None:
        """Raise the sentence that says what is wrong with the numbers.

        Raises: :class:`SettingsError`.
        """
        ranges = (
            ("prompts", 0, 1000),
            ("seeds", 1, 64),
            ("seed", 0, 2**32 - 1),
            ("steps", 1, 150),
            ("guidance", 0, 50),
        )
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise SettingsError(f"{name} is {getattr(self, name)}: choose a value from {low} to {high}.")
        if unknown := [kind for kind in self.kinds if kind not in EVALUATION_PROMPTS]:
            raise SettingsError(
                f"There is no kind of prompts {unknown[0]!r}: choose from {', '.join(EVALUATION_PROMPTS)}."
            )


@dataclass(frozen=True)
class FoundFace:
    """A face in a photo, with what may keep it from giving a good likeness."""

    face: DetectedFace
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "box": list(self.face.box),
            "landmarks": self.face.landmarks.tolist(),
            "score": self.face.score,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class FoundFaces:
    """What was found in a photo."""

    picture: Pixels
    """``(H, W, 3)`` upright RGB; boxes and landmarks are in its pixels."""
    faces: tuple[FoundFace, ...]
    """Largest first."""
    problem: str
    """The sentence that says that nothing was found and what to do; else empty."""

    def within(self, side: int) -> FoundFaces:
        """The same in a picture of at most ``side`` pixels a side: all that a page shows of it."""
        from PIL import Image

        height, width = self.picture.shape[:2]
        scale = side / max(height, width)
        if scale >= 1:
            return self
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        smaller = np.asarray(Image.fromarray(self.picture).resize(size, Image.Resampling.LANCZOS))
        x, y = size[0] / width, size[1] / height

        def scaled(face: DetectedFace) -> DetectedFace:
            left, top, right, bottom = face.box
            landmarks = (face.landmarks * (x, y)).astype(face.landmarks.dtype)
            return replace(face, box=(left * x, top * y, right * x, bottom * y), landmarks=landmarks)

        faces = tuple(replace(one, face=scaled(one.face)) for one in self.faces)
        return replace(self, picture=smaller, faces=faces)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, without the picture."""
        height, width = self.picture.shape[:2]
        faces = [{"index": index, **one.as_dict()} for index, one in enumerate(self.faces)]
        return {"width": width, "height": height, "faces": faces, "problem": self.problem}
