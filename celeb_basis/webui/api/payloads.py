"""Bodies of requests, written so that pydantic 1.10 and 2 read them alike. The service checks ranges."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from pydantic import BaseModel, Field

from celeb_basis.errors import PhotoError
from celeb_basis.settings import AUTO, EvaluationDefaults
from celeb_basis.webui.schemas import InventRequest, LearnRequest, PhotoUpload, UploadedPhoto

MAX_FILE = 32 << 20
"""Bytes of one uploaded file."""

LICENSE = "you agree to the face models' license (see GET face-models), in case they have to be downloaded first"

LIKENESS = "measure the likeness of a few images at the end; as in the settings by default"
PRESET = "auto (quick if the checkpoint is prepared, else balanced), quick, balanced, best or paper"

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.+-]+)*;base64,", re.ASCII)


class Body(BaseModel):
    """A body in which an unknown field is an error, so that a misspelled one is noticed."""

    class Config:
        extra = "forbid"


class PhotoBody(Body):
    """A photo."""

    data: str = Field(description="the picture file as base64, plain or as a data URL")
    name: str = Field("photo", description="file name, for messages")
    face: int | None = Field(None, description="which face, 0 is the largest; the largest by default")


class FacesBody(PhotoBody):
    """A photo in which to find faces."""

    accept_licence: bool = Field(False, description=LICENSE)


class FaceModelsBody(Body):
    """A download of the face models."""

    accept_licence: bool = Field(False, description=LICENSE)


class PersonBody(Body):
    """A person to learn."""

    name: str = Field(description="prompts name the person as <name>")
    photos: list[PhotoBody]


class EstimateBody(Body):
    """A run whose memory is estimated."""

    preset: str = Field(AUTO, description=PRESET)
    settings: dict[str, Any] = Field({}, description="changes to the preset; see GET settings")


class LearnBody(Body):
    """A run."""

    people: list[PersonBody]
    preset: str = Field(AUTO, description=PRESET)
    settings: dict[str, Any] = Field({}, description="changes to the preset; see GET settings")
    consent: bool = Field(False, description="everyone shown has agreed to this; required")
    consent_note: str = ""
    notes: str = ""
    replace: bool = Field(False, description="replace people of the same names")
    accept_licence: bool = Field(False, description=LICENSE)
    preview_every: int | None = Field(
        None, description="steps between previews; 0: none; as in the settings by default"
    )
    likeness: bool | None = Field(None, description=LIKENESS)

    def request(self) -> LearnRequest:
        """The request to the service."""
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
            likeness=self.likeness,
        )


class RenameBody(Body):
    """A new name."""

    name: str


class NotesBody(Body):
    """New notes; a field that is left out stays as it is."""

    notes: str | None = Field(None, description="new notes")
    consent_note: str | None = Field(None, description="a new note on the consent: who agreed, when and how")


class FileBody(Body):
    """A file for the library."""

    data: str = Field(description="the file as base64")
    file_name: str = Field(description="with its suffix: .safetensors, .pt, .bin, .png or .webp")
    name: str | None = Field(None, description="the person's name; the file's own by default")
    replace: bool = False
    authors_basis: str | None = Field(
        None, description="the celeb_basis.pt that belongs to coefficients of the CelebBasis repository, as base64"
    )


class PartBody(Body):
    """A part of a blend."""

    name: str
    weight: float = 1.0


class SteeringBody(Body):
    """A celebrity or a group of the list of names to steer to."""

    celebrity: str = Field("", description="a name of the list; or give a group")
    group: str = Field("", description="a group of the list, such as women; see GET invent/groups")
    strength: float = Field(description="-1 (away) to 1, in units of the celebrities' own spread")


class BlendBody(Body):
    """A blend."""

    parts: list[PartBody]
    name: str
    toward_mean: float = 0.0
    toward_celebrity: str = ""
    celebrity_amount: float = 0.0
    keep_radius: bool = Field(
        True, description="keep the parts' distance from the mean; plain blends look more average"
    )
    steering: list[SteeringBody] = Field([], description="more like celebrities or groups, or away from them")
    replace: bool = False


class MixtureBody(Body):
    """A blend to generate images of; nothing is saved."""

    parts: list[PartBody]
    toward_mean: float = 0.0
    toward_celebrity: str = ""
    celebrity_amount: float = 0.0
    keep_radius: bool = Field(
        True, description="keep the parts' distance from the mean; plain blends look more average"
    )
    steering: list[SteeringBody] = Field([], description="more like celebrities or groups, or away from them")
    prompt: str = Field("a photo of {}", description="{} is where the blended person appears")
    count: int = Field(1, description="images, 1 to 4")
    seed: int = 0
    steps: int = 20
    guidance: float = 7.5


class InventBody(Body):
    """A sheet of people who do not exist."""

    way: str = Field("mixed", description="mixed or gaussian")
    groups: list[str] = Field([], description="groups of the list of names to lean to; see GET invent/groups")
    leaning: float = Field(1.0, description="how much, 0 to 1")
    distance: float = Field(1.0, description="to the mean, in units of the celebrities' own; 0.25 to 2")
    sheet: str = Field("", description="the id of the job whose people the next three number, from 1")
    more: list[int] = Field([], description="more like these")
    less: list[int] = Field([], description="less like those")
    keep: list[int] = Field([], description="these stay, and their images are not generated again")
    alike: float = Field(0.7, description="how much more, 0 to 0.95")
    unlike: float = Field(0.4, description="how much less, 0 to 0.95")
    count: int = Field(9, description="people, 1 to 36")
    seed: int = Field(-1, description="of the first person; the others follow; -1 chooses one")
    prompt: str = Field("a photo of {}", description="{} is where the person appears")
    picture_seed: int = Field(0, description="of every image")
    steps: int = 20
    guidance: float = 7.5

    def request(self) -> InventRequest:
        """The request to the service."""
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in self}
        return InventRequest(**values)


class SaveInventedBody(Body):
    """A person of a sheet to save."""

    sheet: str = Field(description="the id of the job that made the sheet")
    number: int = Field(description="of the person, from 1")
    name: str = Field("", description="the suggested name if empty")
    replace: bool = False


class BasisBody(Body):
    """A basis to build."""

    components: int = 512


class EvaluateBody(Body):
    """An evaluation on a grid of prompts."""

    name: str
    photos: list[PhotoBody] = Field([], description="real photos to compare with; the identity's thumbnail if none")
    kinds: list[str] = Field([], description="plain, action, dress, place, style, company; all by default")
    prompts: int = Field(EvaluationDefaults.prompts, description="how many of the prompts, from the first; 0: all")
    seeds: int = Field(EvaluationDefaults.seeds, description="images for each prompt")
    seed: int = EvaluationDefaults.seed
    steps: int = EvaluationDefaults.steps
    guidance: float = EvaluationDefaults.guidance
    accept_licence: bool = Field(False, description=LICENSE)


def decoded(data: str, name: str) -> bytes:
    """The bytes of base64 text, plain or as a data URL.

    Raises:
        PhotoError: It is anything else, or too large.
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
