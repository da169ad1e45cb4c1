"""What methods share and is computed once: bases of each space, encoded views, and face vectors of the celebrities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from benchmarks.evidence.reporting import clock_of
from benchmarks.evidence.testbed import EvidenceTestbed, Person, References, Stranger, generate
from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import DiffusionModel, LatentDistribution
from celeb_basis.errors import TrainingError
from celeb_basis.events import follow
from celeb_basis.faces.network import Pixels
from celeb_basis.files import atomic_path
from celeb_basis.method import Basis
from celeb_basis.names.lists import NameList, name_list
from celeb_basis.training.celebrity_faces import CelebrityFaces, generate_celebrity_faces
from celeb_basis.training.dataset import PersonViews, ViewPool, encode_views
from celeb_basis.training.first_guess import FirstGuess, first_guesses

_MAX_ENCODED = 24
"""How many strangers' encoded views are held in memory."""

SpaceKind = Literal["celebrities", "random", "free"]


@dataclass(frozen=True)
class Space:
    """The space that coefficients live in."""

    kind: SpaceKind = "celebrities"
    """``celebrities`` is the celeb basis; ``random`` has random orthonormal rows around the names' mean; ``free`` has the
    standard basis, so that coefficients are token vectors."""
    names: int = 0
    """How many names the basis is built from, evenly spread over the list; 0 is all of them."""
    distinct: bool = False
    """Whether every token counts once."""


def make_bases(model: DiffusionModel, names: NameList, space: Space, components: int) -> tuple[Basis, ...]:
    """Build one basis per text encoder. ``components`` is lowered to what the names' tokens span."""
    used = _subset(names, space.names)
    rank = _rank(model, used)
    # Other spaces start from everything the names span, so that the names' own vectors are represented exactly.
    size = min(components, rank) if space.kind == "celebrities" else rank
    options = BasisOptions(components=size, distinct_tokens=space.distinct)
    bases = [built.basis for built in build_bases(model.text_encoders, used, options)]
    if space.kind == "random":
        bases = [_random_basis(basis, min(components, basis.size)) for basis in bases]
    if space.kind == "free":
        widest = max(basis.width for basis in bases)
        bases = [_free_basis(basis, widest) for basis in bases]
    return tuple(bases)


def _subset(names: NameList, count: int) -> NameList:
    if not count or count >= len(names.names):
        return names
    rows = torch.linspace(0, len(names.names) - 1, count).round().long().tolist()
    return name_list([names.names[row] for row in rows], f"{count} of {names.source}")


def _rank(model: DiffusionModel, names: NameList) -> int:
    """Dimensions that the names' tokens span in every column: one fewer than there are tokens, at most the width."""
    built = build_bases(model.text_encoders, names, BasisOptions(components=1))
    columns = [len(np.unique(column)) - 1 for one in built for column in one.filtered.token_ids.T]
    return min(*columns, *(encoder.width for encoder in model.text_encoders))


def _random_basis(basis: Basis, size: int) -> Basis:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(basis.positions, basis.width, size, generator=generator, dtype=torch.float64)
    components = torch.linalg.qr(rows)[0].transpose(1, 2).float().contiguous()
    return _with_components(basis, "random", basis.mean, components)


def _free_basis(basis: Basis, size: int) -> Basis:
    # SDXL's text encoders differ in width, and its bases must not in size: the rows of the narrower one end with zeros.
    components = torch.eye(size, basis.width).expand(basis.positions, -1, -1).contiguous()
    return _with_components(basis, "free", torch.zeros_like(basis.mean), components)


def _with_components(basis: Basis, kind: str, mean: torch.Tensor, components: torch.Tensor) -> Basis:
    vectors = basis.expand(basis.name_coefficients)
    coefficients = torch.einsum("ned,ekd->nek", vectors - mean, components)
    return replace(
        basis,
        mean=mean,
        components=components,
        variance=coefficients.var(dim=0, unbiased=False),
        name_coefficients=coefficients,
        sha256=hashlib.sha256(f"{basis.sha256} {kind}".encode()).hexdigest(),
    )


@dataclass(frozen=True)
class EncodedViews:
    """The encoded views of one stranger."""

    views: PersonViews
    face_model: str
    seconds: float
    """Seconds to encode one view."""


