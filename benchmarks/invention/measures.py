"""Figures of invented people beside those of celebrities whom the model knows, over seeds and scenes, with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.evidence.testbed import EvidenceTestbed, FaceJudge, PromptCase, generate
from celeb_basis.diffusion_model import TokenVectors
from celeb_basis.faces.network import Floats, Pixels

SEEDS = 2
"""Plain images of a person, which differ in their seeds alone."""

GALLERY_SEED = 90_000
_RESAMPLES = 2000


@dataclass(frozen=True)
class Subject:
    """A person who is measured."""

    name: str
    vectors: TokenVectors | None
    """``None`` for a celebrity, who stands in prompts by name."""


@dataclass(frozen=True)
class Looks:
    """What one judge sees in the images of several people: a row of NaN where no face was found."""

    plain: Floats
    """``(P, SEEDS, D)``."""
    scenes: Floats
    """``(P, C, D)``."""


@dataclass(frozen=True)
class Measured:
    """The images of several people as numbers."""

    names: tuple[str, ...]
    found: npt.NDArray[np.float64]
    """``(P,)`` share of a person's images with a face."""
    prompts: npt.NDArray[np.float64]
    """``(P,)`` mean prompt score."""
    looks: Mapping[str, Looks]
    """By the judges' names."""


def measure(
    testbed: EvidenceTestbed, subjects: Sequence[Subject], judges: Sequence[FaceJudge], first_seed: int = 0
) -> Measured:
    """Generate each person's images and let the judges look at them.

    Args:
        testbed: What generates, detects and scores prompts. Its first prompt is the plain one.
        subjects: The people.
        judges: Face networks.
        first_seed: Seed of the first person's first image; the others follow.
    """
    plain, *scenes = testbed.prompts
    cases = [plain] * SEEDS + scenes
    tokens = {f"<{one.name}>": one.vectors for one in subjects if one.vectors is not None}
    prompts = [
        case.prompt.format(one.name if one.vectors is None else f"<{one.name}>") for one in subjects for case in cases
    ]
    images = generate(testbed, prompts, tokens, range(first_seed, first_seed + len(prompts)))
    detected = [testbed.detect(image) for image in images]
    scores = _scores(testbed, images, cases * len(subjects))
    shape = (len(subjects), len(cases))
    looks = {}
    for judge in judges:
        seen = [judge.embed(image, faces[0]) if faces else None for image, faces in zip(images, detected, strict=True)]
        width = next(len(one) for one in seen if one is not None)
        rows = np.stack([np.full(width, np.nan, np.float32) if one is None else one for one in seen])
        vectors = rows.reshape(*shape, width)
        looks[judge.name] = Looks(vectors[:, :SEEDS], vectors[:, SEEDS:])
    found = np.array([bool(faces) for faces in detected], float).reshape(shape).mean(1)
    return Measured(tuple(one.name for one in subjects), found, scores.reshape(shape).mean(1), looks)


def _scores(testbed: EvidenceTestbed, images: Sequence[Pixels], cases: Sequence[PromptCase]) -> npt.NDArray[np.float64]:
    parts = []
    for start in range(0, len(images), 64):
        rows = slice(start, start + 64)
        parts += [float("nan") if one is None else one for one in testbed.score_prompts(images[rows], cases[rows])]
    return np.array(parts, float)


def gallery(
    testbed: EvidenceTestbed, names: Sequence[str], rows: Sequence[int], judges: Sequence[FaceJudge]
) -> dict[str, Floats]:
    """``(N, D)`` by each judge: one plain image of each celebrity, with a seed that is used for nothing else."""
    prompts = [testbed.prompts[0].prompt.format(names[row]) for row in rows]
    images = generate(testbed, prompts, {}, [GALLERY_SEED + row for row in rows])
    faces = [testbed.detect(image) for image in images]
    found: dict[str, Floats] = {}
    for judge in judges:
        seen = [judge.embed(image, one[0]) if one else None for image, one in zip(images, faces, strict=True)]
        width = next(len(one) for one in seen if one is not None)
        found[judge.name] = np.stack([np.full(width, np.nan, np.float32) if one is None else one for one in seen])
    return found


def same_person(looks: Looks, judge: FaceJudge, *, scenes: bool) -> npt.NDArray[np.float64]:
    """``(P,)`` mean likeness of a person's images: of the plain ones, or of plain ones and those in scenes."""
    figures = []
    for plain, others in zip(looks.plain, looks.scenes, strict=True):
        if scenes:
            values = judge.likeness(plain, others).reshape(-1)
        else:
            values = np.array([judge.likeness(a[None], b[None])[0, 0] for a, b in itertools.combinations(plain, 2)])
        figures.append(np.nanmean(values) if np.isfinite(values).any() else np.nan)
    return np.array(figures, float)


def different_people(looks: Looks, judge: FaceJudge) -> npt.NDArray[np.float64]:
    """``(P,)`` mean likeness of a person's plain images to the other people's."""
    first = looks.plain[:, 0]
    alike = judge.likeness(first, looks.plain[:, 1])
    np.fill_diagonal(alike, np.nan)
    return np.asarray(np.nanmean(alike, axis=1), float)


def nearest_celebrity(
    looks: Looks, judge: FaceJudge, known: Floats, own: Sequence[int | None]
) -> npt.NDArray[np.float64]:
    """``(P,)`` likeness of a person's plain images, in the mean, to the most alike celebrity who is not the person.

    Args:
        looks: Of the people.
        judge: Who looks.
        known: ``(N, D)`` of :func:`gallery`.
        own: The row of each person who is a celebrity.
    """
    figures = []
    for plain, row in zip(looks.plain, own, strict=True):
        alike = np.nanmean(judge.likeness(plain, known), axis=0)
        if row is not None:
            alike[row] = np.nan
        figures.append(np.nanmax(alike))
    return np.array(figures, float)


def interval(
    figure: Callable[[npt.NDArray[np.int64]], float], people: int, seed: int = 0
) -> tuple[float, float, float]:
    """A figure of people, by their rows, with its 95 % interval from resampling the people."""
    generator = np.random.default_rng(seed)
    values = [figure(generator.integers(0, people, people)) for _ in range(_RESAMPLES)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return figure(np.arange(people)), float(low), float(high)


def share_of(
    own: npt.NDArray[Any], others: npt.NDArray[Any], theirs: npt.NDArray[Any], theirs_apart: npt.NDArray[Any]
) -> tuple[float, float, float]:
    """How much of a celebrity's constancy people have: 0 is that of different people, 1 a celebrity's own.

    Args:
        own: ``(P,)`` likeness of each person's images.
        others: ``(P,)`` likeness to different people.
        theirs: ``(C,)`` likeness of each celebrity's images.
        theirs_apart: ``(C,)`` likeness to different celebrities.
    """
    generator = np.random.default_rng(1)

    def figure(rows: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> float:
        ours = np.nanmean(own[rows]) - np.nanmean(others[rows])
        return float(ours / (np.nanmean(theirs[known]) - np.nanmean(theirs_apart[known])))

    p, c = len(own), len(theirs)
    values = [figure(generator.integers(0, p, p), generator.integers(0, c, c)) for _ in range(_RESAMPLES)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return figure(np.arange(p), np.arange(c)), float(low), float(high)
