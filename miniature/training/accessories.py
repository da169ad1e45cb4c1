"""Accessories, drawn over a face whose 64x64 frame starts at ``left``, ``top`` and is scaled by ``scale``."""

from __future__ import annotations

import numpy as np

from celeb_basis.faces.network import Pixels

Points = list[tuple[float, float]]

# In the face's own pixels, where the generator puts eyes, forehead and chin.
_EYES = ((21.5, 29.5), (42.0, 29.5))
_BROW, _CHIN = 14.0, 60.0


def draw_accessory(picture: Pixels, name: str, left: float, top: float, scale: float, rng: np.random.Generator) -> None:
    """Draw glasses, sunglasses, hat, scarf or crown into ``picture``."""
    tone = int(rng.integers(-12, 13))
    canvas = _Canvas(picture, left, top, scale)
    if name in ("glasses", "sunglasses"):
        _glasses(canvas, dark=name == "sunglasses")
    elif name == "hat":
        canvas.fill([(14, _BROW), (16, -6), (48, -6), (50, _BROW)], (120 + tone, 40, 40))
        canvas.fill([(14, _BROW - 4), (50, _BROW - 4), (50, _BROW), (14, _BROW)], (30, 25, 25))
        canvas.fill([(2, _BROW), (62, _BROW), (62, _BROW + 4), (2, _BROW + 4)], (105 + tone, 32, 32))
    elif name == "crown":
        teeth: Points = [
            (10, _BROW + 2),
            (8, -4),
            (18, 5),
            (25, -7),
            (32, 4),
            (39, -7),
            (46, 5),
            (56, -4),
            (54, _BROW + 2),
        ]
        canvas.fill(teeth, (245, 200 + tone, 50))
        for x in (18, 32, 46):
            canvas.disc((x, _BROW - 4), 2.2, (200, 30, 60))
    elif name == "scarf":
        for number in range(5):
            color = (60, 150 + tone, 90) if number % 2 == 0 else (240, 240, 230)
            y = _CHIN - 3 + 3.4 * number
            canvas.fill([(10, y - 3), (32, y + 2), (54, y - 3), (54, y + 1), (32, y + 6), (10, y + 1)], color)
        canvas.fill([(38, _CHIN + 10), (48, _CHIN + 8), (50, 90), (40, 90)], (60, 150 + tone, 90))
    else:
        raise ValueError(name)


def _glasses(canvas: _Canvas, *, dark: bool) -> None:
    color = (15, 15, 20)
    for x, y in _EYES:
        if dark:
            canvas.disc((x, y), 8.5, color)
        else:
            canvas.ring((x, y), 8.0, color)
    canvas.line((_EYES[0][0] + 8, 28.5), (_EYES[1][0] - 8, 28.5), color)
    canvas.line((_EYES[0][0] - 8, 28.5), (7, 27), color)
    canvas.line((_EYES[1][0] + 8, 28.5), (57, 27), color)


class _Canvas:
    """Draws in a face's own coordinates."""

    def __init__(self, picture: Pixels, left: float, top: float, scale: float) -> None:
        self._picture, self._left, self._top, self._scale = picture, left, top, scale

    def fill(self, points: Points, color: tuple[int, int, int]) -> None:
        import cv2

        cv2.fillPoly(self._picture, [np.array([self._place(point) for point in points], np.int32)], color, cv2.LINE_AA)

    def disc(self, center: tuple[float, float], radius: float, color: tuple[int, int, int]) -> None:
        import cv2

        cv2.circle(self._picture, self._place(center), self._length(radius), color, -1, cv2.LINE_AA)

    def ring(self, center: tuple[float, float], radius: float, color: tuple[int, int, int]) -> None:
        import cv2

        cv2.circle(self._picture, self._place(center), self._length(radius), color, self._length(1.4), cv2.LINE_AA)

    def line(self, one: tuple[float, float], other: tuple[float, float], color: tuple[int, int, int]) -> None:
        import cv2

        cv2.line(self._picture, self._place(one), self._place(other), color, self._length(1.4), cv2.LINE_AA)

    def _place(self, point: tuple[float, float]) -> tuple[int, int]:
        x, y = point
        return round(self._left + x * self._scale), round(self._top + y * self._scale)

    def _length(self, length: float) -> int:
        return max(1, round(length * self._scale))
