"""The paper's three figures for a set of generated images: Identity, Prompt and Detect, with 95 % intervals."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from celeb_basis.errors import EvaluationError
from celeb_basis.evaluation.prompts import as_person
from celeb_basis.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from celeb_basis.evaluation.clip import ClipScorer
    from celeb_basis.faces.network import FaceNetwork, Floats, Pixels


_RESAMPLES = 2000
_Z95 = 1.959963984540054
"""The standard normal's 97.5 % point."""


@dataclass(frozen=True)
class Estimate:
    """A mean or a share, and its 95 % interval: how far it would move with as many other images."""

    value: float
    low: float | None
    """``None`` if there are too few images for an interval."""
    high: float | None
    count: int
    """Number of images that it was computed from."""


def mean_estimate(values: Sequence[float]) -> Estimate | None:
    """The mean with a bootstrapped percentile interval (Efron 1979). It is deterministic; ``None`` if there are no values."""
    count = len(values)
    if count == 0:
        return None
    sample = np.asarray(values, dtype=np.float64)
    if count == 1:
        return Estimate(float(sample[0]), None, None, 1)
    generator = np.random.default_rng(0)
    # A row of the multinomial counts how often each value is sampled: a resample without an array of indices.
    weights = generator.multinomial(count, np.full(count, 1.0 / count), size=_RESAMPLES)
    low, high = np.quantile(weights @ sample / count, (0.025, 0.975))
    return Estimate(float(sample.mean()), float(low), float(high), count)


def share_estimate(hits: int, count: int) -> Estimate:
    """The share ``hits / count`` with Wilson's interval (1927), which stays inside 0 to 1 and is never empty."""
    share = hits / count
    shrunk = 1 + _Z95**2 / count
    middle = (share + _Z95**2 / (2 * count)) / shrunk
    half = _Z95 * math.sqrt(share * (1 - share) / count + _Z95**2 / (4 * count**2)) / shrunk
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), count)


FaceChoice = Literal["largest", "best"]
"""Which face of an image is compared with the reference.

``largest`` is the figure of the paper, whose images show one person. ``best`` is the face most like the reference, for
images with other people in them. It gives higher figures, so never compare the two.
"""

_CLIP_BATCH = 16


@dataclass(frozen=True)
class ImageToEvaluate:
    """A generated image and what it was generated from."""

    picture: Pixels
    """``(H, W, 3)`` RGB."""
    prompt: str
    """The prompt as it was used, with the placeholder tokens in it."""
    word: str | tuple[str, ...]
    """The placeholder tokens in the prompt. They are replaced by "person" for the Prompt figure."""
    seed: int
    name: str = ""
    """A file name, for people to read."""


@dataclass(frozen=True)
class ImageScores:
    """The figures of one image."""

    name: str
    prompt: str
    seed: int
    faces: int
    """Number of faces found in it."""
    identity: float | None
    """Cosine with the reference, averaged over the reference photos; ``None`` if no face was found."""
    prompt_score: float | None
    """CLIP cosine with the prompt; ``None`` without a CLIP."""

    @property
    def detected(self) -> bool:
        """Whether a face was found."""
        return self.faces > 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "detected": self.detected}


