"""From a photo to the one face that is to be learned: found, chosen, cropped, embedded, and judged for its quality."""

from __future__ import annotations

import numpy as np

from celeb_basis.crops import square_crop
from celeb_basis.errors import FaceError
from celeb_basis.faces.quality import quality_warnings
from celeb_basis.faces.types import DetectedFace, FaceNetwork, Pixels, Portrait


def portrait(
    photo: Pixels,
    faces: FaceNetwork,
    *,
    size: int,
    choose: int | tuple[float, float] | None = None,
    source: str = "the photo",
) -> Portrait:
    """Make the portrait of one face of an upright RGB photo.

    Parameters: ``size`` is the crop's side in pixels; ``choose`` is ``None`` for the largest face, a face's number (0 is
    the largest), or a clicked point x, y in the photo's pixels; ``source`` names the photo in messages.
    Raises: :class:`FaceError` if there is no face, or not as many.
    """
    found = faces.detect(photo)
    face = choose_face(found, choose, source)
    aligned = faces.align(photo, face.landmarks)
    crop = square_crop(photo, face.landmarks, size)
    return Portrait(
        picture=crop.picture,
        landmarks=crop.landmarks,
        vector=faces.embed([aligned])[0],
        source=source,
        # A person who chose a face knows that there are others.
        warnings=quality_warnings(photo, face, found if choose is None else [face], aligned),
    )


def choose_face(
    found: list[DetectedFace], choose: int | tuple[float, float] | None = None, source: str = "the photo"
) -> DetectedFace:
    """The largest of ``found`` (largest first), the one with a number, or the one at a point x, y or nearest to it.

    Raises: :class:`FaceError` if there is no such face.
    """
    if not found:
        raise FaceError(
            f"No face was found in {source}: use a photo that shows one face from the front, well lit and not cut off."
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


def _distance(face: DetectedFace, point: tuple[float, float]) -> float:
    """Pixels from a point to a face's box; 0 inside."""
    left, top, right, bottom = face.box
    x, y = point
    return float(np.hypot(max(left - x, 0.0, x - right), max(top - y, 0.0, y - bottom)))
