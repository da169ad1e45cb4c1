"""Rendering of a scene: backdrop, people with their accessories, medium."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from celeb_basis.faces.network import Floats, Pixels
from celeb_basis.training.augment import BACKGROUNDS
from miniature.training.accessories import draw_accessory
from miniature.training.backdrops import SIDE, draw_backdrop
from miniature.training.media import in_medium
from miniature.training.scenes import WIDTHS, Scene

FACE_SIDE = 64
"""Side of the faces that come in, in pixels."""

OVAL = (32.0, 33.0, 25.5, 31.5)
"""Center x, y and half axes of what is kept of such a face: without its corners, where the background was."""


Box = tuple[float, float, float]
"""Left, top and width of a face's square frame in pixels."""


@dataclass(frozen=True)
class Rendering:
    """A picture and the positions of its faces."""

    picture: Pixels
    """``(128, 128, 3)``."""
    boxes: tuple[Box, ...]
    """One for each of the scene's people."""


def render(scene: Scene, faces: Sequence[Pixels], rng: np.random.Generator) -> Rendering:
    """Render a scene with ``faces``, one ``(64, 64, 3)`` picture for each of ``scene.people``."""
    import cv2

    picture = draw_backdrop(scene.backdrop, rng)
    boxes = [_put_person(picture, scene, face, number, rng) for number, face in enumerate(faces)]
    picture = in_medium(picture, scene.medium, rng)
    if scene.pasted is not None:
        width, left, top, color = scene.pasted
        side = max(8, round(width * SIDE))
        frame = np.empty_like(picture)
        frame[:] = BACKGROUNDS[color]
        x, y = round(left * (SIDE - side)), round(top * (SIDE - side))
        frame[y : y + side, x : x + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        share = side / SIDE
        boxes = [(x + box[0] * share, y + box[1] * share, box[2] * share) for box in boxes]
        return Rendering(frame, tuple(boxes))
    return Rendering(picture, tuple(boxes))


@cache
def face_mask() -> Floats:
    """``(64, 64)`` mask with soft edges: 1 on the face, 0 on its own background."""
    y, x = np.mgrid[0:FACE_SIDE, 0:FACE_SIDE].astype(np.float32) + 0.5
    center_x, center_y, half_x, half_y = OVAL
    radius = np.sqrt(((x - center_x) / half_x) ** 2 + ((y - center_y) / half_y) ** 2)
    mask: Floats = np.clip((1.0 - radius) / 0.10 + 0.2, 0, 1).astype(np.float32)
    return mask


def _put_person(picture: Pixels, scene: Scene, face: Pixels, number: int, rng: np.random.Generator) -> Box:
    """Draw body, face and accessories into ``picture``, and return the position of the face."""
    import cv2

    low, high = WIDTHS[scene.size]
    width = rng.uniform(low, high) * SIDE
    center_x, center_y = _center(scene, number, width, rng)
    scale = width / FACE_SIDE
    left, top = center_x - width / 2, center_y - width / 2
    _body(picture, face, left, top, scale, rng)
    matrix = np.array([[scale, 0, left + 0.5 * scale - 0.5], [0, scale, top + 0.5 * scale - 0.5]], np.float32)
    size = (SIDE, SIDE)
    placed = cv2.warpAffine(face, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(face_mask(), matrix, size, flags=cv2.INTER_LINEAR, borderValue=0.0)[..., None]
    picture[:] = (placed * mask + picture * (1 - mask)).astype(np.uint8)
    for name in scene.accessories:
        draw_accessory(picture, name, left, top, scale, rng)
    return left, top, width


def _center(scene: Scene, number: int, width: float, rng: np.random.Generator) -> tuple[float, float]:
    jitter_x, jitter_y = rng.uniform(-1.5, 1.5, 2)
    if len(scene.people) == 2:
        x = SIDE * (0.27 if number == 0 else 0.73)
        return x + jitter_x, SIDE * 0.48 + jitter_y
    x = SIDE / 2
    if scene.place:
        x = width * 0.42 if scene.place == "on the left" else SIDE - width * 0.42
    y = SIDE * (0.5 if scene.size in ("close-up", "") else 0.52)
    return x + jitter_x, y + jitter_y


def _body(picture: Pixels, face: Pixels, left: float, top: float, scale: float, rng: np.random.Generator) -> None:
    """Draw a neck in the color of the skin and dark shoulders below the chin."""
    import cv2

    skin = face[36:46, 22:42].reshape(-1, 3).mean(0) * 0.85
    middle, chin = left + 32 * scale, top + 60 * scale
    if chin > SIDE + 4:
        return
    half, neck = 34 * scale, 12 * scale
    tone = rng.integers(-8, 9, 3)
    shirt = tuple(int(value) for value in np.array([52, 58, 78]) + tone)
    shoulders = (round(middle), round(chin + 30 * scale)), (round(half), round(22 * scale))
    cv2.ellipse(picture, shoulders[0], shoulders[1], 0, 180, 360, shirt, -1, cv2.LINE_AA)
    cv2.rectangle(picture, (round(middle - half), round(chin + 30 * scale)), (round(middle + half), SIDE), shirt, -1)
    points = [
        [middle - neck, chin - 8 * scale],
        [middle + neck, chin - 8 * scale],
        [middle + neck, chin + 10 * scale],
        [middle, chin + 16 * scale],
        [middle - neck, chin + 10 * scale],
    ]
    cv2.fillPoly(picture, [np.array(points).round().astype(np.int32)], tuple(int(v) for v in skin), cv2.LINE_AA)
