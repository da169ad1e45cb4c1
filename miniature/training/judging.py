"""Who is recognized in pictures: every judge compares them with other pictures of the people, in other looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels
from celeb_basis.files import atomic_path
from miniature.people3d.casting import Judge
from miniature.world.bank import Bank
from miniature.world.pool import Sitters

REFERENCES = 4
"""Pictures of a person with which others are compared."""
_NUMBERS = "numbers"


@dataclass(frozen=True)
class Verdict:
    """What a judge says of pictures that should show certain people."""

    ranks: NDArray[np.int64]
    """``(N,)`` how many people are more alike than the right one; all of them where no face was found."""
    likeness: Floats
    """``(N,)`` mean likeness to the pictures of the right person; NaN without a face."""

    def within(self, rank: int) -> float:
        """Share of the pictures in which the right person is among the first ``rank``."""
        return float((self.ranks < rank).mean())


class Gallery:
    """What the people look like to one judge."""

    def __init__(self, judge: Judge, detector: FaceNetwork) -> None:
        self.judge, self._detector = judge, detector
        self.faces: Floats = np.zeros((0, 0, 0), np.float32)
        """``(P, R, D)`` embeddings of R pictures of each person; NaN where no face was found."""

    def look(self, pictures: Sequence[Pixels], faces: Sequence[DetectedFace | None] | None = None) -> Floats:
        """``(N, D)`` embeddings of the largest faces; a row of NaN without one.

        Args:
            pictures: N pictures.
            faces: What :func:`largest_faces` found in them, if it has been asked.
        """
        faces = largest_faces(self._detector, pictures) if faces is None else faces
        found = [
            None if face is None else self.judge.embed(picture, face)
            for picture, face in zip(pictures, faces, strict=True)
        ]
        width = next((len(one) for one in found if one is not None), 1)
        none = np.full(width, np.nan, np.float32)
        return np.stack([none if one is None else one for one in found])

    def hang(
        self,
        pictures: Sequence[Sequence[Pixels]],
        faces: Sequence[Sequence[DetectedFace | None]] | None = None,
    ) -> None:
        """Look at the pictures of each person; ``faces`` as in :meth:`look`."""
        found: Sequence[Sequence[DetectedFace | None] | None] = faces or [None] * len(pictures)
        self.faces = np.stack([self.look(*both) for both in zip(pictures, found, strict=True)])

    def verdict(self, faces: Floats, wanted: NDArray[np.int64]) -> Verdict:
        """Compare ``(N, D)`` embeddings with everybody; ``wanted`` are the rows of the right people."""
        people, references, width = self.faces.shape
        seen = ~np.isnan(faces[:, 0])
        alike = np.full((len(faces), people), np.nan, np.float32)
        if seen.any():
            flat = self.judge.likeness(faces[seen], self.faces.reshape(-1, width))
            alike[seen] = np.nanmean(flat.reshape(-1, people, references), axis=2)
        own = alike[np.arange(len(faces)), wanted]
        ranks = np.where(seen, (alike > own[:, None]).sum(1), people)
        return Verdict(ranks.astype(np.int64), own)


def largest_faces(detector: FaceNetwork, pictures: Sequence[Pixels]) -> list[DetectedFace | None]:
    """The largest face in each picture."""
    found = (detector.detect(picture) for picture in pictures)
    return [faces[0] if faces else None for faces in found]


def fill(
    galleries: Sequence[Gallery],
    numbers: Sequence[int],
    pictures: Callable[[], Sequence[Sequence[Pixels]]],
    detector: FaceNetwork,
    store: Path | None = None,
) -> None:
    """Let several judges look at pictures of people, or read what ``store`` keeps of them.

    Args:
        galleries: One of each judge.
        numbers: Of the people.
        pictures: Draws :data:`REFERENCES` pictures of each of them; asked only where ``store`` does not keep them all.
        detector: Finds the faces, once for all judges.
        store: A file of :func:`write_galleries`, written if it does not keep them all.
    """
    if store is not None and read_galleries(store, galleries, numbers):
        return
    drawn = pictures()
    faces = [largest_faces(detector, own) for own in drawn]
    for gallery in galleries:
        gallery.hang(drawn, faces)
    if store is not None:
        write_galleries(store, galleries, numbers)


def write_galleries(path: Path, galleries: Sequence[Gallery], numbers: Sequence[int]) -> None:
    """Keep what several judges saw of people, so that their pictures need not be drawn and looked at again.

    Args:
        path: The file, in float16.
        galleries: After :meth:`Gallery.hang`.
        numbers: Of the people, in the galleries' order.
    """
    kept = {gallery.judge.name: gallery.faces.astype(np.float16) for gallery in galleries}
    with atomic_path(path) as temporary:
        save_file({**kept, _NUMBERS: np.asarray(numbers, np.int64)}, str(temporary))


def read_galleries(path: Path, galleries: Sequence[Gallery], numbers: Sequence[int]) -> bool:
    """Fill galleries with what :func:`write_galleries` kept of these people.

    Returns:
        Whether everything was there; if not, the galleries are as before.
    """
    if not path.is_file():
        return False
    with safe_open(str(path), "numpy") as stored:
        if not {_NUMBERS, *(gallery.judge.name for gallery in galleries)} <= set(stored.keys()):
            return False
        row_of = {int(number): row for row, number in enumerate(stored.get_tensor(_NUMBERS))}
        if not row_of.keys() >= set(numbers):
            return False
        rows = [row_of[number] for number in numbers]
        for gallery in galleries:
            gallery.faces = stored.get_tensor(gallery.judge.name)[rows].astype(np.float32)
    return True


def reference_places(bank: Bank, number: int) -> list[int]:
    """Places of a person's pictures in the bank, those that serve best for comparing first: near, and without things.

    Posed ones are left out: a judge shall know people in any light.
    """
    looks = bank.looks(number)
    return sorted(bank.places(number), key=lambda place: (bool(looks[place].thing), not looks[place].near, place))


def references_of(bank: Bank, numbers: Sequence[int], *, seed: int = 77) -> list[list[Pixels]]:
    """:data:`REFERENCES` plain portraits of each person, in different looks."""
    sitters, rng = Sitters(bank, numbers), np.random.default_rng(seed)
    return [
        [
            sitters.picture(sitters.portrait(number, place), rng)[0]
            for place in (reference_places(bank, number) * REFERENCES)[:REFERENCES]
        ]
        for number in numbers
    ]