@dataclass(frozen=True)
class EvaluationResult:
    """The three figures of a set of images, and the figures of every image."""

    identity: Estimate | None
    """Mean over the images with a face; ``None`` if no image has one."""
    prompt: Estimate | None
    """Mean over all images; ``None`` without a CLIP."""
    detect: Estimate
    """Share of the images with a face."""
    face: FaceChoice
    face_network: str
    clip: str | None
    pictures: tuple[ImageScores, ...]

    @property
    def count(self) -> int:
        """Number of evaluated images."""
        return len(self.pictures)

    @property
    def detected_count(self) -> int:
        """Number of images with a face."""
        return sum(picture.detected for picture in self.pictures)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why a figure is missing, one sentence each."""
        notes = []
        if self.identity is None:
            notes.append("Identity could not be measured: no face was found in any image.")
        if self.prompt is None:
            notes.append("Prompt was not measured: no CLIP was given.")
        return tuple(notes)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "identity": asdict(self.identity) if self.identity else None,
            "prompt": asdict(self.prompt) if self.prompt else None,
            "detect": asdict(self.detect),
            "count": self.count,
            "detected_count": self.detected_count,
            "face": self.face,
            "face_network": self.face_network,
            "clip": self.clip,
            "notes": list(self.notes),
            "pictures": [picture.as_dict() for picture in self.pictures],
        }

    def table(self) -> str:
        """The figures as lines of plain text."""
        rows = [
            ("figure", "value", "95 % interval", "over"),
            ("Identity", *_cells(self.identity), f"{self.detected_count} with a face ({self.face} face)"),
            ("Prompt", *_cells(self.prompt), f"{self.count} pictures" if self.prompt else "no CLIP given"),
            ("Detect", *_cells(self.detect), f"{self.count} pictures"),
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def evaluate_images(
    pictures: Sequence[ImageToEvaluate],
    reference_vectors: Floats,
    faces: FaceNetwork,
    clip: ClipScorer | None = None,
    *,
    face: FaceChoice = "largest",
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Evaluate generated images against the face embeddings of the person's photos.

    Identity is the cosine of face embeddings, Prompt the cosine of CLIP's embeddings of image and prompt, and Detect the
    share of images in which a face is found.

    Args:
        pictures: The images.
        reference_vectors: Face embeddings ``(M, 512)`` of ``M`` photos, or ``(512,)`` of one.
        faces: The networks that find and embed faces.
        clip: Scores the prompts. If ``None``, the Prompt figure is left out.
        face: Which face of an image is compared.
        progress: Called with the number of images done and their total.

    Raises:
        EvaluationError: There are no images, the reference vectors are unusable, or the scores of the CLIP are not finite.
    """
    if not pictures:
        raise EvaluationError("There is no image to evaluate: generate some first.")
    references = _unit_rows(reference_vectors)
    evaluated: list[ImageScores] = []
    for start in range(0, len(pictures), _CLIP_BATCH):
        batch = pictures[start : start + _CLIP_BATCH]
        scores = _prompt_scores(batch, clip)
        for item, score in zip(batch, scores, strict=True):
            found, likeness = _identity(item.picture, references, faces, face)
            evaluated.append(ImageScores(item.name, item.prompt, item.seed, found, likeness, score))
            if progress is not None:
                progress(len(evaluated), len(pictures))
    return _result(evaluated, face, faces.name, None if clip is None else clip.name)


def merge_results(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """The figures over all images of several people, each evaluated against their own photos by the same networks.

    Raises:
        EvaluationError: There are no results, or they come from different networks.
    """
    networks = {(one.face, one.face_network, one.clip) for one in results}
    if len(networks) != 1:
        raise EvaluationError(
            "Only images evaluated by the same networks have common figures: evaluate all of them alike."
        )
    return _result([image for one in results for image in one.pictures], *networks.pop())


def _result(scores: Sequence[ImageScores], face: FaceChoice, face_network: str, clip: str | None) -> EvaluationResult:
    return EvaluationResult(
        identity=mean_estimate([one.identity for one in scores if one.identity is not None]),
        prompt=mean_estimate([one.prompt_score for one in scores if one.prompt_score is not None]),
        detect=share_estimate(sum(one.detected for one in scores), len(scores)),
        face=face,
        face_network=face_network,
        clip=clip,
        pictures=tuple(scores),
    )


def write_result(path: Path, result: EvaluationResult) -> None:
    """Write a result as JSON, atomically."""
    write_json(path, result.as_dict())


def _identity(
    picture: Pixels, references: npt.NDArray[np.float64], network: FaceNetwork, choice: FaceChoice
) -> tuple[int, float | None]:
    found = sorted(network.detect(picture), key=lambda one: one.area, reverse=True)
    if not found:
        return 0, None
    compared = found if choice == "best" else found[:1]
    vectors = network.embed([network.align(picture, one.landmarks) for one in compared])
    cosines = _unit_rows(vectors) @ references.T
    return len(found), float(cosines.mean(axis=1).max())


def _prompt_scores(batch: Sequence[ImageToEvaluate], clip: ClipScorer | None) -> list[float | None]:
    if clip is None:
        return [None] * len(batch)
    scores = np.asarray(
        clip.score([Image.fromarray(one.picture) for one in batch], [as_person(one.prompt, one.word) for one in batch])
    )
    if scores.shape != (len(batch),) or not np.isfinite(scores).all():
        raise EvaluationError(f"The CLIP {clip.name} gives no usable scores: choose another one.")
    return [float(score) for score in scores]


def _unit_rows(vectors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if rows.ndim != 2 or rows.size == 0 or not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise EvaluationError("A face vector is empty, zero or not finite: take another photo or another face pack.")
    return rows / lengths  # type: ignore[no-any-return]


def _cells(figure: Estimate | None) -> tuple[str, str]:
    if figure is None:
        return "-", "-"
    return f"{figure.value:.3f}", "-" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}"
