"""Celebrities whom a checkpoint knows by name, in two pictures each: what the likeness of a person is measured by.

Their face vectors are kept in a file for each checkpoint, to which every run adds some, so that the scale gets surer.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn import functional

from celeb_basis.basis import basis_names
from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest, PlaceholderTokens
from celeb_basis.errors import CelebBasisError, FileError
from celeb_basis.events import MeasuringPicture
from celeb_basis.faces.network import FaceNetwork, Floats
from celeb_basis.files import bases_cache, write_bytes
from celeb_basis.method import FACE_WIDTH
from celeb_basis.names.lists import NameList
from celeb_basis.reading import UnreadableError, check_safetensors, parse_json
from celeb_basis.training.celebrity_faces import spread_order, stored_celebrity_faces
from celeb_basis.training.first_guess import faces_folder

_log = logging.getLogger(__name__)

PROMPTS = ("a photo of {}", "a photo of {} on a beach")
SEEDS = (1, 2)
"""Each prompt with each seed: four pictures of a person. A celebrity's two are the first prompt with the first seed, and the
second prompt with the second."""
STEPS, GUIDANCE = 20, 7.5
"""Of all these pictures."""

CELEBRITIES = 2
"""Celebrities that a run adds to the checkpoint's file, with two pictures each."""
MOST_CELEBRITIES = 64

LEAST_SPAN = 0.1
"""If the scale is shorter than this, in cosines, the checkpoint renders its celebrities no more alike than anybody."""
FEW_FACES = 0.5
"""Share of a checkpoint's pictures of celebrities with a face, below which it hardly knows them."""

_HEADER, _VERSION = "known celebrities", 1
_UNREADABLE = (CelebBasisError, UnreadableError, SafetensorError, OSError, KeyError, TypeError, ValueError)


class KnownCelebrities:
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

    def next(self, names: Sequence[str], count: int = CELEBRITIES) -> tuple[str, ...]:
        """The names that this run adds, evenly spread over the list."""
        room = min(count, MOST_CELEBRITIES - len(self._pairs))
        return tuple(name for name in spread_order(names) if name not in self._pairs)[: max(room, 0)]

    def add(self, name: str, pair: torch.Tensor) -> None:
        """Add the ``(2, 512)`` vectors of a name's pictures."""
        self._pairs[name] = pair

    @property
    def vectors(self) -> torch.Tensor:
        """``(N, 512)`` of all pictures with a face."""
        return with_face(torch.cat([torch.zeros(0, FACE_WIDTH), *self._pairs.values()]))

    def everyone(self, model: DiffusionModel, names: Sequence[str], known_faces: Sequence[Path]) -> torch.Tensor:
        """``(N, 512)`` of all pictures of celebrities, those of a prepared checkpoint included."""
        stored, _ = stored_celebrity_faces(model, names, self._faces, faces_folder(), known=known_faces)
        return self.vectors if stored is None else torch.cat([self.vectors, with_face(stored.vectors)])

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


def measure_scale(
    model: DiffusionModel,
    photos: Floats,
    faces: FaceNetwork,
    names: NameList,
    *,
    known_faces: Sequence[Path] = (),
    celebrities: int = CELEBRITIES,
) -> Generator[MeasuringPicture, None, tuple[float | None, float | None]]:
    """The scale alone, for pictures that are measured elsewhere: generate two pictures of some celebrities.

    Args:
        model: The model.
        photos: ``(M, 512)`` L2-normalized face vectors of photos.
        faces: Finds and embeds the largest face of each picture.
        names: The list of names.
        known_faces: Folders with files of celebrities' faces that come with a model.
        celebrities: How many more are added to those of the checkpoint's file.

    Returns:
        The mean cosine of the photos to celebrities, and that of two pictures of the same celebrity; ``None`` if unknown.
    """
    basis = basis_names(model.text_encoders[0], names, bases_cache())
    scale = KnownCelebrities(model, faces.name)
    wanted = scale.next(basis, celebrities)
    yield from add_celebrities(model, scale, wanted, faces, (0, 2 * len(wanted)))
    others = scale.everyone(model, basis, known_faces)
    of_photos = functional.normalize(torch.from_numpy(np.asarray(photos, np.float32)), dim=1)
    return (float((others @ of_photos.T).mean()) if len(others) else None), scale.known[0]


def add_celebrities(
    model: DiffusionModel, scale: KnownCelebrities, wanted: Sequence[str], faces: FaceNetwork, progress: tuple[int, int]
) -> Generator[MeasuringPicture, None, None]:
    """Generate two pictures of each name in ``wanted`` and save their face vectors; ``progress``: pictures done, and of all."""
    done, total = progress
    for name in wanted:
        vectors = []
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
            image = generate(model, prompt.replace("{}", name), seed, {})
            done += 1
            yield MeasuringPicture(done, total, "", None)
            vectors.append(face_vector(image, faces))
        scale.add(name, torch.stack(vectors))
    scale.save()


def generate(model: DiffusionModel, prompt: str, seed: int, tokens: PlaceholderTokens) -> Image.Image:
    """One picture, as all are generated that are compared.

    Raises:
        CelebBasisError: The program has generated none.
    """
    request = GenerationRequest(prompt, placeholder_tokens=tokens, seed=seed, steps=STEPS, guidance=GUIDANCE)
    image = next(iter(model.generate(request)), None)
    if image is None:
        raise CelebBasisError("The program generated no image: look at its log.")
    return image


def face_vector(image: Image.Image, faces: FaceNetwork) -> torch.Tensor:
    """``(512,)`` L2-normalized vector of the largest face, NaN without one."""
    pixels = np.asarray(image.convert("RGB"), np.uint8)
    found = faces.detect(pixels)
    if not found:
        return torch.full((FACE_WIDTH,), torch.nan)
    vector = np.asarray(faces.embed([faces.align(pixels, found[0].landmarks)]), np.float32)[0]
    return functional.normalize(torch.from_numpy(vector), dim=0)


def with_face(vectors: torch.Tensor) -> torch.Tensor:
    """The rows that are of a face."""
    return vectors[vectors.isfinite().all(dim=1)]
