"""From a photo to the portrait of one face: finding, cropping and embedding it, and warnings about its quality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from celeb_basis.faces.crops import face_square, outside_share, square_crop
from celeb_basis.faces.face_search import find_faces
from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels, Portrait

_Gray = npt.NDArray[np.float64]


def portrait(
    photo: Pixels,
    faces: FaceNetwork,
    *,
    size: int,
    choose: int | tuple[float, float] | None = None,
    source: str = "the photo",
) -> Portrait:
    """Make the portrait of one face in an upright RGB photo.

    Args:
        photo: The photo.
        faces: Detects, aligns and embeds the face.
        size: Side of the crop in pixels.
        choose: ``None`` for the largest face, a face's number (0 is the largest), or a clicked point x, y in the photo's
            pixels. A photo that is not upright is turned, and then has its faces in that turn.
        source: Name of the photo in messages.

    Raises:
        FaceError: If there is no such face.
    """
    search = find_faces(photo, faces)
    face = search.choose(choose, source)
    aligned, vector = search.embed(face, faces)
    crop = square_crop(search.picture, face.landmarks, size)
    # A user who chose a face knows that there are others.
    seen = search.faces if choose is None else [face]
    return Portrait(
        picture=crop.picture,
        landmarks=crop.landmarks,
        vector=vector,
        source=source,
        warnings=search.warnings + quality_warnings(search.picture, face, seen, aligned),
    )


# Quality warnings: hints, never refusals. The thresholds lie between the values measured on real photos of eight people and
# those of copies that were degraded on purpose.

SMALLEST_SQUARE = 256
"""Pixels: half of a 512-pixel training picture. Smaller crops are enlarged more than twice."""

SHARPNESS = 0.04
"""Sharp photos have 0.09 to 1.3; blurred by 1.5 pixels of the aligned crop, or with a face of 28 pixels, 0.03 or less."""

TURN = 0.33
"""Frontal and half-profile faces have up to 0.27, one close to profile 0.42."""

NARROW = 0.6
"""Eye distance over eye-to-mouth distance: 0.8 to 1.1 for frontal faces, 0.65 close to profile."""

DARKEST, BRIGHTEST = 45.0, 225.0
"""Mean gray level of the face, 0 to 255: 104 to 190 in the photos, below 40 at a fifth of their light."""

OUTSIDE = 0.15
"""Share of the training crop beyond the photo's edge: 0 to 0.02 for loosely framed faces, 0.3 to 0.7 for tight crops."""

COLOR = 3.5
"""Gray levels by which colors differ from one tint: 4.6 to 19 in color photos, 0 in gray and up to 2.5 in sepia ones."""

SAME_PERSON = 0.4
"""Cosine similarity of two photos' face vectors: at least 0.55 for one person, below 0.4 for 99.6% of different ones."""


_BETTER = "a better likeness"
_ABOUT_THE_FACE = "The face is "


def quality_warnings(
    picture: Pixels, face: DetectedFace, all_faces: Sequence[DetectedFace], aligned: Pixels
) -> tuple[str, ...]:
    """Sentences about what may keep a photo from giving a good likeness; none for a good photo.

    Args:
        picture: The photo.
        face: The chosen face.
        all_faces: The faces it was chosen from.
        aligned: The face's ``(112, 112, 3)`` aligned crop.

    Raises:
        FaceError: If the landmarks coincide.
    """
    square = face_square(face.landmarks)
    gray = aligned.astype(np.float64) @ (0.299, 0.587, 0.114)
    warnings = []
    if len(all_faces) > 1:
        warnings.append(
            f"There are {len(all_faces)} faces in the photo and the largest was chosen: choose another one if it is not the "
            "person."
        )
    if square.side < SMALLEST_SQUARE:
        warnings.append(
            f"The face is small: the training crop is only {square.side:.0f} pixels wide in the photo, and "
            f"{SMALLEST_SQUARE} or more give a better likeness."
        )
    if sharpness(gray) < SHARPNESS:
        warnings.append("The face is blurred: a sharper photo gives a better likeness.")
    if abs(turn(face.landmarks)) > TURN or _narrowness(face.landmarks) < NARROW:
        warnings.append("The face is turned away: a photo from the front gives a better likeness.")
    light = float(_middle(gray).mean())
    if light < DARKEST:
        warnings.append("The face is very dark: a photo with more light on the face gives a better likeness.")
    if light > BRIGHTEST:
        warnings.append("The face is overexposed: a photo with less light on the face gives a better likeness.")
    if color_spread(aligned) < COLOR:
        warnings.append(
            "The photo is black and white, or has a single tint, and pictures of the person will have it too: a photo in color "
            "gives a better likeness."
        )
    outside = outside_share(picture.shape[:2], square)
    if outside > OUTSIDE:
        warnings.append(
            f"The face is cropped tightly: {outside:.0%} of the training crop is outside the photo and had to be filled "
            "in. A photo with more space around the head gives a better likeness."
        )
    return tuple(warnings)