class Precomputed:
    """Work that all methods on one testbed share; everything is computed at its first use."""

    def __init__(self, testbed: EvidenceTestbed, folder: Path) -> None:
        """Set up the caches; nothing is computed yet.

        Args:
            testbed: The model and its strangers.
            folder: Where the celebrities' face vectors and the ceiling's references are stored.
        """
        self.testbed, self._folder = testbed, folder
        self._bases: dict[tuple[Space, int], tuple[Basis, ...]] = {}
        self._views: dict[tuple[str, int, float], EncodedViews] = {}

    def bases(self, space: Space, components: int) -> tuple[Basis, ...]:
        """The bases of a space."""
        key = (space, components)
        if key not in self._bases:
            self._bases[key] = make_bases(self.testbed.model, self.testbed.names, space, components)
        return self._bases[key]

    def pool(self, group: Sequence[Stranger], seed: int, views: int, smallest: float) -> tuple[ViewPool, float]:
        """The first ``views`` views of everyone in ``group``, and the seconds that encoding them took.

        The views of a stranger and a seed are the same for all methods; fewer views are the first of more.
        """
        encoded = [self._encoded(stranger, seed, views, smallest) for stranger in group]
        people = tuple(_first_views(one.views, views) for one in encoded)
        return ViewPool(people, encoded[0].face_model), sum(one.seconds * views for one in encoded)

    def _encoded(self, stranger: Stranger, seed: int, views: int, smallest: float) -> EncodedViews:
        key = (stranger.name, seed, smallest)
        known = self._views.get(key)
        if known is None or len(known.views.descriptions) < views:
            clock = clock_of(self.testbed.model.device)
            started = clock()
            generator = view_generator(stranger, seed)
            work = encode_views(
                self.testbed.model,
                {stranger.name: [stranger.portrait]},
                self.testbed.faces,
                views=views,
                smallest=smallest,
                generator=generator,
            )
            pool = follow(work, self.testbed.report.event)
            known = EncodedViews(pool.people[0], pool.face_model, (clock() - started) / views)
            self._views.pop(key, None)
            while len(self._views) >= _MAX_ENCODED:
                self._views.pop(next(iter(self._views)))
            self._views[key] = known
        return known

    def nearest_name(self, stranger: Stranger) -> str:
        """The celebrity whose rendered face is most similar to the stranger's photo."""
        faces = self.celebrity_faces
        vectors = faces.vectors.numpy()
        if not np.isfinite(vectors).any():
            raise TrainingError("The model generates no face for any name: train it for longer.")
        cosines = np.nan_to_num(vectors, nan=-1.0) @ stranger.portrait.vector
        return faces.names[int(cosines.argmax())]

    @cached_property
    def celebrity_faces(self) -> CelebrityFaces:
        """The celebrities' faces as the model renders them, measured as the presets do; NaN where no face is found.

        Those that come with the model are used where they fit.
        """
        testbed = self.testbed
        names = self.bases(Space(), 1)[0].names
        work = generate_celebrity_faces(
            testbed.model, names, testbed.faces, self._folder / "name-faces", known=testbed.known_faces
        )
        return follow(work, testbed.report.event)

    def guess(self, bases: Sequence[Basis]) -> tuple[FirstGuess, ...]:
        """The regression from faces to coefficients, one per text encoder.

        Args:
            bases: The bases that the coefficients belong to.
        """
        return first_guesses(bases, self.celebrity_faces)

    def known_people(self, references: References) -> tuple[Person, ...]:
        """As many names that the model knows as there are strangers.

        Args:
            references: Whether they are compared with images of them or with pictures of the people themselves.

        Raises:
            TrainingError: If the model draws too few of the names with a face, or there are no pictures.
        """
        if references == "images":
            return self._drawn_people
        if self.testbed.pictures_of is None:
            raise TrainingError("There are no pictures of people whom the model knows by name: leave that row out.")
        pictures = self.testbed.pictures_of([one.name for one in self._drawn_people])
        return tuple(Person(one.name, tuple(pictures[one.name])) for one in self._drawn_people)

    @cached_property
    def _drawn_people(self) -> tuple[Person, ...]:
        """Names with generated references that show a face; they are stored as pictures, to be looked at, one at a time."""
        testbed = self.testbed
        found: list[Person] = []
        wanted = len(testbed.strangers)
        for name in known_names(testbed.names.names):
            if len(found) == wanted:
                return tuple(found)
            references = self._references(name)
            testbed.report.step("generating references of names that the model knows", len(found), wanted)
            if any(testbed.detect(image) for image in references):
                found.append(Person(name, references))
        if len(found) < wanted:
            raise TrainingError(
                f"The model draws only {len(found)} of {len(testbed.names.names)} names with a face, and {wanted} are "
                "needed for the ceiling: use another list of names, or fewer people."
            )
        return tuple(found)

    def _references(self, name: str) -> tuple[Pixels, ...]:
        testbed = self.testbed
        folder = self._folder / "known-names" / _digest(testbed.key, *testbed.reference_prompts)
        first = 8_000_000_000 + 100 * _number(name)
        images = []
        for number, prompt in enumerate(testbed.reference_prompts):
            path = folder / f"{_digest(name)}-{number}.png"
            if not path.exists():
                (image,) = generate(testbed, [prompt.format(name)], {}, [first + number])
                with atomic_path(path) as temporary:
                    Image.fromarray(image).save(temporary, format="PNG")
            with Image.open(path) as opened:
                images.append(np.asarray(opened.convert("RGB")))
        return tuple(images)


def view_generator(stranger: Stranger, seed: int) -> torch.Generator:
    """The source of the random choices of a stranger's views: the same for all methods."""
    return torch.Generator().manual_seed(1_000_003 * seed + _number(stranger.name))


def known_names(names: Sequence[str]) -> list[str]:
    """The names in an order that favors none and is the same on every machine."""
    return sorted(dict.fromkeys(names), key=lambda name: hashlib.sha256(name.encode()).digest())


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
