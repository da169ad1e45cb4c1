"""Types for faces that the rest of the core uses. numpy only; insightface is behind :class:`FaceNetwork`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""``(H, W, 3)`` upright RGB, 0 to 255."""

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DetectedFace:
    """One face in a picture."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels."""
    landmarks: Floats
    """``(5, 2)`` x, y in pixels: left eye, right eye, nose, left and right corner of the mouth, as seen in the picture."""
    score: float
    """The detector's confidence, 0 to 1."""

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)

    def moved(self, x: float, y: float) -> DetectedFace:
        """The same face, ``x`` pixels further to the right and ``y`` further down."""
        left, top, right, bottom = self.box
        landmarks = self.landmarks + np.array([x, y], np.float32)
        return DetectedFace((left + x, top + y, right + x, bottom + y), landmarks, self.score)


class FaceNetwork(Protocol):
    """A frozen detector and recognizer."""

    @property
    def name(self) -> str:
        """Name of the model pack, stored in identities: the coefficients of a head belong to one recognizer."""

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        """Every face in an RGB picture, largest first."""

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        """The ``(112, 112, 3)`` ArcFace-aligned crop for ``(5, 2)`` landmarks (similarity transform, black outside)."""

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        """``(N, 512)`` L2-normalized face vectors of N aligned crops."""


class ClearFace(NamedTuple):
    """What a network answers to a clear face, as a measure for its other answers."""

    score: float
    """The detector's confidence."""
    length: float
    """Length of the vector before it is normalized."""


@runtime_checkable
class DiscerningNetwork(FaceNetwork, Protocol):
    """A face network that can say how sure it is."""

    @property
    def clear_face(self) -> ClearFace:
        """Score and length for a clear face."""

    def detect_once(self, picture: Pixels) -> list[DetectedFace]:
        """The faces of a single look at a picture, in no order; :meth:`detect` may look again with a border."""

    def embed_with_lengths(self, aligned: Sequence[Pixels]) -> tuple[Floats, Floats]:
        """What :meth:`embed` gives, and the ``(N,)`` lengths of the vectors before they were normalized.

        A recognizer gives short vectors for what is hardly a face.
        """


@dataclass(frozen=True)
class Portrait:
    """The chosen face of one photo, ready for training."""

    picture: Pixels
    """``(S, S, 3)`` FFHQ-style square crop: hair, chin and some background around the face."""
    landmarks: Floats
    """``(5, 2)`` x, y in the crop's pixels."""
    vector: Floats
    """``(512,)`` L2-normalized face vector."""
    source: str
    """File name of the photo, for messages."""
    warnings: tuple[str, ...] = ()
    """Sentences about the photo's quality."""
