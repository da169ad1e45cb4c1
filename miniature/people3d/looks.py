"""Light and clothes of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from miniature.people3d.head_model import Array
from miniature.people3d.person import Rng, linear

LIGHTS = ("soft", "side", "warm", "cool", "studio")


@dataclass(frozen=True)
class Lighting:
    """Three lights, each a direction and a linear color, and light from above and below."""

    key: tuple[Sequence[float], Sequence[float]]
    fill: tuple[Sequence[float], Sequence[float]]
    rim: tuple[Sequence[float], Sequence[float]]
    sky: Sequence[float]
    ground: Sequence[float]


_Triple = tuple[float, float, float]
_LIGHTS: dict[
    str, tuple[tuple[_Triple, _Triple], tuple[_Triple, _Triple], tuple[_Triple, _Triple], _Triple, _Triple]
] = {
    "soft": (
        ((0.45, 0.65, 1), (1.34, 1.29, 1.22)),
        ((-0.8, 0.2, 0.8), (0.38, 0.39, 0.42)),
        ((-0.7, 0.5, -0.8), (0.5, 0.5, 0.52)),
        (0.50, 0.51, 0.54),
        (0.30, 0.27, 0.25),
    ),
    "side": (
        ((1.1, 0.5, 0.6), (1.9, 1.8, 1.66)),
        ((-0.9, 0.1, 0.6), (0.24, 0.26, 0.31)),
        ((-0.8, 0.4, -0.8), (0.55, 0.58, 0.65)),
        (0.34, 0.36, 0.41),
        (0.20, 0.18, 0.17),
    ),
    "warm": (
        ((0.8, 0.45, 0.8), (1.95, 1.58, 1.18)),
        ((-0.8, 0.3, 0.7), (0.28, 0.30, 0.38)),
        ((-0.7, 0.5, -0.7), (0.8, 0.62, 0.42)),
        (0.40, 0.42, 0.48),
        (0.30, 0.24, 0.18),
    ),
    "cool": (
        ((0.5, 0.8, 0.8), (1.38, 1.5, 1.62)),
        ((-0.8, 0.1, 0.8), (0.40, 0.36, 0.34)),
        ((0.5, 0.5, -0.8), (0.5, 0.55, 0.7)),
        (0.46, 0.52, 0.60),
        (0.25, 0.25, 0.25),
    ),
    "studio": (
        ((0.6, 0.8, 0.9), (1.75, 1.66, 1.55)),
        ((-0.7, 0.1, 0.9), (0.30, 0.31, 0.34)),
        ((-0.9, 0.3, -0.6), (0.7, 0.7, 0.72)),
        (0.40, 0.41, 0.44),
        (0.26, 0.23, 0.21),
    ),
}


def draw_lighting(kind: str, rng: Rng) -> Lighting:
    """A light of :data:`LIGHTS`, from the left or the right and a little elsewhere each time."""
    key, fill, rim, sky, ground = _LIGHTS[kind]
    side = float(rng.choice([-1, 1]))

    def placed(light: tuple[_Triple, _Triple]) -> tuple[Sequence[float], Sequence[float]]:
        (x, y, z), color = light
        direction = np.array([side * x, y, z]) + 0.12 * rng.standard_normal(3)
        return direction.tolist(), color

    return Lighting(placed(key), placed(fill), placed(rim), sky, ground)


CLOTHES = ("crew neck", "v-neck", "stripes", "shirt", "jacket", "turtleneck")


@dataclass(frozen=True)
class Clothes:
    """What is worn on the body: one of :data:`CLOTHES`, in two linear colors."""

    kind: str
    color: Array
    second: Array


def draw_clothes(rng: Rng) -> Clothes:
    """Random clothes."""
    import colorsys

    def color(saturation: tuple[float, float], value: tuple[float, float]) -> Array:
        rgb = colorsys.hsv_to_rgb(float(rng.random()), float(rng.uniform(*saturation)), float(rng.uniform(*value)))
        return linear(*(255 * part for part in rgb))

    kind = str(rng.choice(CLOTHES, p=[0.28, 0.18, 0.12, 0.16, 0.16, 0.10]))
    first = color((0.08, 0.66), (0.2, 0.88))
    second = color((0, 0.12), (0.75, 0.98)) if kind in ("shirt", "jacket") else color((0.08, 0.66), (0.2, 0.9))
    return Clothes(kind, first, second)
