"""How alike the pictures of a learned person are to the photo, on the scale of what the checkpoint itself can do.

The scale begins at *anybody*, the mean cosine of the photo to celebrities as the checkpoint renders them, and ends where two
pictures of the same celebrity stand, from different seeds and prompts: no person can be expected to be rendered more
consistently than the people whom the checkpoint knows by name. The vectors of those celebrities are kept in a file for each
checkpoint, to which every run adds two more, so that the end of the scale gets surer.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn import functional

from celeb_basis.basis import basis_names
from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest, PlaceholderTokens
from celeb_basis.errors import CelebBasisError, FileError, error_message, is_user_error
from celeb_basis.evaluation.clip import ClipScorer
from celeb_basis.evaluation.prompts import as_person
from celeb_basis.events import MeasuringPicture
from celeb_basis.faces.face_search import find_faces
from celeb_basis.faces.network import FaceNetwork, Floats, Portrait
from celeb_basis.faces.portraits import SAME_PERSON, costing_likeness
from celeb_basis.files import bases_cache, write_bytes
from celeb_basis.identities.identity import Identity
from celeb_basis.method import FACE_WIDTH
from celeb_basis.names.lists import NameList
from celeb_basis.photos import open_photo
from celeb_basis.provenance import marked
from celeb_basis.reading import UnreadableError, check_safetensors, parse_json
from celeb_basis.settings import PRESETS
from celeb_basis.training.celebrity_faces import spread_order, stored_celebrity_faces
from celeb_basis.training.first_guess import faces_folder

_log = logging.getLogger(__name__)

PROMPTS = ("a photo of {}", "a photo of {} on a beach")
SEEDS = (1, 2)
"""Each prompt with each seed: four pictures of a person. A celebrity's two are the first prompt with the first seed, and the
second prompt with the second."""
STEPS, GUIDANCE = 20, 7.5

CELEBRITIES = 2
"""Celebrities that a run adds to the checkpoint's file, with two pictures each."""
MOST_CELEBRITIES = 64
FEW_CELEBRITIES = 8
"""With fewer, the end of the scale may still move a lot, and a sentence says so."""

LOW, GOOD = 1 / 3, 2 / 3
"""Shares of the scale below which a likeness is low, and from which on it is good. The scale is a hard one: pictures of a
celebrity are compared with each other, those of the person with a photo. On the miniature, a stranger reaches 0.43."""
LEAST_SPAN = 0.1
"""If the scale is shorter than this, in cosines, the checkpoint renders its celebrities no more alike than anybody."""
FEW_FACES = 0.5
"""Share of a checkpoint's pictures of celebrities with a face, below which it hardly knows them."""

Verdict = Literal["good", "fair", "low", "unknown"]

_HEADER, _VERSION = "known celebrities", 1
_UNREADABLE = (CelebBasisError, UnreadableError, SafetensorError, OSError, KeyError, TypeError, ValueError)


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
    scale = _Celebrities(model, faces.name)
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
                image = marked(_generate(model, prompt, seed, tokens), [token])
                image.info["title"] = prompt
                done += 1
                yield MeasuringPicture(done, total, person.identity.name, image)
                pictures.append(_Picture(image, as_person(prompt, token), _face_vector(image, faces)))
        shown.append(pictures)
    for name in wanted:
        vectors = []
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
            image = _generate(model, prompt.replace("{}", name), seed, {})
            done += 1
            yield MeasuringPicture(done, total, "", None)
            vectors.append(_face_vector(image, faces))
        scale.add(name, torch.stack(vectors))
    scale.save()
    stored, _ = stored_celebrity_faces(model, basis, faces.name, faces_folder(), known=known_faces)
    others = scale.vectors if stored is None else torch.cat([scale.vectors, _seen(stored.vectors)])
    return tuple(
        _likeness(person, pictures, scale, others, clip, model.info.name)
        for person, pictures in zip(people, shown, strict=True)
    )


def not_measured(error: Exception) -> str:
    """The sentence for a person who was saved, and whose likeness could not be measured for ``error``."""
    if not is_user_error(error):
        _log.error("the likeness could not be measured", exc_info=error)
    return f"The person is saved, but the likeness was not measured: {error_message(error)}"


def _generate(model: DiffusionModel, prompt: str, seed: int, tokens: PlaceholderTokens) -> Image.Image:
    request = GenerationRequest(prompt, placeholder_tokens=tokens, seed=seed, steps=STEPS, guidance=GUIDANCE)
    image = next(iter(model.generate(request)), None)
    if image is None:
        raise CelebBasisError("The program generated no image: look at its log.")
    return image


