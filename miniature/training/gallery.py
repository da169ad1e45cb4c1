"""Recognition of the person in a generated picture: the nearest named person by the recognition network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from celeb_basis.faces.network import FaceNetwork, Floats, Pixels
from celeb_basis.files import atomic_path
from miniature.training.faces import FaceGenerator, candidate_numbers
from miniature.training.people import People, moved, portrait

_VIEWS = 3


@dataclass(frozen=True)
class Recognized:
    """How well pictures show the people in their prompts."""

    ranks: np.ndarray
    """``(N,)``: how many people are nearer than the right one; all of them if no face was found."""
    cosines: Floats
    """``(N,)`` cosines with the right person; 0 without a face."""

    def within(self, rank: int) -> float:
        """Share of pictures in which the right person is among the nearest ``rank``."""
        return float((self.ranks < rank).mean())


def people_vectors(people: People, network: FaceNetwork, store: Path | None = None) -> Floats:
    """``(N, 512)`` mean embeddings of plain portraits, named people first, then strangers; saved in ``store``."""
    if store is not None and store.exists():
        vectors: Floats = np.load(store)
        if len(vectors) == len(people.candidates):
            return vectors
    generator, numbers = FaceGenerator(), candidate_numbers(list(people.candidates))
    total = np.zeros((len(numbers), 512), np.float32)
    for view in range(_VIEWS):
        faces = generator.draw(moved(numbers, np.random.default_rng(900 + view)))
        found = look_at(network, np.stack([portrait(face, view).picture for face in faces]))
        total += np.nan_to_num(found)
    vectors = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)
    if store is not None:
        with atomic_path(store) as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
    return vectors


def look_at(network: FaceNetwork, pictures: Pixels) -> Floats:
    """``(N, 512)`` embeddings of the largest faces of ``(N, H, W, 3)`` pictures; NaN if there is none."""
    vectors = np.full((len(pictures), 512), np.nan, np.float32)
    for place, picture in enumerate(pictures):
        if found := network.detect(picture):
            vectors[place] = network.embed([network.align(picture, found[0].landmarks)])[0]
    return vectors


def recognize(vectors: Floats, wanted: np.ndarray, gallery: Floats) -> Recognized:
    """Ranks and cosines of embeddings of generated faces in the gallery ``(N, 512)``."""
    return ranked(np.nan_to_num(vectors) @ gallery.T, ~np.isnan(vectors[:, 0]), wanted)


def ranked(alike: Floats, seen: np.ndarray, wanted: np.ndarray) -> Recognized:
    """Ranks from the likeness ``(N, M)`` of generated faces and people, if a face was ``seen``."""
    own = alike[np.arange(len(wanted)), wanted]
    ranks = np.where(seen, (alike > own[:, None]).sum(1), alike.shape[1])
    return Recognized(ranks, np.where(seen, own, 0).astype(np.float32))
