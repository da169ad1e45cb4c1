"""Metrics of learned token vectors: images are generated for every prompt and scored by the testbed's judges."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.evidence.testbed import EvidenceTestbed, FaceJudge, Stranger, generate
from celeb_basis.diffusion_model import TokenVectors
from celeb_basis.faces.network import DetectedFace, Floats, Pixels

METRICS = ("identity", "recognized", "second_opinion", "prompt", "detect", "diversity")
"""Metrics of one person; ``both`` is that of images with two people."""

_SMALL = 16
"""Side in pixels to which images are reduced before they are compared for diversity."""


@dataclass(frozen=True)
class Gallery:
    """The references of all strangers as a judge sees them; a stranger's vector is the mean of its references'."""

    judge: FaceJudge
    vectors: Floats

    def likeness(self, vector: Floats) -> Floats:
        """``(M,)`` similarities to every stranger."""
        row: Floats = self.judge.likeness(np.asarray(vector)[None], self.vectors)[0]
        return row


class Evaluator:
    """Measures token vectors that stand for strangers."""

    def __init__(self, testbed: EvidenceTestbed, images_per_prompt: int) -> None:
        """Embed the references of all strangers. The images' seeds are the same for every method."""
        self.testbed, self.images_per_prompt = testbed, images_per_prompt
        self._row = {stranger.name: row for row, stranger in enumerate(testbed.strangers)}
        self._first, self._second = (_gallery(testbed, judge) for judge in (testbed.judge, testbed.second_judge))

    def measure(
        self, group: Sequence[Stranger], token_vectors: Mapping[str, TokenVectors], seed: int
    ) -> dict[str, Any]:
        """Metrics of each person of ``group``, by name, and of each two neighbors together.

        Args:
            group: The strangers that were learned together.
            token_vectors: By the strangers' names.
            seed: Seed of the run; the images' seeds derive from it.
        """
        placeholders = {placeholder(name): vectors for name, vectors in token_vectors.items()}
        people = {one.name: self._person(one, placeholders, seed) for one in group}
        pairs = {
            f"{one.name} & {other.name}": {"both": self._pair(one, other, placeholders, seed)}
            for one, other in zip(group[::2], group[1::2], strict=False)
        }
        return {"people": people, "pairs": pairs}

    def _person(self, person: Stranger, tokens: Mapping[str, TokenVectors], seed: int) -> dict[str, float | None]:
        testbed = self.testbed
        cases = list(itertools.product(enumerate(testbed.prompts), range(self.images_per_prompt)))
        prompts = [case.prompt.format(placeholder(person.name)) for (_, case), _ in cases]
        images = generate(testbed, prompts, tokens, [_seed(seed, index, number) for (index, _), number in cases])
        labels = testbed.classify_scenes(images)
        row = self._row[person.name]
        first, second, hits, found = [], [], 0, 0
        for image in images:
            if not (faces := testbed.detect(image)):
                continue
            found += 1
            similarities = self._first.likeness(testbed.judge.embed(image, faces[0]))
            first.append(float(similarities[row]))
            hits += int(similarities.argmax()) == row
            second.append(float(self._second.likeness(testbed.second_judge.embed(image, faces[0]))[row]))
        correct = [case.label in shown for ((_, case), _), shown in zip(cases, labels, strict=True)]
        count = self.images_per_prompt
        by_prompt = [images[start : start + count] for start in range(0, len(images), count)]
        return {
            "identity": float(np.mean(first)) if first else None,
            "recognized": hits / len(images),
            "second_opinion": float(np.mean(second)) if second else None,
            "prompt": float(np.mean(correct)),
            "detect": found / len(images),
            "diversity": diversity(by_prompt),
        }

    def _pair(self, left: Stranger, right: Stranger, tokens: Mapping[str, TokenVectors], seed: int) -> float | None:
        """The share of images in which ``left`` is recognized on the left and ``right`` on the right."""
        cases = list(itertools.product(enumerate(self.testbed.pair_prompts), range(self.images_per_prompt)))
        if not cases:
            return None
        prompts = [case.prompt.format(placeholder(left.name), placeholder(right.name)) for (_, case), _ in cases]
        seeds = [_seed(seed, 1000 + index, number) for (index, _), number in cases]
        images = generate(self.testbed, prompts, tokens, seeds)
        rows = self._row[left.name], self._row[right.name]
        return sum(self._shows_both(image, rows) for image in images) / len(images)

    def _shows_both(self, image: Pixels, rows: tuple[int, int]) -> bool:
        faces = self.testbed.detect(image)[:2]
        if len(faces) < 2:
            return False
        faces.sort(key=_center)
        similarities = [self._first.likeness(self.testbed.judge.embed(image, face)) for face in faces]
        return tuple(int(row.argmax()) for row in similarities) == rows


def diversity(by_prompt: Sequence[Sequence[Pixels]]) -> float | None:
    """Root-mean-square difference (0 to 1) of two reduced images of one prompt, over all pairs and prompts."""
    distances = []
    for images in by_prompt:
        small = [_reduced(image) for image in images]
        distances += [float(np.sqrt(np.mean((a - b) ** 2))) for a, b in itertools.combinations(small, 2)]
    return float(np.mean(distances)) if distances else None


def placeholder(name: str) -> str:
    """The placeholder token of a stranger in a prompt."""
    return f"<{name}>"


def _gallery(testbed: EvidenceTestbed, judge: FaceJudge) -> Gallery:
    vectors = []
    for stranger in testbed.strangers:
        faces = [(image, testbed.detect(image)) for image in stranger.references]
        embedded = [judge.embed(image, found[0]) for image, found in faces if found]
        if not embedded:
            raise ValueError(f"no face is found in any reference of {stranger.name}")
        vectors.append(np.mean(embedded, axis=0))
    return Gallery(judge, np.stack(vectors).astype(np.float32))


def _center(face: DetectedFace) -> float:
    return face.box[0] + face.box[2]


def _seed(seed: int, prompt: int, number: int) -> int:
    return (seed * 10_000 + prompt) * 100 + number


def _reduced(image: Pixels) -> Floats:
    small = Image.fromarray(image).resize((_SMALL, _SMALL), Image.Resampling.BOX)
    reduced: Floats = np.asarray(small, np.float32) / np.float32(255)
    return reduced
