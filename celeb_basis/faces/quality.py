"""What may keep a photo from giving a good likeness, as plain sentences: hints, never refusals.

The thresholds were set between what real photos and copies of them that we spoiled on purpose measure (photos of eight
people; the figures stand at each constant).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from celeb_basis.crops import face_square, outside_share
from celeb_basis.faces.types import DetectedFace, Floats, Pixels

SMALLEST_SQUARE = 256
"""Pixels: half of a 512-pixel training picture. Below, the crop is more than doubled in size."""

SHARPNESS = 0.04
"""Sharp photos measure 0.09 to 1.3; blurred by 1.5 pixels of the aligned crop, or reduced to a face of 28: 0.03 or less."""

TURN = 0.33
"""Faces seen from the front and half from the side measure up to 0.27, one close to profile 0.42."""

NARROW = 0.6
"""Eye distance over eye-to-mouth distance: 0.8 to 1.1 from the front, 0.65 close to profile."""

DARKEST, BRIGHTEST = 45.0, 225.0
"""Mean grey of the face, 0 to 255: 104 to 190 in the photos, below 40 at a fifth of their light."""

OUTSIDE = 0.15
"""Share of the training crop beyond the photo's edge; loosely framed faces have 0 to 0.02, tight crops 0.3 to 0.7."""

_Grey = npt.NDArray[np.float64]


def quality_warnings(
    picture: Pixels, face: DetectedFace, all_faces: Sequence[DetectedFace], aligned: Pixels
) -> tuple[str, ...]:
    """Sentences about what is wrong with ``face`` in ``picture``; none for a good photo.

    Parameters: ``all_faces`` are those the choice was from; ``aligned`` is the face's ``(112, 112, 3)`` aligned crop.
    Raises: :class:`FaceError` for landmarks that lie on one point.
    """
    square = face_square(face.landmarks)
    grey = aligned.astype(np.float64) @ (0.299, 0.587, 0.114)
    warnings = []
    if len(all_faces) > 1:
        warnings.append(
            f"{len(all_faces)} faces are in the photo and the largest was taken: choose another if it is not the person."
        )
    if square.side < SMALLEST_SQUARE:
        warnings.append(
            f"The face is small: the training crop is only {square.side:.0f} pixels wide in the photo, and "
            f"{SMALLEST_SQUARE} or more give a better likeness."
        )
    if sharpness(grey) < SHARPNESS:
        warnings.append("The face is blurred: a sharper photo gives a better likeness.")
    if abs(turn(face.landmarks)) > TURN or _narrowness(face.landmarks) < NARROW:
        warnings.append("The face is turned away: a photo from the front gives a better likeness.")
    light = float(_middle(grey).mean())
    if light < DARKEST:
        warnings.append("The face is very dark: a photo with more light on the face gives a better likeness.")
    if light > BRIGHTEST:
        warnings.append("The face is overexposed: a photo with less light on the face gives a better likeness.")
    outside = outside_share(picture.shape[:2], square)
    if outside > OUTSIDE:
        warnings.append(
            f"The face is cropped tightly: {outside:.0%} of the training crop lie outside the photo and had to be filled "
            "up, so a photo with more room around the head gives a better likeness."
        )
    return tuple(warnings)


def sharpness(grey: _Grey) -> float:
    """Variance of the Laplacian over the grey values' own variance, in the middle of an aligned crop.

    Dividing makes it independent of light and contrast.
    """
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian = around - 4 * grey[1:-1, 1:-1]
    return float(laplacian[16:-16, 16:-16].var() / max(_middle(grey).var(), 1.0))


def turn(landmarks: Floats) -> float:
    """How far the nose lies off the middle of the eyes, along the line of the eyes, in eye distances.

    0 from the front, positive where the face looks to the right of the picture.
    """
    left_eye, right_eye, nose = np.asarray(landmarks[:3], np.float64)
    eyes = right_eye - left_eye
    return float((nose - (left_eye + right_eye) / 2) @ eyes / max(float(eyes @ eyes), 1e-9))


def _narrowness(landmarks: Floats) -> float:
    left_eye, right_eye, _, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    height = np.hypot(*((left_mouth + right_mouth) - (left_eye + right_eye)) / 2)
    return float(np.hypot(*(right_eye - left_eye)) / max(height, 1e-9))


def _middle(grey: _Grey) -> _Grey:
    """Eyes to mouth of an aligned crop: skin, hardly any hair or background."""
    return grey[24:104, 24:88]
