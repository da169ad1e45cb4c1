"""The square crop around a face that becomes a training picture.

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

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from celeb_basis.errors import FaceError
from celeb_basis.faces.network import Floats, Pixels

_Vector = npt.NDArray[np.float64]

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
