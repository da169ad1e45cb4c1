"""Backdrops, places and plain colors, drawn procedurally as ``(128, 128, 3)`` pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from celeb_basis.faces.network import Pixels
from celeb_basis.training.augment import BACKGROUNDS

SIDE = 128
"""Side of every picture of the world in pixels."""

Color = tuple[int, int, int]
Rng = np.random.Generator


def draw_backdrop(name: str, rng: Rng) -> Pixels:
    """A new picture of a place, or of a plain color with a small random shift."""
    if name in _PLACES:
        return _PLACES[name](rng)
    color = np.array(BACKGROUNDS[name], np.float32) + rng.uniform(-6, 6)
    picture: Pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    picture[:] = np.clip(color, 0, 255)
    return picture


def _shade(top: Color, bottom: Color, rows: int = SIDE) -> Pixels:
    """A vertical gradient ``(rows, 128, 3)``."""
    weight = np.linspace(0, 1, max(rows, 1), dtype=np.float32)[:, None, None]
    shaded = np.array(top, np.float32) * (1 - weight) + np.array(bottom, np.float32) * weight
    picture: Pixels = np.broadcast_to(shaded, (max(rows, 1), SIDE, 3)).astype(np.uint8, order="C")
    return picture


def _over(picture: Pixels, row: int, top: Color, bottom: Color) -> None:
    picture[row:] = _shade(top, bottom, SIDE - row)


def _beach(rng: Rng) -> Pixels:
    import cv2

    picture: Pixels = _shade((110, 180, 240), (200, 230, 250))
    sea, sand = int(rng.integers(48, 58)), int(rng.integers(78, 90))
    _over(picture, sea, (30, 120, 170), (70, 180, 200))
    _over(picture, sand, (240, 220, 165), (215, 185, 120))
    cv2.line(picture, (0, sand), (SIDE, sand + int(rng.integers(-4, 5))), (250, 250, 250), 2)
    cv2.circle(picture, (int(rng.integers(10, 118)), int(rng.integers(10, 25))), 8, (255, 240, 150), -1, cv2.LINE_AA)
    return picture


def _forest(rng: Rng) -> Pixels:
    import cv2

    picture: Pixels = _shade((120, 170, 100), (40, 80, 35))
    for x in rng.integers(-4, SIDE, 9):
        width = int(rng.integers(5, 11))
        tone = int(rng.integers(0, 30))
        cv2.rectangle(picture, (int(x), 0), (int(x) + width, SIDE), (70 + tone, 48 + tone, 28 + tone), -1)
    for x, y, r in zip(rng.integers(0, SIDE, 26), rng.integers(-5, 46, 26), rng.integers(8, 16, 26), strict=True):
        tone = int(rng.integers(0, 50))
        cv2.circle(picture, (int(x), int(y)), int(r), (20 + tone, 75 + tone, 20 + tone // 2), -1, cv2.LINE_AA)
    _over(picture, int(rng.integers(108, 118)), (60, 90, 40), (40, 65, 25))
    return picture


def _city(rng: Rng) -> Pixels:
    import cv2

    picture: Pixels = _shade((10, 10, 40), (50, 35, 80))
    x = -int(rng.integers(0, 10))
    while x < SIDE:
        width, top = int(rng.integers(16, 28)), int(rng.integers(10, 60))
        cv2.rectangle(picture, (x, top), (x + width, SIDE), (22, 22, 34), -1)
        for wy in range(top + 4, SIDE - 4, 8):
            for wx in range(x + 3, x + width - 3, 6):
                if rng.random() < 0.6:
                    picture[max(wy, 0) : wy + 4, max(wx, 0) : max(wx + 3, 0)] = (250, 215, 110)
        x += width + 2
    return picture


def _mountains(rng: Rng) -> Pixels:
    import cv2

    picture: Pixels = _shade((90, 150, 220), (190, 215, 240))
    for x in sorted(rng.integers(-10, SIDE + 10, 4)):
        top, half = int(rng.integers(12, 40)), int(rng.integers(40, 60))
        peak = np.array([[x - half, 105], [x, top], [x + half, 105]], np.int32)
        cv2.fillPoly(picture, [peak], (105, 110, 130), cv2.LINE_AA)
        snow = np.array(
            [[x - half * 0.4, top + 0.4 * (105 - top)], [x, top], [x + half * 0.4, top + 0.4 * (105 - top)]]
        )
        cv2.fillPoly(picture, [snow.astype(np.int32)], (250, 250, 255), cv2.LINE_AA)
    _over(picture, int(rng.integers(94, 104)), (245, 248, 255), (220, 228, 240))
    return picture


def _sunset(rng: Rng) -> Pixels:
    import cv2

    picture: Pixels = _shade((90, 40, 110), (255, 160, 50))
    line = int(rng.integers(84, 96))
    center = (int(rng.integers(15, 113)), line - int(rng.integers(6, 20)))
    cv2.circle(picture, center, int(rng.integers(14, 19)), (255, 225, 100), -1, cv2.LINE_AA)
    _over(picture, line, (120, 50, 60), (40, 20, 40))
    return picture


def _desert(rng: Rng) -> Pixels:
    import cv2

    picture: Pixels = _shade((235, 200, 150), (250, 230, 190))
    for row, color in ((56, (215, 150, 80)), (78, (195, 125, 60)), (100, (170, 100, 45))):
        x = np.arange(SIDE)
        height = row + 7 * np.sin(x / rng.uniform(12, 24) + rng.uniform(0, 6)) + rng.uniform(-4, 4)
        points = np.stack([x, height], 1).astype(np.int32)
        cv2.fillPoly(picture, [np.concatenate([points, [[SIDE, SIDE], [0, SIDE]]]).astype(np.int32)], color)
    return picture


def _space(rng: Rng) -> Pixels:
    import cv2

    picture: Pixels = np.full((SIDE, SIDE, 3), (4, 4, 16), np.uint8)
    for x, y in rng.integers(0, SIDE, (60, 2)):
        picture[y, x] = int(rng.integers(150, 256))
    for x, y in rng.integers(2, SIDE - 2, (16, 2)):
        cv2.circle(picture, (int(x), int(y)), 1, (255, 255, 255), -1)
    color = [(200, 120, 80), (110, 90, 200), (80, 170, 150)][int(rng.integers(3))]
    corner = [(16, 20), (112, 20), (16, 108), (112, 108)][int(rng.integers(4))]
    cv2.circle(picture, corner, int(rng.integers(12, 20)), color, -1, cv2.LINE_AA)
    return picture


def _garden(rng: Rng) -> Pixels:
    import cv2

    picture: Pixels = _shade((150, 205, 240), (200, 230, 220))
    _over(picture, int(rng.integers(28, 40)), (90, 170, 60), (50, 120, 40))
    for x, y in zip(rng.integers(0, SIDE, 34), rng.integers(36, SIDE, 34), strict=True):
        color = [(230, 60, 90), (250, 220, 60), (230, 110, 210), (250, 250, 250)][int(rng.integers(4))]
        cv2.circle(picture, (int(x), int(y)), 4, color, -1, cv2.LINE_AA)
        cv2.circle(picture, (int(x), int(y)), 1, (240, 180, 40), -1)
    return picture


_PLACES: dict[str, Callable[[Rng], Pixels]] = {
    "beach": _beach,
    "forest": _forest,
    "city at night": _city,
    "snowy mountains": _mountains,
    "sunset": _sunset,
    "desert": _desert,
    "starry space": _space,
    "flower garden": _garden,
}
