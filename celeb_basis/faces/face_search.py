"""Finding the people in a photo as people have them: on its side, with small faces, or with what only looks like a face.

An ordinary photo is looked at once. Only where that finds no face, or a doubtful one, the photo is turned in four ways, and
a large one is looked at in tiles. Scores and lengths are compared with those of a clear face, so that they hold for any
model pack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from celeb_basis.errors import FaceError
from celeb_basis.faces.crops import square_crop
from celeb_basis.faces.network import DetectedFace, DiscerningNetwork, FaceNetwork, Floats, Pixels

SURE = 0.85
"""The likeness to a clear face (score times length of the vector, as shares of its own) above which nobody looks again.
Measured with the shipped pack: 77 of 78 photos of people have 0.92 and more, the other one 0.66."""

REAL = 0.7
"""The mean likeness of :data:`_SECOND_LOOKS` below which it is no person's face. People in 230 photos, many of them blurred,
darkened or shrunk on purpose, have 0.74 and more; a cat in 150 versions has 0.66 and less."""

CERTAIN_SCORE = 0.995
"""A level face with this score (not a share) is not graded, which saves time: nothing else had more than 0.994."""

SURE_SCORE = 0.9
SURE_LENGTH = 0.86
LEVEL = 45.0
"""The largest face of an upright photo has these shares, and eyes within these degrees of level. Of 75 upright photos and
their 225 turned copies, each was recognized as what it was."""

BETTER = 0.1
"""By so much the quality of a face must grow for the photo to be turned."""

TILE = 1280
"""Side of the tiles in pixels. Detectors shrink a picture to 640 pixels, and of faces narrower than 1/30 nothing is left."""

_OVERLAP = 0.25
_TURNED_SIDE = 1280
"""A photo is turned at this size to find out how it lies."""
_TURNED_TILED_SIDE = 2560
_SECOND_LOOKS = ((320, 0, False), (320, 0, True), (200, 0, False), (320, 10, False))
"""Side of the face's crop in pixels, degrees by which it is turned, and whether it is mirrored."""
_MOST_GRADED = 8
"""Further faces with a low score are graded up to this number, to keep group photos fast."""


@dataclass(frozen=True)
class FaceSearch:
    """The faces of a photo, and the photo as it was looked at."""

    picture: Pixels
    """The photo, turned upright if it was not. Faces are in its pixels."""
    faces: list[DetectedFace]
    """Largest first."""
    turns: int = 0
    """Quarter turns to the left by which the photo was turned."""
    rejected: bool = False
    """Whether something was left out because it only looks like a face."""
    aligned: Pixels | None = None
    """Aligned crop of the first face, if it was made."""
    vector: Floats | None = None
    """``(512,)`` face vector of the first face, if it was computed."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence if the photo was turned."""
        if not self.turns:
            return ()
        how = {1: "by 90 degrees to the left", 2: "by 180 degrees", 3: "by 90 degrees to the right"}[self.turns]
        lies = "is upside down" if self.turns == 2 else "lies on its side"
        return (f"The photo {lies}, and was turned upright {how}: turn it yourself if that is wrong.",)

    def choose(self, choose: int | tuple[float, float] | None = None, source: str = "the photo") -> DetectedFace:
        """The largest face, the one with a number, or the one at or nearest to a point x, y of the photo as it was given.

        Raises:
            FaceError: If there is no such face.
        """
        if not self.faces and self.rejected:
            raise FaceError(
                f"What looks like a face in {source} is hardly a person's (an animal, a drawing or a pattern, or much too "
                "dark or blurred): use a photo that shows one face from the front, upright, well lit and not cropped."
            )
        if isinstance(choose, tuple):
            choose = _turned_point(choose, self.picture.shape, self.turns)
        return choose_face(self.faces, choose, source)

    def align(self, face: DetectedFace, network: FaceNetwork) -> Pixels:
        """Aligned crop of one of the faces."""
        if self.aligned is not None and face is self.faces[0]:
            return self.aligned
        return network.align(self.picture, face.landmarks)

    def embed(self, face: DetectedFace, network: FaceNetwork) -> tuple[Pixels, Floats]:
        """Aligned crop and face vector of one of the faces."""
        aligned = self.align(face, network)
        if self.vector is not None and face is self.faces[0]:
            return aligned, self.vector
        return aligned, network.embed([aligned])[0]


