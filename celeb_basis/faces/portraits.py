"""From a photo to the portrait of one face: choosing, cropping and embedding it, and warnings about its quality.

The square training picture is cut as for FFHQ (Karras et al. 2019, appendix A). With ``e`` the middle of the eyes and ``m``
that of the corners of the mouth, ``u`` from the left eye to the right one, and ``d = m - e``:

* the square's horizontal half-axis ``x`` points along ``u - rot90(d)``, the mean direction of eyes and mouth, so that the
  face is upright in the crop; its length is ``max(2 |u|, 1.8 |d|)``; the vertical half-axis is ``x`` turned by 90 degrees;
* its center is ``e + 0.1 d``, slightly below the eyes.

The square is four times as wide as the distance of the eyes: it contains hair, chin and some background. Where it extends
beyond the photo, the photo is mirrored, and the mirrored part is blurred and faded, so that no second face or hard edge is
learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from celeb_basis.errors import FaceError
from celeb_basis.faces.face_search import find_faces
from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels, Portrait

_Vector = npt.NDArray[np.float64]
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


# The square crop.

_BLUR = 0.03
"""Standard deviation of the blur outside the photo, as a share of the square's side."""
_FADE = 0.08
"""Distance from the photo's edge at which the blur is complete, as a share of the square's side."""
_PLAIN = 0.4
"""Distance from the photo's edge at which only its median color is left, as a share of the square's side."""


@dataclass(frozen=True)
class Crop:
    """A square crop and the landmarks in it."""

    picture: Pixels
    """``(S, S, 3)``."""
    landmarks: Floats
    """``(5, 2)`` x, y in the crop's pixels."""


@dataclass(frozen=True)
class Square:
    """A rotated square in a photo, in continuous coordinates: pixel ``i`` covers ``i`` to ``i + 1``."""

    center: _Vector
    right: _Vector
    """Half-axis from the center to the middle of the right side; the lower one is this turned by 90 degrees."""

    @property
    def down(self) -> _Vector:
        """Half-axis from the center to the middle of the lower side."""
        return np.array([-self.right[1], self.right[0]])

    @property
    def side(self) -> float:
        """Length of a side in pixels."""
        return 2 * float(np.hypot(*self.right))

    @property
    def corners(self) -> _Vector:
        """``(4, 2)``: top left, bottom left, bottom right, top right."""
        x, y = self.right, self.down
        return self.center + np.stack([-x - y, -x + y, x + y, x - y])


def face_square(landmarks: Floats) -> Square:
    """FFHQ's square for ``(5, 2)`` landmarks in pixel coordinates (the first pixel's center is 0).

    Raises:
        FaceError: If the landmarks coincide, so that they span no square.
    """
    points = np.asarray(landmarks, np.float64) + 0.5
    left_eye, right_eye, _, left_mouth, right_mouth = points
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    across, down = right_eye - left_eye, mouth - eyes
    right = across - np.array([-down[1], down[0]])
    length = float(np.hypot(*right))
    reach = max(2.0 * float(np.hypot(*across)), 1.8 * float(np.hypot(*down)))
    if not np.isfinite(length) or length < 1e-3 or reach < 1:
        raise FaceError("The face's landmarks coincide, so it cannot be cropped: use a larger or sharper photo.")
    return Square(eyes + 0.1 * down, right / length * reach)


def outside_share(photo_size: tuple[int, int], square: Square) -> float:
    """Share of the square's area, 0 to 1, that lies outside a photo of ``(height, width)`` pixels."""
    # A grid of points is accurate enough for a warning and needs no polygon clipping.
    steps = (np.arange(64) + 0.5) / 32 - 1
    grid = square.center + steps[:, None, None] * square.right + steps[None, :, None] * square.down
    height, width = photo_size
    inside = (grid >= 0).all(-1) & (grid[..., 0] <= width) & (grid[..., 1] <= height)
    return 1 - float(inside.mean())


