"""Files of celebrities' face embeddings: one a checkpoint, found again by others that have the same text encoders."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.errors import CelebBasisError, FileError
from celeb_basis.files import write_bytes
from celeb_basis.method import FACE_WIDTH
from celeb_basis.reading import UnreadableError, check_safetensors, parse_json
from celeb_basis.sampling import SamplerName

_log = logging.getLogger(__name__)

FILE_DTYPE = torch.float16
"""What vectors are stored in."""

_HEADER = "celebrities"
_VERSION = 1
_MOST_VALUES = 1_000_000
"""Most values in a file's header: a name each, and a few more."""

_UNREADABLE = (CelebBasisError, UnreadableError, SafetensorError, OSError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Drawing:
    """How a celebrity's picture is generated."""

    steps: int
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none, and half the evaluations."""
    sampler: SamplerName = "dpm++"

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser for a picture."""
        return self.steps * (1 if self.guidance == 1.0 else 2)


class CelebrityFile:
    """The face vectors that one checkpoint has generated, in memory and in its file.

    Args:
        path: The file, which need not exist.
        checkpoint: The checkpoint's name, for people to read.
        faces: The face network's name.
    """

    def __init__(self, path: Path, *, checkpoint: str, faces: str) -> None:
        self.path, self.checkpoint, self.faces = path, checkpoint, faces
        self.vectors: dict[str, torch.Tensor] = {}
        """``(512,)`` by name; NaN if the name's picture shows no face."""
        self.text_encoders = ""
        """Digest of the text encoders' weights; empty if unknown."""
        self.drawing: Drawing | None = None
        """How the pictures are generated; ``None`` until that is chosen."""
        self.offset = torch.zeros(FACE_WIDTH)
        """``(512,)``: what was added to the vectors of pictures by :attr:`drawing`."""
        self.settled = False
        """Whether more names would not improve the regression."""
        self._saved = 0

    def is_enough(self, names: Sequence[str], wanted: int) -> bool:
        """Whether nothing has to be generated to have ``wanted`` of the names."""
        return sum(name in self.vectors for name in names) >= wanted or (self.settled and bool(self.vectors))

    def add(self, path: Path) -> None:
        """Add what a file holds; one that is missing or cannot be read adds nothing."""
        if not path.is_file():
            return
        try:
            check_safetensors(path)
            with safe_open(path, framework="pt") as file:
                header = parse_json(file.metadata()[_HEADER], most_values=_MOST_VALUES)
                # A copy: mapped tensors keep the file open, and Windows would then refuse to overwrite it.
                vectors, offset = (file.get_tensor(key).float().clone() for key in ("vectors", "offset"))
            names = [str(name) for name in header["names"]]
            if (
                vectors.shape != (len(names), FACE_WIDTH)
                or offset.shape != (FACE_WIDTH,)
                or str(header["faces"]) != self.faces
            ):
                raise ValueError(f"it holds {tuple(vectors.shape)} vectors of {len(names)} names")
            drawing = header["drawing"]
            self.drawing = None if drawing is None else _drawing(drawing)
            self.text_encoders, self.settled = str(header["text_encoders"]), bool(header["settled"])
            self.checkpoint, self.offset = str(header["checkpoint"]), offset
        except _UNREADABLE as error:
            _log.warning("The celebrities' faces in %s cannot be read and are generated again: %s", path, error)
            return
        self.vectors |= dict(zip(names, vectors.unbind(0), strict=True))
        if path == self.path:
            self._saved = len(self.vectors)

    def save(self) -> None:
        """Write the file if there is something new; if it cannot be written, only time is lost."""
        if not self.vectors or (self._saved == len(self.vectors) and not self.settled):
            return
        header: dict[str, Any] = {
            "version": _VERSION,
            "names": list(self.vectors),
            "checkpoint": self.checkpoint,
            "faces": self.faces,
            "text_encoders": self.text_encoders,
            "drawing": None if self.drawing is None else asdict(self.drawing),
            "settled": self.settled,
        }
        stacked = torch.stack(list(self.vectors.values())).to(FILE_DTYPE)
        try:
            tensors = {"vectors": stacked, "offset": self.offset}
            write_bytes(self.path, save(tensors, {_HEADER: json.dumps(header, ensure_ascii=False)}))
            self._saved = len(self.vectors)
        except FileError as error:
            _log.warning("The celebrities' faces are not saved. %s", error)


def _drawing(values: Mapping[str, Any]) -> Drawing:
    sampler: SamplerName = "rbf" if values["sampler"] == "rbf" else "ddim" if values["sampler"] == "ddim" else "dpm++"
    return Drawing(int(values["steps"]), float(values["guidance"]), sampler)


def file_name(model: DiffusionModel, faces: str, prompt: str, size: int) -> str:
    """Name of a checkpoint's file; it changes with everything that the faces depend on, but for how they are generated."""
    parts = [_VERSION, model.info.sha256, size or model.info.resolution, faces, prompt]
    return f"celebrities-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.safetensors"


def related(folder: Path, own: CelebrityFile) -> CelebrityFile | None:
    """The fullest file of another checkpoint with the same text encoders, measured with the same face network."""
    best: CelebrityFile | None = None
    for path in sorted(folder.glob("celebrities-*.safetensors")):
        if path == own.path or not _matches(path, own):
            continue
        other = CelebrityFile(path, checkpoint="", faces=own.faces)
        other.add(path)
        if len(other.vectors) > (0 if best is None else len(best.vectors)):
            best = other
    return best


def _matches(path: Path, own: CelebrityFile) -> bool:
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            header = parse_json(file.metadata()[_HEADER], most_values=_MOST_VALUES)
        return bool(own.text_encoders and header["text_encoders"] == own.text_encoders and header["faces"] == own.faces)
    except _UNREADABLE:
        return False


# Files of the first version: two pictures of every name with 20 steps and guidance, 80 evaluations of the denoiser.


def stored_vectors(folder: Path, model: DiffusionModel, names: Sequence[str], faces: str) -> dict[str, torch.Tensor]:
    """The vectors that the first version has generated for these names; none if there is no readable file."""
    chosen = first_versions_names(names)
    path = folder / first_versions_file(model, chosen, faces)
    if not path.is_file():
        return {}
    try:
        check_safetensors(path)
        stored = load_file(str(path))
        vectors, done = stored["vectors"].float().clone(), stored["drawn"].bool().clone()
        if vectors.shape != (len(chosen), FACE_WIDTH) or done.shape != (len(chosen),):
            raise ValueError(f"it holds {tuple(vectors.shape)} vectors")
    except _UNREADABLE as error:
        _log.warning("The celebrities' faces in %s cannot be read and are generated again: %s", path, error)
        return {}
    return {chosen[row]: vectors[row] for row in done.nonzero()[:, 0].tolist()}


def first_versions_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of a list that the first version used: 640 at most, evenly spread."""
    return tuple(names[row] for row in np.linspace(0, len(names) - 1, min(len(names), 640)).round().astype(int))


def first_versions_file(model: DiffusionModel, chosen: Sequence[str], faces: str) -> str:
    """Name of the first version's file for these names."""
    parts = [model.info.sha256, model.info.resolution, faces, "a photo of {}", 2, 20, 5.0, *chosen]
    return f"faces-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.safetensors"