def costing_likeness(warnings: Sequence[str]) -> tuple[str, ...]:
    """Those of :func:`quality_warnings` that are about the face itself, and can explain a low likeness."""
    return tuple(text for text in warnings if text.startswith(_ABOUT_THE_FACE) and _BETTER in text)


def sharpness(gray: _Gray) -> float:
    """Variance of the Laplacian over the variance of the gray levels, in the middle of an aligned crop.

    The division makes it independent of light and contrast.
    """
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    laplacian = around - 4 * gray[1:-1, 1:-1]
    return float(laplacian[16:-16, 16:-16].var() / max(_middle(gray).var(), 1.0))


def color_spread(aligned: Pixels) -> float:
    """Gray levels by which the colors of an aligned crop differ from those of a single tint (RMS)."""
    colors = aligned[24:104, 24:88].reshape(-1, 3).astype(np.float64)
    light = colors @ (0.299, 0.587, 0.114) / 128
    # In a tinted photo red and blue follow from how light a place is; a parabola is enough for sepia.
    curve = np.stack([np.ones_like(light), light, light**2], axis=1)
    differences = colors[:, [0, 2]] - colors[:, [1]]
    fitted, *_ = np.linalg.lstsq(curve, differences, rcond=None)
    return float(np.sqrt(((curve @ fitted - differences) ** 2).mean()))


def likeness_warnings(portraits: Sequence[Portrait]) -> tuple[str, ...]:
    """A sentence for each photo of a person that seems to show another person than the others do."""
    return different_people([one.source for one in portraits], [one.vector for one in portraits])


def different_people(sources: Sequence[str], vectors: Sequence[Floats]) -> tuple[str, ...]:
    """:func:`likeness_warnings` from what it needs of portraits.

    Args:
        sources: Names of the photos.
        vectors: ``(512,)`` face vector of each photo's face.
    """
    if len(vectors) < 2:
        return ()
    stacked = np.stack(vectors).astype(np.float64)
    similar = stacked @ stacked.T
    np.fill_diagonal(similar, -1.0)
    different = "nobody has the mean of two faces. Leave out photos of anybody else, or choose the right face in them."
    if len(vectors) == 2 or bool((similar.max(axis=1) < SAME_PERSON).all()):
        if similar.max() >= SAME_PERSON:
            return ()
        names = " and ".join(sources)
        return (f"{names} seem to show different people (similarity {similar.max():.2f}): {different}",)
    # The person is who most photos show.
    groups = similar >= SAME_PERSON
    np.fill_diagonal(groups, True)
    most = groups[int(groups.sum(axis=1).argmax())]
    close = (similar[:, most].max(axis=1) >= SAME_PERSON) | most
    return tuple(
        f"{source} seems to show another person than the other photos (similarity {row.max():.2f}): {different}"
        for source, row, belongs in zip(sources, similar[:, most], close, strict=True)
        if not belongs
    )


def turn(landmarks: Floats) -> float:
    """Offset of the nose from the middle of the eyes, along the line of the eyes, in eye distances.

    0 for a frontal face, positive if the face looks to the right of the picture.
    """
    left_eye, right_eye, nose = np.asarray(landmarks[:3], np.float64)
    eyes = right_eye - left_eye
    return float((nose - (left_eye + right_eye) / 2) @ eyes / max(float(eyes @ eyes), 1e-9))


def _narrowness(landmarks: Floats) -> float:
    left_eye, right_eye, _, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    height = np.hypot(*((left_mouth + right_mouth) - (left_eye + right_eye)) / 2)
    return float(np.hypot(*(right_eye - left_eye)) / max(height, 1e-9))


def _middle(gray: _Gray) -> _Gray:
    """Eyes to mouth of an aligned crop: skin, hardly any hair or background."""
    return gray[24:104, 24:88]
