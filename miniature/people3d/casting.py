"""Choosing people for a world: a face is found in every picture, nobody looks odd, and two judges tell all apart.

The more people there are, the more rarely another one differs from all of them. So many are invented, and only the one
is drawn of whom a linear model, fitted to the people chosen so far, expects the least likeness to anybody.

``python -m miniature.people3d.casting --wanted 1060`` goes on where it stopped: the file is written after each person
that is kept. It holds numbers alone, since the same number is the same person; their faces are looked at again.
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
from miniature.people3d.hair import STYLES
from miniature.people3d.head_model import Array, head_model
from miniature.people3d.looks import draw_lighting
from miniature.people3d.person import BEARDS, Person, draw_person, linear
from miniature.people3d.portrait import Model, Pose

_log = logging.getLogger(__name__)

CASTING_FILE = Path(__file__).with_name("casting.json")
"""The casting that comes with the project."""

SIDE = 160
_LOOKS = ((Pose(), "neutral", "soft"), (Pose(22, 4, 0), "smile", "studio"), (Pose(-18, -3, 2), "laugh", "warm"))
"""Poses, expressions and lights in which a person is looked at."""

MOST_ODD = 1.6
"""Highest :attr:`~miniature.people3d.person.Person.oddness`; at a spread of 1.4, the mean is 1.37."""

_LEAST_SCORE = 0.9

_FORECAST_FROM = 60
"""People from whom on the linear model chooses whom to draw."""
_MOST_INVENTED = 250
_RIDGE = 3.0


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


def pictures_of(person: Person, side: int = SIDE) -> Iterator[Pixels]:
    """The pictures by which people are compared, in front of gray: the first from the front."""
    model, rng = Model(person), np.random.default_rng((person.number, 11))
    background = np.ones((side, side, 3), np.float32) * linear(150, 150, 150).astype(np.float32)
    for pose, expression, light in _LOOKS:
        yield model.picture(side, pose, expression, lighting=draw_lighting(light, rng), clothes=None).over(background)


def features_of(person: Person) -> Array:
    """``(F,)`` numbers that describe a person: weights of shape targets, age, hair, brows, beard, colors."""
    shape = [person.shape.get(target, 0.0) for target in sorted(head_model().targets)]
    hair, brows, skin, eyes = person.hair, person.brows, person.skin, person.eyes
    styles = [float(hair.style == style) for style in ("bald", *sorted(STYLES))]
    beards = [person.beard.shadow * (person.beard.kind == kind) for kind in BEARDS]
    single = [person.male, person.age, hair.length, hair.volume, hair.curl, hair.recession, hair.hairline]
    single += [10 * brows.thickness, 10 * brows.arch, brows.density, 10 * brows.height, 10 * brows.tail]
    single += [skin.darkness, skin.redness, skin.freckles, skin.bags, eyes.makeup]
    colors = np.sqrt(np.concatenate([hair.color, brows.color, skin.color, skin.lips, eyes.outer]))
    return np.array([*shape, *styles, *beards, *single, *colors], np.float32)


class Casting:
    """The people who were chosen, and their faces as each judge sees them."""

    def __init__(self, detector: FaceNetwork, bounds: Sequence[Bounds]) -> None:
        self._detector, self._bounds = detector, bounds
        self._faces: list[list[Floats]] = [[] for _ in bounds]
        self._features: list[Array] = []
        self.numbers: list[int] = []

    def consider(self, person: Person) -> str:
        """Keep a person, or say why not. What is cheap to find out is found out first."""
        if person.oddness > MOST_ODD:
            return "odd"
        firsts: list[Floats] = []
        for order, picture in enumerate(pictures_of(person)):
            face = self._clear_face(picture)
            if face is None:
                return "no clear face"
            for place, bound in enumerate(self._bounds):
                vector, others = bound.judge.embed(picture, face), self._faces[place]
                if order == 0:
                    if others and bound.judge.likeness(vector[None], np.stack(others)).max() > bound.most_alike:
                        return f"like another person for {bound.judge.name}"
                    firsts.append(vector)
                elif bound.judge.likeness(vector[None], firsts[place][None]).min() < bound.least_steady:
                    return f"unsteady for {bound.judge.name}"
        self.keep(person, firsts)
        return ""

    def most_promising(self, people: Sequence[Person]) -> Person:
        """The one of whom a linear model expects the least likeness to those who were chosen."""
        features = np.stack(self._features)
        mean, spread = features.mean(0), features.std(0) + 1e-3
        known = (features - mean) / spread
        asked = (np.stack([features_of(person) for person in people]) - mean) / spread
        # The dual form: there are fewer people than features at first.
        weights = asked @ known.T @ np.linalg.inv(known @ known.T + _RIDGE * len(known) * np.eye(len(known)))
        doubts = np.full(len(people), -np.inf)
        for bound, faces in zip(self._bounds, self._faces, strict=True):
            seen = np.stack(faces)
            center = seen.mean(0)
            expected = (center + weights @ (seen - center)).astype(np.float32)
            alike = bound.judge.likeness(expected, seen).max(1)
            doubts = np.maximum(doubts, (alike - alike.mean()) / (alike.std() + 1e-6))
        return people[int(doubts.argmin())]

    def state(self, following: int, spread: float) -> dict[str, Any]:
        """What :meth:`restore` reads: numbers alone."""
        return {"spread": spread, "next": following, "numbers": self.numbers}

    def restore(self, state: dict[str, Any]) -> None:
        """Look again at the people of a state, and leave out those who have no clear face any more."""
        for number in state["numbers"]:
            person = draw_person(number, state["spread"])
            picture = next(pictures_of(person))
            face = self._clear_face(picture)
            if face is None:
                _log.warning("%d has no clear face any more and is left out", number)
                continue
            self.keep(person, [bound.judge.embed(picture, face) for bound in self._bounds])

    def keep(self, person: Person, faces: Sequence[Floats]) -> None:
        """Choose a person without looking, with a face vector for each judge."""
        self.numbers.append(person.number)
        self._features.append(features_of(person))
        for others, face in zip(self._faces, faces, strict=True):
            others.append(face)

    def _clear_face(self, picture: Pixels) -> DetectedFace | None:
        found = self._detector.detect(picture)
        return found[0] if len(found) == 1 and found[0].score >= _LEAST_SCORE else None


def cast(casting: Casting, first: int, wanted: int, spread: float) -> Iterator[tuple[int, int, str]]:
    """Consider people from a number on until ``wanted`` are chosen.

    Yields:
        The number that comes next, the number that was considered, and why it was passed over, if it was.
    """
    following = first
    while (count := len(casting.numbers)) < wanted:
        invented = min(_MOST_INVENTED, max(1, count // 4)) if count >= _FORECAST_FROM else 1
        people = [draw_person(number, spread) for number in range(following, following + invented)]
        following += invented
        usual = [person for person in people if person.oddness <= MOST_ODD]
        person = casting.most_promising(usual) if len(usual) > 1 else (usual or people)[0]
        yield following, person.number, casting.consider(person)


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose people and write their numbers."""
    from miniature.training.dlib_judge import DlibJudge, RecognitionJudge
    from miniature.training.places import face_network

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=CASTING_FILE, help="%(default)s")
    parser.add_argument("--wanted", type=int, default=1060, help="people to choose (%(default)s)")
    parser.add_argument("--spread", type=float, default=1.4, help="how far features vary (%(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    network = face_network()
    casting = Casting(network, [Bounds(RecognitionJudge(network), 0.55, 0.6), Bounds(DlibJudge(), 0.6, 0.5)])
    first = 0
    if options.file.exists():
        state = json.loads(options.file.read_text(encoding="utf-8"))
        _log.info("Looking again at %d people who were chosen before", len(state["numbers"]))
        casting.restore(state)
        first, options.spread = state["next"], state["spread"]
    passed = 0
    for following, _, problem in cast(casting, first, options.wanted, options.spread):
        if problem:
            passed += 1
            continue
        write_json(options.file, casting.state(following, options.spread))
        _log.info(
            "%d of %d after %d candidates, %d drawn in vain", len(casting.numbers), options.wanted, following, passed
        )


if __name__ == "__main__":
    main()
