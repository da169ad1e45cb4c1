"""How alike the pictures of a learned person are to the photo, on the scale of what the checkpoint itself can do.

The scale begins at *anybody*, the mean cosine of the photo to celebrities as the checkpoint renders them, and ends where two
pictures of the same celebrity stand, from different seeds and prompts: no person can be expected to be rendered more
consistently than the people whom the checkpoint knows by name. The vectors of those celebrities are kept in a file for each
checkpoint, to which every run adds two more, so that the end of the scale gets surer.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from celeb_basis.basis import basis_names
from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.errors import CelebBasisError, error_message, is_user_error
from celeb_basis.evaluation.clip import ClipScorer
from celeb_basis.evaluation.known_celebrities import (
    LEAST_SPAN,
    PROMPTS,
    SEEDS,
    KnownCelebrities,
    add_celebrities,
    face_vector,
    generate,
    with_face,
)
from celeb_basis.evaluation.prompts import as_person
from celeb_basis.events import MeasuringPicture
from celeb_basis.faces.face_search import find_faces
from celeb_basis.faces.network import FaceNetwork, Floats, Portrait
from celeb_basis.faces.portraits import SAME_PERSON, costing_likeness
from celeb_basis.files import bases_cache
from celeb_basis.identities.identity import Identity
from celeb_basis.names.lists import NameList
from celeb_basis.photos import open_photo
from celeb_basis.provenance import marked
from celeb_basis.settings import PRESETS

_log = logging.getLogger(__name__)

FEW_CELEBRITIES = 8
"""With fewer, the end of the scale may still move a lot, and a sentence says so."""

LOW, GOOD = 1 / 3, 2 / 3
"""Shares of the scale below which a likeness is low, and from which on it is good. The scale is a hard one: pictures of a
celebrity are compared with each other, those of the person with a photo. On the miniature, a stranger reaches 0.43."""

Verdict = Literal["good", "fair", "low", "unknown"]


@dataclass(frozen=True)
class PersonToMeasure:
    """A learned person, and what their pictures are compared with."""

    identity: Identity
    """With token vectors for the model that generates."""
    photos: Floats
    """``(M, 512)`` L2-normalized face vectors of the photos."""
    warnings: tuple[str, ...] = ()
    """Sentences about the photos' quality."""


@dataclass(frozen=True)
class _Picture:
    image: Image.Image
    prompt: str
    """With "person" in place of the placeholder token."""
    vector: torch.Tensor
    """``(512,)`` of the largest face, NaN without one."""


@dataclass(frozen=True)
class Likeness:
    """How alike a person's pictures are to the photo. All figures are cosines of face vectors, -1 to 1."""

    name: str
    likeness: float | None
    """Mean over the pictures with a face, and over the photos; ``None`` without a face."""
    pictures: int
    faces: int
    """Pictures in which a face was found."""
    anybody: float | None
    """Mean of the photos to celebrities as the checkpoint renders them; ``None`` if that is unknown."""
    anybody_of: int
    """Celebrities that it was computed from."""
    known: float | None
    """Mean of two pictures of the same celebrity; ``None`` if that is unknown."""
    known_of: int
    """Celebrities that it was computed from."""
    prompt: float | None
    """Mean cosine of CLIP's vectors of picture and prompt; ``None`` without a CLIP on this machine."""
    clip: str
    """Name of the CLIP; empty without one."""
    verdict: Verdict
    sentences: tuple[str, ...]
    """What there is to say to the user: the figure first, the advice after it."""

    @property
    def share(self) -> float | None:
        """Where the likeness stands on the scale: 0 is anybody, 1 is the checkpoint's own celebrities; it may lie outside."""
        return _share(self.likeness, self.anybody, self.known)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"share": self.share, "sentences": list(self.sentences)}


def person_to_measure(
    identity: Identity, faces: FaceNetwork, portraits: Sequence[Portrait] = ()
) -> PersonToMeasure | None:
    """A person with the face vectors of the portraits; without portraits, of the thumbnail in the identity.

    Args:
        identity: The person.
        faces: Embeds the thumbnail's face.
        portraits: What the person was learned from.

    Returns:
        ``None`` if there is no picture to compare with, or no face in it.
    """
    if portraits:
        warnings = tuple(text for one in portraits for text in one.warnings)
        return PersonToMeasure(identity, np.stack([one.vector for one in portraits]), warnings)
    if identity.metadata.thumbnail is None:
        return None
    search = find_faces(open_photo(identity.metadata.thumbnail, name="the thumbnail"), faces)
    if not search.faces:
        return None
    return PersonToMeasure(identity, search.embed(search.faces[0], faces)[1][None])


