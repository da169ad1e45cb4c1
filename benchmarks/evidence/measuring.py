"""From a contestant's words to figures: draw every prompt, look at every picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.evidence.drawing import draw
from benchmarks.evidence.world import EvidenceWorld, Judge, Stranger
from celeb_basis.diffusion_model import TokenVectors
from celeb_basis.faces.types import DetectedFace, Floats, Pixels

FIGURES = ("identity", "recognised", "second", "prompt", "detect", "diversity")
"""Of one person; ``both`` is that of two people's pictures."""

_SMALL = 16
"""Side to which pictures are brought before they are compared for diversity."""


@dataclass(frozen=True)
class Gallery:
    """References of all strangers, as a judge sees them; a stranger's vector is the mean of the references'."""

    judge: Judge
    vectors: Floats

    def likeness(self, vector: Floats) -> Floats:
        """``(M,)`` to every stranger."""
        row: Floats = self.judge.likeness(np.asarray(vector)[None], self.vectors)[0]
        return row


class Ruler:
    """Measures words that stand for strangers."""

    def __init__(self, world: EvidenceWorld, pictures: int) -> None:
        """``pictures``: drawn of each prompt, with seeds that are the same for every contestant."""
        self.world, self.pictures = world, pictures
        self._row = {stranger.name: row for row, stranger in enumerate(world.strangers)}
        self._first, self._second = (_gallery(world, judge) for judge in (world.judge, world.second))

    def measure(self, group: Sequence[Stranger], words: Mapping[str, TokenVectors], seed: int) -> dict[str, Any]:
        """Figures of each person of ``group`` (by name), and of each two neighbours together.

        Parameters: ``words`` by the strangers' names.
        """
        placed = {word_of(name): vectors for name, vectors in words.items()}
        people = {one.name: self._person(one, placed, seed) for one in group}
        pairs = {
            f"{one.name} & {other.name}": {"both": self._pair(one, other, placed, seed)}
            for one, other in zip(group[::2], group[1::2], strict=False)
        }
        return {"people": people, "pairs": pairs}

    def _person(self, person: Stranger, words: Mapping[str, TokenVectors], seed: int) -> dict[str, float | None]:
        asks = list(itertools.product(enumerate(self.world.asks), range(self.pictures)))
        prompts = [ask.prompt.format(word_of(person.name)) for (_, ask), _ in asks]
        drawn = draw(self.world, prompts, words, [_noise(seed, index, number) for (index, _), number in asks])
        labels = self.world.scenes(drawn)
        row = self._row[person.name]
        first, second, hits, found = [], [], 0, 0
        for picture in drawn:
            if not (faces := self.world.detect(picture)):
                continue
            found += 1
            seen = self._first.likeness(self.world.judge.embed(picture, faces[0]))
            first.append(float(seen[row]))
            hits += int(seen.argmax()) == row
            second.append(float(self._second.likeness(self.world.second.embed(picture, faces[0]))[row]))
        right = [ask.label in seen_labels for ((_, ask), _), seen_labels in zip(asks, labels, strict=True)]
        of_prompt = [drawn[start : start + self.pictures] for start in range(0, len(drawn), self.pictures)]
        return {
            "identity": float(np.mean(first)) if first else None,
            "recognised": hits / len(drawn),
            "second": float(np.mean(second)) if second else None,
            "prompt": float(np.mean(right)),
            "detect": found / len(drawn),
            "diversity": diversity(of_prompt),
        }

    def _pair(self, left: Stranger, right: Stranger, words: Mapping[str, TokenVectors], seed: int) -> float | None:
        """Share of pictures of two people in which the left one is recognised on the left, the right on the right."""
        asks = list(itertools.product(enumerate(self.world.together), range(self.pictures)))
        if not asks:
            return None
        prompts = [ask.prompt.format(word_of(left.name), word_of(right.name)) for (_, ask), _ in asks]
        drawn = draw(self.world, prompts, words, [_noise(seed, 1000 + index, n) for (index, _), n in asks])
        rows = self._row[left.name], self._row[right.name]
        return sum(self._stand(picture, rows) for picture in drawn) / len(drawn)

    def _stand(self, picture: Pixels, rows: tuple[int, int]) -> bool:
        faces = self.world.detect(picture)[:2]
        if len(faces) < 2:
            return False
        faces.sort(key=_middle)
        seen = [self._first.likeness(self.world.judge.embed(picture, face)) for face in faces]
        return tuple(int(row.argmax()) for row in seen) == rows


def diversity(of_prompts: Sequence[Sequence[Pixels]]) -> float | None:
    """Root-mean-square difference (0 to 1) of small copies of two pictures of one prompt, over all pairs and prompts."""
    distances = []
    for pictures in of_prompts:
        small = [_small(picture) for picture in pictures]
        distances += [float(np.sqrt(np.mean((a - b) ** 2))) for a, b in itertools.combinations(small, 2)]
    return float(np.mean(distances)) if distances else None


def word_of(name: str) -> str:
    """How a stranger is spelled in a prompt."""
    return f"<{name}>"


def _gallery(world: EvidenceWorld, judge: Judge) -> Gallery:
    vectors = []
    for stranger in world.strangers:
        faces = [(picture, world.detect(picture)) for picture in stranger.references]
        seen = [judge.embed(picture, found[0]) for picture, found in faces if found]
        if not seen:
            raise ValueError(f"no face is found in any reference of {stranger.name}")
        vectors.append(np.mean(seen, axis=0))
    return Gallery(judge, np.stack(vectors).astype(np.float32))


def _middle(face: DetectedFace) -> float:
    return face.box[0] + face.box[2]


def _noise(seed: int, prompt: int, picture: int) -> int:
    return (seed * 10_000 + prompt) * 100 + picture


def _small(picture: Pixels) -> Floats:
    from PIL import Image

    image = Image.fromarray(picture).resize((_SMALL, _SMALL), Image.Resampling.BOX)
    small: Floats = np.asarray(image, np.float32) / np.float32(255)
    return small
