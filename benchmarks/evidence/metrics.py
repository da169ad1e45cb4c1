"""Metrics of learned token vectors: images are generated for every prompt and scored by the testbed's judges."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.evidence.testbed import EvidenceTestbed, FaceJudge, Person, generate
from celeb_basis.diffusion_model import TokenVectors
from celeb_basis.faces.network import DetectedFace, Floats, Pixels

METRICS = ("identity", "recognized", "second_opinion", "third_opinion", "prompt", "detect", "diversity")
"""Metrics of one person; ``both`` is that of images with two people."""

_SMALL = 16
"""Side in pixels to which images are reduced before they are compared for diversity."""


@dataclass(frozen=True)
class Gallery:
    """The references of all people as a judge sees them; a person's vector is the mean of their references'."""

    judge: FaceJudge
    vectors: Floats

    def likeness(self, vector: Floats) -> Floats:
        """``(M,)`` similarities to everyone."""
        row: Floats = self.judge.likeness(np.asarray(vector)[None], self.vectors)[0]
        return row


class Evaluator:
    """Measures token vectors that stand for people, or names that the model knows."""

    def __init__(
        self, testbed: EvidenceTestbed, images_per_prompt: int, people: Sequence[Person] | None = None
    ) -> None:
        """Embed the references of all people. The images' seeds are the same for every method.

        Args:
            testbed: What generates and scores.
            images_per_prompt: Images of each prompt.
            people: Among whom everyone must be recognized; the testbed's strangers by default.
        """
        self.testbed, self.images_per_prompt = testbed, images_per_prompt
        people = testbed.strangers if people is None else people
        self._row = {person.name: row for row, person in enumerate(people)}
        self._first = _gallery(testbed, testbed.judge, people)
        others = {"second_opinion": testbed.second_judge, "third_opinion": testbed.third_judge}
        self._others = {
            metric: None if judge is None else _gallery(testbed, judge, people) for metric, judge in others.items()
        }

    def measure(self, group: Sequence[Person], token_vectors: Mapping[str, TokenVectors], seed: int) -> dict[str, Any]:
        """Metrics of each person of ``group``, by name, and of each two neighbors together.

        Args:
            group: The people who were learned together.
            token_vectors: By the people's names. Someone who has none stands in prompts by name.
            seed: Seed of the run; the images' seeds derive from it.
        """
        placeholders = {placeholder(name): vectors for name, vectors in token_vectors.items()}
        people = {one.name: self._person(one, placeholders, seed) for one in group}
        pairs = {
            f"{one.name} & {other.name}": {"both": self._pair(one, other, placeholders, seed)}
            for one, other in zip(group[::2], group[1::2], strict=False)
        }
        return {"people": people, "pairs": pairs}

    def _person(self, person: Person, tokens: Mapping[str, TokenVectors], seed: int) -> dict[str, float | None]:
        testbed = self.testbed
        cases = list(itertools.product(enumerate(testbed.prompts), range(self.images_per_prompt)))
        prompts = [case.prompt.format(_in_prompt(person, tokens)) for (_, case), _ in cases]
        images = generate(testbed, prompts, tokens, [_seed(seed, index, number) for (index, _), number in cases])
        row = self._row[person.name]
        first, hits, found = [], 0, 0
        opinions: dict[str, list[float]] = {metric: [] for metric in self._others}
        for image in images:
            if not (faces := testbed.detect(image)):
                continue
            found += 1
            similarities = self._first.likeness(testbed.judge.embed(image, faces[0]))
            first.append(float(similarities[row]))
            hits += int(similarities.argmax()) == row
            for metric, gallery in self._others.items():
                if gallery is not None:
                    opinions[metric].append(float(gallery.likeness(gallery.judge.embed(image, faces[0]))[row]))
        scores = [one for one in testbed.score_prompts(images, [case for (_, case), _ in cases]) if one is not None]
        count = self.images_per_prompt
        by_prompt = [images[start : start + count] for start in range(0, len(images), count)]
        return {
            "identity": float(np.mean(first)) if first else None,
            "recognized": hits / len(images),
            **{metric: float(np.mean(values)) if values else None for metric, values in opinions.items()},
            "prompt": float(np.mean(scores)) if scores else None,
            "detect": found / len(images),
            "diversity": diversity(by_prompt),
        }

    def _pair(self, left: Person, right: Person, tokens: Mapping[str, TokenVectors], seed: int) -> float | None:
        """The share of images in which ``left`` is recognized on the left and ``right`` on the right."""
        cases = list(itertools.product(enumerate(self.testbed.pair_prompts), range(self.images_per_prompt)))
        if not cases:
            return None
        both = (_in_prompt(left, tokens), _in_prompt(right, tokens))
        prompts = [case.prompt.format(*both) for (_, case), _ in cases]
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


def _in_prompt(person: Person, tokens: Mapping[str, TokenVectors]) -> str:
    """How a person is named in a prompt: by their placeholder token if it has vectors, else by their name."""
    token = placeholder(person.name)
    return token if token in tokens else person.name


def _gallery(testbed: EvidenceTestbed, judge: FaceJudge, people: Sequence[Person]) -> Gallery:
    vectors = []
    for person in people:
        faces = [(image, testbed.detect(image)) for image in person.references]
        embedded = [judge.embed(image, found[0]) for image, found in faces if found]
        if not embedded:
            raise ValueError(f"no face is found in any reference of {person.name}")
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
