"""From a scene to pixels: backdrop, people, medium."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from celeb_basis.faces.network import Pixels
from celeb_basis.training.augment import BACKGROUNDS
from miniature.world.backdrops import draw_backdrop
from miniature.world.bank import Clipping
from miniature.world.media import in_medium
from miniature.world.scenes import FRAMES, SIDE, TOGETHER, Rng, Scene

Box = tuple[float, float, float]
"""Left, top and width of the square around a head, in pixels."""

_EYES = {"close-up": 0.46, "": 0.45, "smaller": 0.46, "small": 0.54}
"""Height of the eyes, as a share of the frame from the top."""
_HEAD = 2.3
"""Decimeters of a head's height, from below the chin to the hair."""


@dataclass(frozen=True)
class Rendering:
    """A picture and where its heads are."""

    picture: Pixels
    """``(SIDE, SIDE, 3)``."""
    boxes: tuple[Box, ...]
    """One for each of the scene's people."""


def render(scene: Scene, clippings: Sequence[Clipping], rng: Rng) -> Rendering:
    """Render a scene with a cut-out picture of each of ``scene.people``."""
    import cv2

    picture = draw_backdrop(scene.backdrop, rng)
    boxes: list[Box] = []
    # Who is on the right is put first: the other shoulder lies in front.
    for order in reversed(range(len(clippings))):
        picture, box = _put(picture, scene, clippings[order], order, rng)
        boxes.insert(0, box)
    picture = in_medium(picture, scene.medium, rng)
    if scene.pasted is None:
        return Rendering(picture, tuple(boxes))
    width, left, top, color = scene.pasted
    side = max(8, round(width * SIDE))
    frame = np.empty_like(picture)
    frame[:] = BACKGROUNDS[color]
    x, y = round(left * (SIDE - side)), round(top * (SIDE - side))
    frame[y : y + side, x : x + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    share = side / SIDE
    return Rendering(frame, tuple((x + box[0] * share, y + box[1] * share, box[2] * share) for box in boxes))


def _put(picture: Pixels, scene: Scene, clipping: Clipping, order: int, rng: Rng) -> tuple[Pixels, Box]:
    """``picture`` with a person in it, and the box of the head."""
    import cv2

    pair = len(scene.people) == 2
    across = rng.uniform(*(TOGETHER if pair else FRAMES[scene.size]))
    scale = SIDE / across / clipping.scale
    x, y = _center(scene, order, rng)
    half = clipping.pixels.shape[0] / 2
    source = clipping.pixels
    if scale < 0.7:
        side = round(2 * half * scale)
        source = cv2.resize(source, (side, side), interpolation=cv2.INTER_AREA)
        scale, half = 1.0, side / 2
    matrix = np.array([[scale, 0, x - half * scale], [0, scale, y - half * scale]], np.float32)
    placed = cv2.warpAffine(source, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderValue=(0, 0, 0, 0))
    alpha = placed[..., 3:].astype(np.float32) / 255
    joined = placed[..., :3] * alpha + picture * (1 - alpha)
    head = _HEAD * SIDE / across
    return joined.astype(np.uint8), (x - head / 2, y - 0.52 * head, head)


def _center(scene: Scene, order: int, rng: Rng) -> tuple[float, float]:
    """Where the middle between a person's eyes lies, in pixels."""
    jitter = rng.uniform(-0.015, 0.015, 2) * SIDE
    x, y = 0.5, _EYES[scene.size]
    if len(scene.people) == 2:
        x = (0.27, 0.73)[order]
    elif scene.place:
        x = {"smaller": (0.34, 0.66), "small": (0.26, 0.74)}.get(scene.size, (0.4, 0.6))[scene.place == "on the right"]
    return x * SIDE + float(jitter[0]), y * SIDE + float(jitter[1])
