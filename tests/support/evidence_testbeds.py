"""Testbeds for the evidence that need no trained model and no face network: stand-in judges that do look at the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.evidence.testbed import DdimSampler, EvidenceTestbed, PromptCase, PromptScorer, Stranger
from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.faces.network import DetectedFace, Floats, Pixels, Portrait
from celeb_basis.names.lists import NameList

_PROJECTION = np.random.default_rng(5).normal(size=(8 * 8 * 3, 512)).astype(np.float32)
_LANDMARKS = np.array([[0.38, 0.4], [0.62, 0.4], [0.5, 0.52], [0.4, 0.65], [0.6, 0.65]], np.float32)


def colors(picture: Pixels) -> Floats:
    """``(192,)`` colors of an 8x8 copy, -1 to 1."""
    small = Image.fromarray(picture).resize((8, 8), Image.Resampling.BOX)
    return (np.asarray(small, np.float32) / 127.5 - 1).reshape(-1)


class ColorFaces:
    """A face network to which an image is a face, or each half of a wide one, and its colors are the identity."""

    name = "colors"

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
        rows = np.stack([colors(one) for one in aligned]) @ _PROJECTION
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class ColorJudge:
    """Scores faces by the distance of the colors in their boxes."""

    name = "distance of colors"

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        left, top, right, bottom = (round(value) for value in face.box)
        return colors(picture[top:bottom, left:right])

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        return 1 - np.sqrt(((vectors[:, None] - references[None]) ** 2).mean(-1))


class CosineJudge(ColorJudge):
    """Scores faces by the cosine of the colors in their boxes."""

    name = "cosine of colors"

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        def unit(rows: Floats) -> Floats:
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        return unit(vectors) @ unit(references).T


def bright_or_dark(images: Sequence[Pixels]) -> list[frozenset[str]]:
    """The scene that an image shows."""
    return [frozenset({"bright" if image.mean() > 127.5 else "dark"}) for image in images]


def stranger(name: str, picture: Pixels) -> Stranger:
    """A stranger whose references are the picture with a little noise."""
    faces = ColorFaces()
    found = faces.detect(picture)[0]
    random = np.random.default_rng(len(name))
    noisy = [np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8) for _ in range(2)]
    vector = faces.embed([faces.align(picture, found.landmarks)])[0]
    return Stranger(name, tuple(noisy), Portrait(picture, found.landmarks, vector, name))


def make_testbed(
    model: DiffusionModel,
    names: NameList,
    strangers: Sequence[Stranger],
    decode: Any,
    *,
    steps: int = 4,
    **changes: Any,
) -> EvidenceTestbed:
    """A testbed of colors on any model whose latents are an eighth of its images' size."""
    faces = ColorFaces()
    parts: dict[str, Any] = {
        "key": "colors",
        "model": model,
        "faces": faces,
        "names": names,
        "strangers": tuple(strangers),
        "prompts": (
            PromptCase("a photo of {}", "bright"),
            PromptCase("held out words on the face of {} person", "dark"),
        ),
        "pair_prompts": (PromptCase("{} and {}", "bright"),),
        "sampler": DdimSampler(model, decode, (4, 8, 8), steps=steps, guidance=1.0),
        "detect": faces.detect,
        "judge": ColorJudge(),
        "second_judge": CosineJudge(),
        "third_judge": CosineJudge(),
        "score_prompts": shares_of_labels(bright_or_dark),
    }
    return EvidenceTestbed(**{**parts, **changes})


def decode_toy(latents: torch.Tensor) -> list[Pixels]:
    """The inverse of the toy host's encoder: colors of an 8x8 grid, enlarged."""
    pixels = ((latents[:, :3].permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
    return [np.asarray(Image.fromarray(one).resize((64, 64), Image.Resampling.NEAREST)) for one in pixels]


def shares_of_labels(classify: Callable[[Sequence[Pixels]], Sequence[frozenset[str]]]) -> PromptScorer:
    """A prompt scorer of 1 for images that show their prompt's label, else 0."""

    def score(images: Sequence[Pixels], cases: Sequence[PromptCase]) -> list[float | None]:
        return [float(case.label in shown) for case, shown in zip(cases, classify(images), strict=True)]

    return score