def choose_face(
    found: list[DetectedFace], choose: int | tuple[float, float] | None = None, source: str = "the photo"
) -> DetectedFace:
    """The largest of ``found`` (largest first), the one with a number, or the one at a point x, y or nearest to it.

    Raises:
        FaceError: If there is no such face.
    """
    if not found:
        raise FaceError(
            f"No face was found in {source}: use a photo that shows one face from the front, upright, well lit and not "
            "cropped."
        )
    if choose is None:
        return found[0]
    if not isinstance(choose, int):
        point = choose
        return min(found, key=lambda face: (_distance(face, point), face.area))
    if not 0 <= choose < len(found):
        count = "only one face was" if len(found) == 1 else f"{len(found)} faces were"
        raise FaceError(
            f"There is no face number {choose} in {source}, where {count} found: choose from 0 (the largest) to "
            f"{len(found) - 1}."
        )
    return found[choose]


def find_faces(photo: Pixels, network: FaceNetwork) -> FaceSearch:
    """Every face of a photo, largest first.

    Args:
        photo: The photo. If its largest face is upright in another of its four turns, that turn is looked at.
        network: One that is no :class:`DiscerningNetwork` is trusted as it is.
    """
    if not isinstance(network, DiscerningNetwork):
        return FaceSearch(photo, network.detect(photo))
    looks = _Looks(network)
    upright = looks.at(photo)
    if upright.sure:
        return upright.search
    small = _within(photo, _TURNED_SIDE)
    turned = [looks.at(_turned(small, turns), turns) for turns in (1, 2, 3)]
    best = max(turned, key=lambda one: one.quality)
    if best.quality > upright.quality + BETTER:
        return best.search if small is photo else looks.at(_turned(photo, best.search.turns), best.search.turns).search
    if upright.search.faces:
        return upright.search
    if max(photo.shape[:2]) >= 1.25 * TILE:
        for turns in range(4):
            # On its side, too, a photo may show a small face, but is looked at more coarsely.
            coarse = _within(photo, _TURNED_TILED_SIDE) if turns else photo
            tiled = looks.in_tiles(_turned(coarse, turns), turns)
            if tiled.search.faces and coarse is not photo:
                tiled = looks.in_tiles(_turned(photo, turns), turns)
            if tiled.search.faces:
                return tiled.search
    rejected = upright.search.rejected or any(one.search.rejected for one in turned)
    return replace(upright.search, rejected=rejected)


@dataclass(frozen=True)
class _Look:
    """What one look at a picture found, with shares of a clear face's score and length for the largest face."""

    search: FaceSearch
    score: float = 0.0
    length: float = 0.0

    @property
    def level(self) -> bool:
        return bool(self.search.faces) and is_level(self.search.faces[0])

    @property
    def sure(self) -> bool:
        return self.score >= SURE_SCORE and self.length >= SURE_LENGTH and self.level

    @property
    def quality(self) -> float:
        return self.score * self.length * (1.0 if self.level else 0.8)


@dataclass(frozen=True)
class _Grade:
    """A face's score and its vector's length, as shares of a clear face's; the best ones by default."""

    score: float = 1.0
    length: float = 1.0
    aligned: Pixels | None = None
    vector: Floats | None = None


