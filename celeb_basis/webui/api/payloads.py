"""Bodies of requests. Written so that pydantic 1.10 and 2 read them alike; ranges are checked by the service."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from pydantic import BaseModel, Field

from celeb_basis.errors import PhotoError
from celeb_basis.webui.schemas import LearnRequest, PhotoUpload, UploadedPhoto

MAX_FILE = 32 << 20
"""Bytes of one uploaded file."""

LICENCE = "you agree to the face models' licence (see GET face-models), should they have to be downloaded first"

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.+-]+)*;base64,", re.ASCII)


class Body(BaseModel):
    """A body in which an unknown field is an error, not a silent typing mistake."""

    class Config:
        extra = "forbid"


class PhotoBody(Body):
    """A photo."""

    data: str = Field(description="the picture file as base64, plain or as a data URL")
    name: str = Field("photo", description="file name, for messages")
    face: int | None = Field(None, description="which face, 0 is the largest; the largest if left out")


class FacesBody(PhotoBody):
    """A photo whose faces are wanted."""

    accept_licence: bool = Field(False, description=LICENCE)


class FaceModelsBody(Body):
    """The wish to have the face models here."""

    accept_licence: bool = Field(False, description=LICENCE)


class PersonBody(Body):
    """Somebody to learn."""

    name: str = Field(description="becomes the word <name>")
    photos: list[PhotoBody]


class EstimateBody(Body):
    """A run that might be started."""

    preset: str = Field("balanced", description="quick, balanced, best or paper")
    settings: dict[str, Any] = Field({}, description="changes to the preset; see GET settings")


class LearnBody(Body):
    """A run."""

    people: list[PersonBody]
    preset: str = Field("balanced", description="quick, balanced, best or paper")
    settings: dict[str, Any] = Field({}, description="changes to the preset; see GET settings")
    consent: bool = Field(False, description="everybody in the photos agrees; nobody is learned without")
    consent_note: str = ""
    notes: str = ""
    replace: bool = Field(False, description="replace people of the same names")
    accept_licence: bool = Field(False, description=LICENCE)
    preview_every: int | None = Field(
        None, description="steps between preview pictures; 0: none; as in the settings if left out"
    )

    def request(self) -> LearnRequest:
        """What the service takes."""
        people = tuple(
            PhotoUpload(
                person.name,
                tuple(
                    UploadedPhoto(decoded(photo.data, photo.name), photo.name, photo.face) for photo in person.photos
                ),
            )
            for person in self.people
        )
        return LearnRequest(
            people,
            preset=self.preset,
            settings=dict(self.settings),
            consent=self.consent,
            consent_note=self.consent_note,
            notes=self.notes,
            replace=self.replace,
            accept_licence=self.accept_licence,
            preview_every=self.preview_every,
        )


class RenameBody(Body):
    """Another name."""

    name: str


class NotesBody(Body):
    """Other notes; what is left out stays as it is."""

    notes: str | None = Field(None, description="other notes")
    consent_note: str | None = Field(None, description="another note on the consent: who agreed, when and how")


class FileBody(Body):
    """A file for the library."""

    data: str = Field(description="the file as base64")
    file_name: str = Field(description="with its suffix: .safetensors, .pt or .bin")
    name: str | None = Field(None, description="the person's name; the file's own if left out")
    replace: bool = False
    authors_basis: str | None = Field(
        None, description="the celeb_basis.pt of the paper's authors' coefficients, as base64"
    )


class PartBody(Body):
    """A part of a blend."""

    name: str
    weight: float = 1.0


class BlendBody(Body):
    """A blend."""

    parts: list[PartBody]
    name: str
    toward_mean: float = 0.0
    toward_celebrity: str = ""
    celebrity_amount: float = 0.0
    keep_radius: bool = False
    replace: bool = False


class MixtureBody(Body):
    """A mixture to be drawn; nobody is saved."""

    parts: list[PartBody]
    toward_mean: float = 0.0
    toward_celebrity: str = ""
    celebrity_amount: float = 0.0
    keep_radius: bool = False
    prompt: str = Field("a photo of {}", description="{} is where the mixture stands")
    count: int = Field(1, description="pictures, 1 to 4")
    seed: int = 0
    steps: int = 20
    guidance: float = 7.5


class BasisBody(Body):
    """A basis to be built."""

    components: int = 512


class EvaluateBody(Body):
    """The three figures on a grid of prompts."""

    name: str
    photos: list[PhotoBody] = Field([], description="real photos to compare with; the identity's thumbnail if none")
    kinds: list[str] = Field([], description="plain, action, dress, place, style, company; all if none")
    prompts: int = Field(0, description="only the first so many; 0: all")
    seeds: int = Field(1, description="pictures of each prompt")
    seed: int = 0
    steps: int = 30
    guidance: float = 7.5
    accept_licence: bool = Field(False, description=LICENCE)


def decoded(data: str, name: str) -> bytes:
    """The bytes of base64 text, plain or as a data URL.

    Raises: :class:`PhotoError` for anything else.
    """
    start = _DATA_URL.match(data[:200])
    try:
        content = base64.b64decode(data[start.end() :] if start else data, validate=True)
    except (binascii.Error, ValueError):
        raise PhotoError(f"{name[:60]!a} is not base64: send the file's bytes as base64 or as a data URL.") from None
    if len(content) > MAX_FILE:
        raise PhotoError(f"{name[:60]!a} is larger than {MAX_FILE >> 20} MB: send a smaller file.")
    return content


def encoded(content: bytes) -> str:
    """Plain base64."""
    return base64.b64encode(content).decode("ascii")


Answer = dict[str, Any]