def measure_people(
    model: DiffusionModel,
    people: Sequence[PersonToMeasure],
    faces: FaceNetwork,
    names: NameList,
    *,
    known_faces: Sequence[Path] = (),
    clip: ClipScorer | None = None,
) -> Generator[MeasuringPicture, None, tuple[Likeness, ...]]:
    """Generate four pictures of each person, and at most four of celebrities; measure them.

    Every picture is yielded before it is looked at: close the generator to stop, also if that picture is unfinished.

    Args:
        model: The model that the people were learned on.
        people: The people.
        faces: Finds and embeds the largest face of each picture.
        names: The list of names that the people were learned with.
        known_faces: Folders with files of celebrities' faces that come with a model.
        clip: Scores how well prompts are followed.

    Returns:
        A likeness for each person, in order.
    """
    basis = basis_names(model.text_encoders[0], names, bases_cache())
    scale = KnownCelebrities(model, faces.name)
    wanted = scale.next(basis)
    total = len(people) * len(PROMPTS) * len(SEEDS) + 2 * len(wanted)
    done = 0
    shown: list[list[_Picture]] = []
    for person in people:
        token = f"<{person.identity.name}>"
        tokens = {token: person.identity.token_vectors()}
        pictures: list[_Picture] = []
        for prompt in (one.replace("{}", token) for one in PROMPTS):
            for seed in SEEDS:
                image = marked(generate(model, prompt, seed, tokens), [token])
                image.info["title"] = prompt
                done += 1
                yield MeasuringPicture(done, total, person.identity.name, image)
                pictures.append(_Picture(image, as_person(prompt, token), face_vector(image, faces)))
        shown.append(pictures)
    yield from add_celebrities(model, scale, wanted, faces, (done, total))
    others = scale.everyone(model, basis, known_faces)
    return tuple(
        _likeness(person, pictures, scale, others, clip, model.info.name)
        for person, pictures in zip(people, shown, strict=True)
    )


def not_measured(error: Exception) -> str:
    """The sentence for a person who was saved, and whose likeness could not be measured for ``error``."""
    if not is_user_error(error):
        _log.error("the likeness could not be measured", exc_info=error)
    return f"The person is saved, but the likeness was not measured: {error_message(error)}"


# The figures and the advice


def _likeness(
    person: PersonToMeasure,
    pictures: Sequence[_Picture],
    scale: KnownCelebrities,
    others: torch.Tensor,
    clip: ClipScorer | None,
    checkpoint: str,
) -> Likeness:
    photos = functional.normalize(torch.from_numpy(np.asarray(person.photos, np.float32)), dim=1)
    vectors = with_face(torch.stack([one.vector for one in pictures]))
    likeness = float((vectors @ photos.T).mean()) if len(vectors) else None
    anybody = float((others @ photos.T).mean()) if len(others) else None
    known, known_of = scale.known
    share = _share(likeness, anybody, known)
    verdict: Verdict = "unknown"
    if likeness is None:
        verdict = "low"
    elif scale.unknown:  # the photo alone is left to compare with
        verdict = "low" if likeness < SAME_PERSON else "fair"
    elif share is not None:
        verdict = "good" if share >= GOOD else "fair" if share >= LOW else "low"
    sentences = [_figure(likeness, anybody, known, checkpoint)]
    if verdict == "low":
        sentences.append(_advice(person, scale.unknown, checkpoint))
    if known is not None and known_of < FEW_CELEBRITIES:
        count = "one celebrity" if known_of == 1 else f"{known_of} celebrities"
        sentences.append(f"The scale is from {count} so far: it gets surer with every person.")
    return Likeness(
        name=person.identity.name,
        likeness=likeness,
        pictures=len(pictures),
        faces=len(vectors),
        anybody=anybody,
        anybody_of=len(others),
        known=known,
        known_of=known_of,
        prompt=_prompt_score(pictures, clip),
        clip="" if clip is None else clip.name,
        verdict=verdict,
        sentences=tuple(sentences),
    )


def _share(likeness: float | None, anybody: float | None, known: float | None) -> float | None:
    if likeness is None or anybody is None or known is None or known - anybody < LEAST_SPAN:
        return None
    return (likeness - anybody) / (known - anybody)


def _figure(likeness: float | None, anybody: float | None, known: float | None, checkpoint: str) -> str:
    if likeness is None:
        return "No face was found in the pictures, so there is nothing to compare with the photo."
    share = _share(likeness, anybody, known)
    if share is None:
        return f"The pictures have a cosine of {likeness:.2f} to the photo; {checkpoint} gives no scale for it."
    figures = f"cosine {likeness:.2f}; anybody {anybody:.2f}, its celebrities {known:.2f}"
    if share >= 1.0:
        return f"As alike as {checkpoint} renders its own celebrities ({figures})."
    if share <= 0.0:
        return f"No more alike than anybody ({figures})."
    return f"{share:.0%} of the way from anybody to how alike {checkpoint} renders its own celebrities ({figures})."


def _advice(person: PersonToMeasure, hardly_knows: bool, checkpoint: str) -> str:
    """One sentence on the likeliest cause of a low likeness."""
    if hardly_knows:
        return f"{checkpoint} hardly knows celebrities: learn on another checkpoint, such as the base of its family."
    if reasons := costing_likeness(person.warnings):
        return f"The likely cause is the photo: {reasons[0]}"
    settings, best = person.identity.metadata.settings, PRESETS["best"]
    steps = settings.get("steps")
    if settings.get("start") != best.start or not isinstance(steps, int) or steps < best.steps:
        return "Learn the person again with the preset Best, which prepares the checkpoint if it is not prepared."
    return "The photo and the preset are good: try another photo of the person, or another seed."


def _prompt_score(pictures: Sequence[_Picture], clip: ClipScorer | None) -> float | None:
    if clip is None:
        return None
    try:
        scores = np.asarray(clip.score([one.image for one in pictures], [one.prompt for one in pictures]))
    except CelebBasisError as error:
        _log.warning("How prompts are followed was not measured: %s", error)
        return None
    return float(scores.mean()) if np.isfinite(scores).all() else None
