"""Worlds for the evidence that need no trained model and no network: stand-in judges that really look at the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.evidence.world import Ask, EvidenceWorld, Stranger
from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.faces.types import DetectedFace, Floats, Pixels, Portrait
from celeb_basis.names.lists import NameList

_PROJECTION = np.random.default_rng(5).normal(size=(8 * 8 * 3, 512)).astype(np.float32)
_LANDMARKS = np.array([[0.38, 0.4], [0.62, 0.4], [0.5, 0.52], [0.4, 0.65], [0.6, 0.65]], np.float32)


def colours(picture: Pixels) -> Floats:
    """``(192,)`` colours of an 8x8 copy, -1 to 1."""
    small = Image.fromarray(picture).resize((8, 8), Image.Resampling.BOX)
    return (np.asarray(small, np.float32) / 127.5 - 1).reshape(-1)


class ColourFaces:
    """A face network that takes a whole picture for a face, or each half of a wide one, and its colours for who it is."""

    name = "colours"

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        height, width = picture.shape[:2]
        count = 2 if width >= 2 * height else 1
        side = width // count
        return [
            DetectedFace((x * side, 0, (x + 1) * side, height), _LANDMARKS * side + (x * side, 0), 0.9)
            for x in range(count)
        ]

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        del landmarks
        return np.asarray(Image.fromarray(picture).resize((112, 112)))

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        rows = np.stack([colours(one) for one in aligned]) @ _PROJECTION
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class ColourJudge:
    """Likeness is how near the colours of a face's box are."""

    name = "distance of colours"

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        left, top, right, bottom = (round(value) for value in face.box)
        return colours(picture[top:bottom, left:right])

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        return 1 - np.sqrt(((vectors[:, None] - references[None]) ** 2).mean(-1))


class CosineJudge(ColourJudge):
    name = "cosine of colours"

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        def unit(rows: Floats) -> Floats:
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        return unit(vectors) @ unit(references).T


def bright_or_dark(pictures: Sequence[Pixels]) -> list[frozenset[str]]:
    """The scene that a picture shows."""
    return [frozenset({"bright" if picture.mean() > 127.5 else "dark"}) for picture in pictures]


def stranger(name: str, picture: Pixels) -> Stranger:
    """Somebody whose references are the picture with a little noise."""
    faces = ColourFaces()
    found = faces.detect(picture)[0]
    random = np.random.default_rng(len(name))
    noisy = [np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8) for _ in range(2)]
    vector = faces.embed([faces.align(picture, found.landmarks)])[0]
    return Stranger(name, Portrait(picture, found.landmarks, vector, name), tuple(noisy))


def make_world(
    model: DiffusionModel, names: NameList, strangers: Sequence[Stranger], decode: Any, **changes: Any
) -> EvidenceWorld:
    """A world of colours over any host whose latents are the eighth of its pictures."""
    faces = ColourFaces()
    parts: dict[str, Any] = {
        "key": "colours",
        "host": model,
        "faces": faces,
        "names": names,
        "strangers": tuple(strangers),
        "asks": (Ask("a photo of {}", "bright"), Ask("held out words on the face of {} person", "dark")),
        "together": (Ask("{} and {}", "bright"),),
        "decode": decode,
        "latent": (4, 8, 8),
        "detect": faces.detect,
        "judge": ColourJudge(),
        "second": CosineJudge(),
        "scenes": bright_or_dark,
        "steps": 4,
        "guidance": 1.0,
    }
    return EvidenceWorld(**{**parts, **changes})


def decode_toy(latents: torch.Tensor) -> list[Pixels]:
    """The inverse of the toy host's encoder: colours of an 8x8 grid, enlarged."""
    pixels = ((latents[:, :3].permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
    return [np.asarray(Image.fromarray(one).resize((64, 64), Image.Resampling.NEAREST)) for one in pixels]