def square_crop(photo: Pixels, landmarks: Floats, size: int) -> Crop:
    """Cut FFHQ's square around a face out of a photo, upright and ``size`` pixels wide.

    Raises:
        FaceError: If the landmarks span no square.
    """
    square = face_square(landmarks)
    patch, origin = _patch(photo, square)
    shrink = int(square.side / size // 2)
    if shrink > 1:
        # Whole blocks of pixels are averaged first, to keep the next steps small.
        patch = patch.reduce(shrink)
    else:
        shrink = 1
    picture = _sampled(patch, Square((square.center - origin) / shrink, square.right / shrink), size)

    # The landmarks in the crop: the inverse of the same map.
    axes = np.stack([square.right, square.down], axis=1) * 2 / size
    moved = np.linalg.solve(axes, (np.asarray(landmarks, np.float64) + 0.5 - square.corners[0]).T).T - 0.5
    return Crop(picture, moved.astype(np.float32))


def _sampled(patch: Image.Image, square: Square, size: int) -> Pixels:
    """Sample the square from a patch at the patch's resolution and filter it down to ``size``."""
    finer = size * max(1, int(np.ceil(square.side / size)))
    x, y = square.right * 2 / finer, square.down * 2 / finer
    left, top = square.corners[0]
    # Pillow maps the centers of target pixels in continuous coordinates, as this module does.
    matrix = (x[0], y[0], left, x[1], y[1], top)
    turned = patch.transform((finer, finer), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.array(turned.resize((size, size), Image.Resampling.LANCZOS) if finer != size else turned)


def _patch(photo: Pixels, square: Square) -> tuple[Image.Image, _Vector]:
    """The upright part of the photo that contains the square, padded beyond the photo, and its top left corner."""
    border = 4 + square.side / 50  # for the filters
    low = np.floor(square.corners.min(0) - border).astype(int)
    high = np.ceil(square.corners.max(0) + border).astype(int)
    height, width = photo.shape[:2]
    inner_low = np.clip(low, 0, (width - 1, height - 1))
    inner_high = np.clip(high, inner_low + 1, (width, height))
    part = photo[inner_low[1] : inner_high[1], inner_low[0] : inner_high[0]]
    before, after = inner_low - low, high - inner_high
    if not before.any() and not after.any():
        return Image.fromarray(np.ascontiguousarray(part)), low.astype(np.float64)
    pads = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    return _faded(np.pad(part, pads, mode="symmetric"), part, before, square.side), low.astype(np.float64)


def _faded(mirrored: Pixels, part: Pixels, before: npt.NDArray[np.int_], side: float) -> Image.Image:
    """Blur what lies outside the photo, increasingly with distance, and fade it into the photo's median color."""
    image = Image.fromarray(mirrored)
    distance = np.hypot(
        *np.meshgrid(
            _beyond(mirrored.shape[1], before[0], part.shape[1]),
            _beyond(mirrored.shape[0], before[1], part.shape[0]),
        )
    )[..., None].astype(np.float32) / np.float32(side)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(_BLUR * side)), np.float32)
    median = np.median(part[:: max(1, part.shape[0] // 256), :: max(1, part.shape[1] // 256)], axis=(0, 1))
    outside = blurred + (median.astype(np.float32) - blurred) * np.clip(distance / _PLAIN, 0, 1)
    mixed = mirrored + (outside - mirrored) * np.clip(distance / _FADE, 0, 1)
    return Image.fromarray(np.clip(mixed + 0.5, 0, 255).astype(np.uint8))


def _beyond(length: int, before: int, inside: int) -> _Vector:
    """Distance in pixels of each of ``length`` positions from the stretch ``before`` to ``before + inside``."""
    positions = np.arange(length, dtype=np.float64)
    return np.maximum(0.0, np.maximum(before - positions, positions - (before + inside - 1)))


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
    if len(portraits) < 2:
        return ()
    vectors = np.stack([one.vector for one in portraits]).astype(np.float64)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1.0)
    different = "nobody has the mean of two faces. Leave out photos of anybody else, or choose the right face in them."
    if len(portraits) == 2 or bool((similar.max(axis=1) < SAME_PERSON).all()):
        if similar.max() >= SAME_PERSON:
            return ()
        names = " and ".join(one.source for one in portraits)
        return (f"{names} seem to show different people (similarity {similar.max():.2f}): {different}",)
    # The person is who most photos show.
    groups = similar >= SAME_PERSON
    np.fill_diagonal(groups, True)
    most = groups[int(groups.sum(axis=1).argmax())]
    close = (similar[:, most].max(axis=1) >= SAME_PERSON) | most
    return tuple(
        f"{one.source} seems to show another person than the other photos (similarity {row.max():.2f}): {different}"
        for one, row, belongs in zip(portraits, similar[:, most], close, strict=True)
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
