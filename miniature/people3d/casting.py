"""Choosing people for a world: a face is found in every picture, nobody looks odd, and two judges tell all apart.

``python -m miniature.people3d.casting people.json --wanted 1060`` goes on where it stopped: the file is written after
each person that is kept.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels
from celeb_basis.files import write_json
from miniature.people3d.looks import draw_lighting
from miniature.people3d.person import Person, draw_person, linear
from miniature.people3d.portrait import Model, Pose

_log = logging.getLogger(__name__)

SIDE = 160
_LOOKS = ((Pose(), "neutral", "soft"), (Pose(22, 4, 0), "smile", "studio"), (Pose(-18, -3, 2), "laugh", "warm"))
"""Poses, expressions and lights in which a person is looked at."""

MOST_ODD = 1.6
"""Highest :attr:`~miniature.people3d.person.Person.oddness`; at a spread of 1.4, the mean is 1.37."""

_LEAST_SCORE = 0.9


class Judge(Protocol):
    """A face network that compares people, as those of ``miniature.training.dlib_judge``."""

    name: str

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        """The vector of a detected face."""

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        """``(N, M)`` likeness of N faces with M others."""


@dataclass(frozen=True)
class Bounds:
    """What one judge must say."""

    judge: Judge
    most_alike: float
    """Highest likeness of two people."""
    least_steady: float
    """Lowest likeness of two pictures of one person."""


def pictures_of(person: Person, side: int = SIDE) -> list[Pixels]:
    """The pictures by which people are compared, in front of gray."""
    model, rng = Model(person), np.random.default_rng((person.number, 11))
    background = np.ones((side, side, 3), np.float32) * linear(150, 150, 150).astype(np.float32)
    return [
        model.picture(side, pose, expression, lighting=draw_lighting(light, rng), clothes=None).over(background)
        for pose, expression, light in _LOOKS
    ]


class Casting:
    """The people who were chosen, and their faces as each judge sees them."""

    def __init__(self, detector: FaceNetwork, bounds: Sequence[Bounds]) -> None:
        self._detector, self._bounds = detector, bounds
        self._faces: list[list[Floats]] = [[] for _ in bounds]
        self.numbers: list[int] = []

    def consider(self, person: Person) -> str:
        """Keep a person, or say why not."""
        if person.oddness > MOST_ODD:
            return "odd"
        pictures = pictures_of(person)
        found = [self._detector.detect(picture) for picture in pictures]
        if any(len(faces) != 1 or faces[0].score < _LEAST_SCORE for faces in found):
            return "no clear face"
        seen = [
            np.stack([bound.judge.embed(picture, faces[0]) for picture, faces in zip(pictures, found, strict=True)])
            for bound in self._bounds
        ]
        for bound, vectors, others in zip(self._bounds, seen, self._faces, strict=True):
            if bound.judge.likeness(vectors[1:], vectors[:1]).min() < bound.least_steady:
                return f"unsteady for {bound.judge.name}"
            if others and bound.judge.likeness(vectors[:1], np.stack(others)).max() > bound.most_alike:
                return f"like somebody else for {bound.judge.name}"
        self.numbers.append(person.number)
        for others, vectors in zip(self._faces, seen, strict=True):
            others.append(vectors[0])
        return ""

    def state(self, following: int, spread: float) -> dict[str, Any]:
        """What :meth:`restore` reads."""
        faces = {
            bound.judge.name: np.round(np.stack(vectors), 4).tolist() if vectors else []
            for bound, vectors in zip(self._bounds, self._faces, strict=True)
        }
        return {"spread": spread, "next": following, "numbers": self.numbers, "faces": faces}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state with the same judges."""
        self.numbers = list(state["numbers"])
        self._faces = [list(np.array(state["faces"][bound.judge.name], np.float32)) for bound in self._bounds]


def cast(casting: Casting, first: int, wanted: int, spread: float) -> Iterator[tuple[int, str]]:
    """Consider people from a number on until ``wanted`` are chosen: yields each number, and why it was passed over."""
    number = first
    while len(casting.numbers) < wanted:
        yield number, casting.consider(draw_person(number, spread))
        number += 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose people and write their numbers."""
    from miniature.training.dlib_judge import DlibJudge, RecognitionJudge
    from miniature.training.places import face_network

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--wanted", type=int, default=1060, help="people to choose (%(default)s)")
    parser.add_argument("--spread", type=float, default=1.4, help="how far features vary (%(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    network = face_network()
    casting = Casting(network, [Bounds(RecognitionJudge(network), 0.5, 0.6), Bounds(DlibJudge(), 0.55, 0.5)])
    first = 0
    if options.file.exists():
        state = json.loads(options.file.read_text(encoding="utf-8"))
        casting.restore(state)
        first, options.spread = state["next"], state["spread"]
    for number, problem in cast(casting, first, options.wanted, options.spread):
        if not problem:
            write_json(options.file, casting.state(number + 1, options.spread))
            _log.info("%d of %d after %d candidates", len(casting.numbers), options.wanted, number + 1)


if __name__ == "__main__":
    main()
