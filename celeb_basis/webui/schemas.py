"""Requests of the page and the API to the service, and its answers: plain data without gradio or fastapi."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from celeb_basis.errors import IdentityError, SettingsError, TrainingError
from celeb_basis.faces.network import DetectedFace, Pixels
from celeb_basis.files import checked_name
from celeb_basis.identities.identity import check_note
from celeb_basis.settings import AUTO, EvaluationDefaults, TrainingSettings, if_prepared, preset


class NoSuchPersonError(IdentityError):
    """No identity in the library has this name."""


class NoSuchJobError(TrainingError):
    """No job has this id."""


class BusyError(IdentityError):
    """A job is working on the identity."""


class NameTakenError(IdentityError):
    """The name already belongs to an identity or an embedding."""


MAX_PEOPLE = 32
"""People of one run. They share a head and its steps; more are better learned one after another."""
MAX_PHOTOS = 64
"""Photos of one person."""
MAX_PREVIEWS = 4
"""Images of one blend that is not saved."""
MAX_INVENTED = 36
"""People of one sheet."""


@dataclass(frozen=True)
class UploadedPhoto:
    """One photo, still in memory, and which of its faces is the person's."""

    data: bytes | Pixels
    """The content of a picture file, or upright ``(H, W, 3)`` RGB pixels."""
    name: str = "photo"
    """File name, for messages."""
    face: int | None = None
    """Counted from 0 by decreasing size, as :class:`FoundFaces` lists them; the largest if ``None``."""

    def file_content(self) -> bytes:
        """The content of a picture file with the photo."""
        if isinstance(self.data, bytes):
            return self.data
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.data).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


@dataclass(frozen=True)
class PhotoUpload:
    """A :class:`~celeb_basis.training.run.PhotoInput` whose photos are not files yet."""

    name: str
    photos: tuple[UploadedPhoto, ...]


@dataclass(frozen=True)
class LearnRequest:
    """A run: people who are learned together and share its head."""

    people: tuple[PhotoUpload, ...]
    preset: str = AUTO
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the preset's settings; values may be text."""
    consent: bool = False
    """Whether the user states that everyone shown has agreed. Without it nobody is learned."""
    consent_note: str = ""
    """Saved in the identities; a standard sentence if empty."""
    notes: str = ""
    replace: bool = False
    """Whether identities of the same names are replaced."""
    accept_licence: bool = False
    """Whether the user agrees to the license of the face models, in case they have to be downloaded."""
    preview_every: int | None = None
    """Steps between two previews, 0 for none; what the settings page says if ``None``."""
    likeness: bool | None = None
    """Whether the likeness is measured at the end; what the settings page says if ``None``."""

    def learn_settings(self) -> TrainingSettings:
        """The preset with the changes.

        Raises:
            SettingsError: A preset or setting is unknown, or a value is out of its range.
        """
        return preset(self.preset).changed(self.settings)

    def settings_if_prepared(self) -> TrainingSettings | None:
        """What takes their place where the checkpoint is prepared, if the choice was left open.

        Raises:
            SettingsError: As :meth:`learn_settings`.
        """
        return if_prepared(self.preset, self.settings)

    def check(self) -> None:
        """Raise an error that says what is wrong with the request. Photos are not looked at.

        Raises:
            TrainingError: There are too few or too many people or photos, or consent is missing.
            IdentityError: A name is unusable.
            SettingsError: A preset or setting is unknown, or a value is out of its range.
        """
        if not self.people:
            raise TrainingError("There is nobody to learn: give at least one person with a photo.")
        if len(self.people) > MAX_PEOPLE:
            raise TrainingError(f"{len(self.people)} people are too many for one run: give at most {MAX_PEOPLE}.")
        seen: set[str] = set()
        for person in self.people:
            name = checked_name(person.name)
            if name.casefold() in seen:
                raise TrainingError(f"Two people are both called {name!r}: give each a different name.")
            seen.add(name.casefold())
            if not person.photos:
                raise TrainingError(f"{name} has no photo: give at least one with a clear face.")
            if len(person.photos) > MAX_PHOTOS:
                raise TrainingError(f"{name} has {len(person.photos)} photos: give at most {MAX_PHOTOS}.")
        if not self.consent:
            raise TrainingError(
                "Consent is missing: confirm that everyone in the photos has agreed to this, then start again."
            )
        self.learn_settings()
        check_note(self.consent_note, "note on consent")
        check_note(self.notes, "notes")


@dataclass(frozen=True)
class SavedRun:
    """A run that ended before its last step, and can be resumed or discarded."""

    id: str
    """The id of its job."""
    people: tuple[str, ...]
    """Names of the people that it learns."""
    checkpoint: str
    """The checkpoint that it has to go on with; empty while no step was saved: it then begins again on any."""
    step: int
    """Steps that are saved."""
    steps: int
    """Steps in total; 0 if that is unknown."""
    when: str
    """When it was saved, as ISO 8601 in UTC."""
    running: bool = False
    """Whether another program, such as a second WebUI, is running it now: it can be resumed or discarded after that."""

    @property
    def name(self) -> str:
        """The names of its people, for a list."""
        return ", ".join(self.people)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"name": self.name, **asdict(self), "people": list(self.people)}


