"""What contestants share: bases, encoded views, and how the model draws the names; each made once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks.evidence.drawing import draw
from benchmarks.evidence.spaces import Space, make_bases
from benchmarks.evidence.world import EvidenceWorld, Stranger
from celeb_basis.diffusion_model import LatentDistribution
from celeb_basis.errors import TrainingError
from celeb_basis.events import follow
from celeb_basis.faces.types import Floats
from celeb_basis.files import atomic_path
from celeb_basis.method import Basis
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.training.dataset import PersonViews, ViewPool, encode_views
from celeb_basis.training.first_guess import CelebrityFaces, FirstGuess, first_guesses, generate_celebrity_faces

_KEPT = 24
"""Encoded people that are kept in memory."""


@dataclass(frozen=True)
class EncodedViews:
    """One stranger's views."""

    views: PersonViews
    face_model: str
    seconds: float
    """What encoding one view took."""


class Bench:
    """Shared work of all contestants in one world."""

    def __init__(self, world: EvidenceWorld, folder: Path, *, name_pictures: int = 2) -> None:
        """``name_pictures``: drawn of each name to learn what its face is; kept in ``folder``."""
        self.world, self._folder, self._name_pictures = world, folder, name_pictures
        self._bases: dict[tuple[Space, int], tuple[Basis, ...]] = {}
        self._views: dict[tuple[str, int, float], EncodedViews] = {}

    def bases(self, space: Space, components: int) -> tuple[Basis, ...]:
        """The bases of a space, made once."""
        key = (space, components)
        if key not in self._bases:
            self._bases[key] = make_bases(self.world.host, self.world.names, space, components)
        return self._bases[key]

    def pool(self, group: Sequence[Stranger], seed: int, views: int, smallest: float) -> tuple[ViewPool, float]:
        """Everybody's first ``views`` views, and the seconds that encoding them took.

        The views of a stranger and a seed are the same for all contestants; fewer views are the first of more.
        """
        encoded = [self._encoded(stranger, seed, views, smallest) for stranger in group]
        people = tuple(_first_views(one.views, views) for one in encoded)
        return ViewPool(people, encoded[0].face_model), sum(one.seconds * views for one in encoded)

    def _encoded(self, stranger: Stranger, seed: int, views: int, smallest: float) -> EncodedViews:
        key = (stranger.name, seed, smallest)
        known = self._views.get(key)
        if known is None or len(known.views.descriptions) < views:
            started = time.perf_counter()
            generator = torch.Generator().manual_seed(1_000_003 * seed + _number(stranger.name))
            work = encode_views(
                self.world.host,
                {stranger.name: [stranger.portrait]},
                self.world.faces,
                views=views,
                smallest=smallest,
                generator=generator,
            )
            pool = follow(work)
            known = EncodedViews(pool.people[0], pool.face_model, (time.perf_counter() - started) / views)
            self._views.pop(key, None)
            while len(self._views) >= _KEPT:
                self._views.pop(next(iter(self._views)))
            self._views[key] = known
        return known

    @cached_property
    def name_vectors(self) -> Floats:
        """``(N, 512)`` face vectors of the names in the order of the full basis, as the model draws them; NaN: no face."""
        names = self.bases(Space(), 1)[0].names
        path = self._folder / f"names-{_digest(self.world.key, str(self._name_pictures), *names)}.npy"
        if path.exists():
            vectors: Floats = np.load(path, allow_pickle=False)
            return vectors
        totals = np.zeros((len(names), 512), np.float32)
        for number in range(self._name_pictures):
            prompts = [self.world.asks[0].prompt.format(name) for name in names]
            seeds = [7_000_000 + 10 * row + number for row in range(len(names))]
            for row, picture in enumerate(draw(self.world, prompts, {}, seeds)):
                if found := self.world.faces.detect(picture):
                    aligned = self.world.faces.align(picture, found[0].landmarks)
                    totals[row] += self.world.faces.embed([aligned])[0]
        lengths = np.linalg.norm(totals, axis=1, keepdims=True)
        vectors = np.where(lengths > 0, totals / np.maximum(lengths, 1e-9), np.nan).astype(np.float32)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
        return vectors

    def nearest_name(self, stranger: Stranger) -> int:
        """The row of the name whose drawn face is most like the stranger's picture."""
        cosines = np.nan_to_num(self.name_vectors, nan=-1.0) @ stranger.portrait.vector
        if not np.isfinite(self.name_vectors).any():
            raise TrainingError("The model draws no name with a face: train it for longer.")
        return int(cosines.argmax())

    @cached_property
    def presets_faces(self) -> CelebrityFaces:
        """The names as the presets draw them: another number of pictures, steps and guidance; those that ship, if they do."""
        names = self.bases(Space(), 1)[0].names
        drawing = generate_celebrity_faces(
            self.world.host, names, self.world.faces, self._folder / "name-faces", known=[CELEBRITY_FACES]
        )
        return follow(drawing)

    def guess(self, bases: Sequence[Basis], *, as_presets: bool = False) -> tuple[FirstGuess, ...]:
        """The regression from faces to coefficients, one a text encoder; ``as_presets``: from :attr:`presets_faces`."""
        if as_presets:
            return first_guesses(bases, self.presets_faces)
        names = self.bases(Space(), 1)[0].names
        return first_guesses(bases, CelebrityFaces(names, torch.from_numpy(self.name_vectors)))


def _first_views(views: PersonViews, count: int) -> PersonViews:
    return replace(
        views,
        latents=LatentDistribution(views.latents.mean[:count], views.latents.std[:count]),
        vectors=views.vectors[:count],
        descriptions=views.descriptions[:count],
    )


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