def _face_vector(image: Image.Image, faces: FaceNetwork) -> torch.Tensor:
    """``(512,)`` L2-normalized vector of the largest face, NaN without one."""
    pixels = np.asarray(image.convert("RGB"), np.uint8)
    found = faces.detect(pixels)
    if not found:
        return torch.full((FACE_WIDTH,), torch.nan)
    vector = np.asarray(faces.embed([faces.align(pixels, found[0].landmarks)]), np.float32)[0]
    return functional.normalize(torch.from_numpy(vector), dim=0)


def _seen(vectors: torch.Tensor) -> torch.Tensor:
    """The rows that are of a face."""
    return vectors[vectors.isfinite().all(dim=1)]


# The celebrities of a checkpoint


class _Celebrities:
    """Pictures of celebrities by their face vectors: two of each, from the checkpoint's file.

    Args:
        model: The checkpoint.
        faces: Name of the face network.
    """

    def __init__(self, model: DiffusionModel, faces: str) -> None:
        self._checkpoint, self._faces = model.info.name, faces
        parts = [_VERSION, model.info.sha256, model.info.resolution, faces, *PROMPTS, *SEEDS, STEPS, GUIDANCE]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        self._file = faces_folder() / f"known-{digest}.safetensors"
        self._pairs = self._read()

    def next(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names that this run adds, evenly spread over the list."""
        room = min(CELEBRITIES, MOST_CELEBRITIES - len(self._pairs))
        return tuple(name for name in spread_order(names) if name not in self._pairs)[: max(room, 0)]

    def add(self, name: str, pair: torch.Tensor) -> None:
        """Add the ``(2, 512)`` vectors of a name's pictures."""
        self._pairs[name] = pair

    @property
    def vectors(self) -> torch.Tensor:
        """``(N, 512)`` of all pictures with a face."""
        return _seen(torch.cat([torch.zeros(0, FACE_WIDTH), *self._pairs.values()]))

    @property
    def known(self) -> tuple[float | None, int]:
        """Mean cosine of the two pictures of a celebrity, and of how many both show a face."""
        cosines = [
            float(first @ second) for first, second in self._pairs.values() if bool((first + second).isfinite().all())
        ]
        return (float(np.mean(cosines)) if cosines else None), len(cosines)

    @property
    def unknown(self) -> bool:
        """Whether the checkpoint hardly knows celebrities: few faces, or no two pictures of one that are alike."""
        pictures = 2 * len(self._pairs)
        if pictures and len(self.vectors) < FEW_FACES * pictures:
            return True
        known, count = self.known
        if known is None or count < 2:
            return False
        firsts = torch.stack([pair[0] for pair in self._pairs.values() if bool(pair.isfinite().all())])
        seconds = torch.stack([pair[1] for pair in self._pairs.values() if bool(pair.isfinite().all())])
        between = firsts @ seconds.T
        different = float((between.sum() - between.trace()) / (count * (count - 1)))
        return known - different < LEAST_SPAN

    def save(self) -> None:
        """Write the file; if it cannot be written, only the time is lost."""
        header = {"version": _VERSION, "checkpoint": self._checkpoint, "names": list(self._pairs), "faces": self._faces}
        if not self._pairs:
            return
        try:
            pairs = torch.stack(list(self._pairs.values())).to(torch.float16)
            write_bytes(self._file, save({"pairs": pairs}, {_HEADER: json.dumps(header, ensure_ascii=False)}))
        except FileError as error:
            _log.warning("The checkpoint's celebrities are not saved. %s", error)

    def _read(self) -> dict[str, torch.Tensor]:
        if not self._file.is_file():
            return {}
        try:
            check_safetensors(self._file)
            with safe_open(self._file, framework="pt") as file:
                header = parse_json(file.metadata()[_HEADER], most_values=4 * MOST_CELEBRITIES)
                pairs = file.get_tensor("pairs").float().clone()  # a mapped tensor keeps the file open
            names = [str(name) for name in header["names"]]
            if pairs.shape != (len(names), 2, FACE_WIDTH) or header["faces"] != self._faces:
                raise ValueError(f"it holds {tuple(pairs.shape)} vectors of {len(names)} names")
        except _UNREADABLE as error:
            _log.warning("The celebrities in %s cannot be read and are generated again: %s", self._file, error)
            return {}
        return dict(zip(names, pairs.unbind(0), strict=True))


# The figures and the advice


def _likeness(
    person: PersonToMeasure,
    pictures: Sequence[_Picture],
    scale: _Celebrities,
    others: torch.Tensor,
    clip: ClipScorer | None,
    checkpoint: str,
) -> Likeness:
    photos = functional.normalize(torch.from_numpy(np.asarray(person.photos, np.float32)), dim=1)
    vectors = _seen(torch.stack([one.vector for one in pictures]))
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