class _Looks:
    """Detects and grades faces with one network."""

    def __init__(self, network: DiscerningNetwork) -> None:
        self._network = network
        self._clear = network.clear_face

    def at(self, picture: Pixels, turns: int = 0) -> _Look:
        return self._graded(picture, self._network.detect(picture), turns)

    def in_tiles(self, picture: Pixels, turns: int) -> _Look:
        """Look again at overlapping parts of a large picture."""
        found: list[DetectedFace] = []
        for left, top in _tiles(picture.shape[1], picture.shape[0], TILE):
            tile = np.ascontiguousarray(picture[top : top + TILE, left : left + TILE])
            found += [face.moved(left, top) for face in self._network.detect_once(tile)]
        return self._graded(picture, _without_doubles(found), turns)

    def _graded(self, picture: Pixels, found: list[DetectedFace], turns: int) -> _Look:
        """Leave out what only looks like a face, and grade the largest of the rest."""
        faces: list[DetectedFace] = []
        first: _Grade | None = None
        rejected, graded = False, 0
        for face in found:
            beyond_doubt = face.score >= CERTAIN_SCORE and is_level(face)
            if first is not None and (face.score >= SURE_SCORE * self._clear.score or graded >= _MOST_GRADED):
                faces.append(face)
                continue
            graded += 1
            grade = _Grade() if beyond_doubt else self._grade(picture, face)
            if grade.score * grade.length < SURE and self._looked_at_again(picture, face) < REAL:
                rejected = True
                continue
            faces.append(face)
            first = first or grade
        if first is None:
            return _Look(FaceSearch(picture, [], turns, rejected))
        return _Look(
            FaceSearch(picture, faces, turns, rejected, first.aligned, first.vector), first.score, first.length
        )

    def _grade(self, picture: Pixels, face: DetectedFace) -> _Grade:
        aligned = self._network.align(picture, face.landmarks)
        vectors, lengths = self._network.embed_with_lengths([aligned])
        score = min(1.0, face.score / self._clear.score)
        return _Grade(score, min(1.0, float(lengths[0]) / self._clear.length), aligned, vectors[0])

    def _looked_at_again(self, picture: Pixels, face: DetectedFace) -> float:
        """Mean likeness to a clear face in versions of the face's crop: what is no face is seldom taken for one again."""
        likeness = []
        for side, degrees, mirrored in _SECOND_LOOKS:
            try:
                image = Image.fromarray(square_crop(picture, face.landmarks, side).picture)
            except FaceError:  # landmarks that span no square
                return 0.0
            if mirrored:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if degrees:
                image = image.rotate(degrees, Image.Resampling.BILINEAR)
            again = np.array(image)
            found = max(self._network.detect_once(again), key=lambda one: one.area, default=None)
            if found is None:
                likeness.append(0.0)
                continue
            grade = self._grade(again, found)
            likeness.append(grade.score * grade.length)
        return float(np.mean(likeness))


def _within(picture: Pixels, side: int) -> Pixels:
    """The picture, shrunk if it is larger than ``side`` pixels."""
    longest = max(picture.shape[:2])
    if longest <= side:
        return picture
    size = (max(1, picture.shape[1] * side // longest), max(1, picture.shape[0] * side // longest))
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _turned(picture: Pixels, turns: int) -> Pixels:
    """The picture after quarter turns to the left."""
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def roll(landmarks: Floats) -> float:
    """Degrees between the line of the eyes and the horizontal: 0 for an upright face, 180 for one upside down."""
    x, y = np.asarray(landmarks[1], np.float64) - np.asarray(landmarks[0], np.float64)
    return float(np.degrees(np.arctan2(y, x)))


def is_level(face: DetectedFace) -> bool:
    """Whether a face is roughly upright."""
    return abs(roll(face.landmarks)) <= LEVEL


def _distance(face: DetectedFace, point: tuple[float, float]) -> float:
    """Pixels from a point to a face's box; 0 inside."""
    left, top, right, bottom = face.box
    x, y = point
    return float(np.hypot(max(left - x, 0.0, x - right), max(top - y, 0.0, y - bottom)))


def _turned_point(point: tuple[float, float], shape: Sequence[int], turns: int) -> tuple[float, float]:
    """Where a point of the photo lies after quarter turns to the left; ``shape`` is that of the turned photo."""
    height, width = shape[:2]
    x, y = point
    if turns == 1:
        return y, height - x
    if turns == 2:
        return width - x, height - y
    return (width - y, x) if turns == 3 else (x, y)


def _tiles(width: int, height: int, side: int) -> Iterator[tuple[int, int]]:
    """Left and top of overlapping squares that cover a picture."""

    def starts(length: int) -> list[int]:
        if length <= side:
            return [0]
        count = int(np.ceil((length - side) / (side * (1 - _OVERLAP)))) + 1
        return [round(position) for position in np.linspace(0, length - side, count)]

    return ((left, top) for top in starts(height) for left in starts(width))


def _without_doubles(found: list[DetectedFace]) -> list[DetectedFace]:
    """Every face once, largest first: two tiles may show one face, or a part of it. The surer one stays."""
    kept: list[DetectedFace] = []
    for face in sorted(found, key=lambda one: (-one.score, one.box)):
        if all(_shared(face, other) < 0.5 for other in kept):
            kept.append(face)
    return sorted(kept, key=lambda one: (-one.area, one.box))


def _shared(one: DetectedFace, other: DetectedFace) -> float:
    """Share of the smaller box that lies in the other one."""
    left, top = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    right, bottom = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    return max(0.0, right - left) * max(0.0, bottom - top) / max(min(one.area, other.area), 1e-9)