@dataclass(frozen=True)
class EvaluateRequest:
    """Measuring one identity on a grid of prompts."""

    name: str
    photos: tuple[UploadedPhoto, ...] = ()
    """Real photos to compare with; the identity's thumbnail if there are none."""
    kinds: tuple[str, ...] = ()
    """Kinds of :data:`~celeb_basis.evaluation.prompts.EVALUATION_PROMPTS`; all if empty."""
    prompts: int = EvaluationDefaults.prompts
    """How many of the prompts, from the first; 0 takes all."""
    seeds: int = EvaluationDefaults.seeds
    """Images for each prompt."""
    seed: int = EvaluationDefaults.seed
    steps: int = EvaluationDefaults.steps
    guidance: float = EvaluationDefaults.guidance
    accept_licence: bool = False
    """As in :class:`LearnRequest`."""

    def check(self) -> None:
        """Raise an error that says what is wrong with the numbers.

        Raises:
            SettingsError: A number is out of its range, or a kind of prompts is unknown.
        """
        _check_ranges(
            self,
            ("prompts", 0, 1000),
            ("seeds", 1, 64),
            ("seed", 0, 2**32 - 1),
            ("steps", 1, 150),
            ("guidance", 0, 50),
        )
        from celeb_basis.evaluation.prompts import (
            EVALUATION_PROMPTS,  # not at the host's start: it brings the whole package
        )

        if unknown := [kind for kind in self.kinds if kind not in EVALUATION_PROMPTS]:
            raise SettingsError(
                f"There is no kind of prompts {unknown[0]!r}: choose from {', '.join(EVALUATION_PROMPTS)}."
            )


@dataclass(frozen=True)
class BlendRequest:
    """A weighted mean of identities, then moved toward the mean of all celebrities or toward one of them, and steered."""

    parts: tuple[tuple[str, float], ...]
    """Names and weights."""
    name: str
    toward_mean: float = 0.0
    toward_celebrity: str = ""
    celebrity_amount: float = 0.0
    keep_radius: bool = True
    """Whether the blend keeps its parts' distance from the mean: a plain blend looks more average."""
    replace: bool = False
    celebrities: tuple[tuple[str, float], ...] = ()
    """To whom it is steered, with strengths from -1 (away) to 1."""
    groups: tuple[tuple[str, float], ...] = ()
    """Along which groups of the list of names it is steered, with strengths from -1 (away) to 1."""


@dataclass(frozen=True)
class PreviewRequest:
    """Images of a blend that is not saved."""

    blend: BlendRequest
    """Its name may be empty."""
    prompt: str = "a photo of {}"
    """``{}`` is where the blend's placeholder token goes."""
    count: int = 1
    seed: int = 0
    steps: int = 20
    guidance: float = 7.5

    def check(self) -> None:
        """Raise an error that says what is wrong with the numbers or the prompt.

        Raises:
            SettingsError: A number is out of its range, or the prompt has no ``{}``.
        """
        _check_ranges(self, ("count", 1, MAX_PREVIEWS), ("seed", 0, 2**32 - 1), ("steps", 1, 150), ("guidance", 0, 50))
        if "{}" not in self.prompt:
            raise SettingsError("The prompt has no {}: put it where the blended person is to appear.")


@dataclass(frozen=True)
class InventRequest:
    """A sheet of people who do not exist."""

    way: str = "mixed"
    """A :data:`~celeb_basis.identities.invention.Way`."""
    groups: tuple[str, ...] = ()
    leaning: float = 1.0
    distance: float = 1.0
    alike: float = 0.7
    unlike: float = 0.4
    sheet: str = ""
    """The id of the job whose people ``more``, ``less`` and ``keep`` number, from 1."""
    more: tuple[int, ...] = ()
    less: tuple[int, ...] = ()
    keep: tuple[int, ...] = ()
    """People who stay where they are; their images are not generated again."""
    count: int = 9
    seed: int = -1
    """Of the first person; the others follow. -1 chooses one."""
    prompt: str = "a photo of {}"
    """``{}`` is where the person's placeholder token goes."""
    picture_seed: int = 0
    """Of every image, so that they differ by the person alone."""
    steps: int = 20
    guidance: float = 7.5

    def check(self) -> None:
        """Raise an error that says what is wrong with the numbers, the marks or the prompt.

        Raises:
            SettingsError: A number is out of its range, marks contradict each other, or the prompt has no ``{}``.
        """
        _check_ranges(
            self,
            ("count", 1, MAX_INVENTED),
            ("seed", -1, 2**32 - 1 - MAX_INVENTED),
            ("picture_seed", 0, 2**32 - 1),
            ("steps", 1, 150),
            ("guidance", 0, 50),
        )
        if both := sorted(set(self.more) & set(self.less)):
            raise SettingsError(f"Number {both[0]} is marked both more and less: choose one of the two.")
        if "{}" not in self.prompt:
            raise SettingsError("The prompt has no {}: put it where the invented person is to appear.")
        if (self.more or self.less or self.keep) and not self.sheet:
            raise SettingsError("People are marked, but of no sheet: say which job made it.")


def _check_ranges(request: EvaluateRequest | PreviewRequest | InventRequest, *ranges: tuple[str, float, float]) -> None:
    for name, low, high in ranges:
        if not low <= getattr(request, name) <= high:
            raise SettingsError(f"{name} is {getattr(request, name)}: choose a value from {low} to {high}.")


@dataclass(frozen=True)
class FoundFace:
    """A face in a photo, with warnings about what may cost likeness."""

    face: DetectedFace
    warnings: tuple[str, ...]
    aligned: Pixels | None = None
    """Its aligned crop, from which :meth:`~celeb_basis.webui.face_models.FaceModels.vector` makes the face vector."""

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
    """The faces of a photo."""

    picture: Pixels
    """``(H, W, 3)`` upright RGB; boxes and landmarks are in its pixels."""
    faces: tuple[FoundFace, ...]
    """Largest first."""
    problem: str
    """Why no face can be used and what to do; else empty."""

    def within(self, side: int) -> FoundFaces:
        """The same in a picture of at most ``side`` pixels a side, which is all that a page shows."""
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
