"""The skin of a head as a texture over azimuth and height: color, and a height for bumps."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from miniature.people3d.head_model import Array, head_model
from miniature.people3d.person import Brows, Hair, Person

WIDTH, HEIGHT = 768, 384
_TOP, _SPAN = 8.7, 3.4
"""Height of the texture's upper edge, and how much it covers, in decimeters; as in ``rasterizer.c``."""

_AXIS = 0.25
"""z of the vertical axis around which azimuth is measured; as in ``rasterizer.c``."""


def smoothstep(start: float, end: float, values: Array) -> Array:
    """0 at ``start``, 1 at ``end``, smooth between; ``start`` may be the larger."""
    share = np.clip((values - start) / (end - start), 0, 1)
    result: Array = share * share * (3 - 2 * share)
    return result


def azimuth_of(positions: Array) -> Array:
    """Angle around the head of ``(..., 3)`` positions at rest: 0 in front, positive on the person's left."""
    result: Array = np.arctan2(positions[..., 0], positions[..., 2] - _AXIS)
    return result


@dataclass(frozen=True)
class _Grid:
    """Where each texel lies: azimuth, and the position at rest."""

    azimuth: Array
    x: Array
    y: Array
    z: Array


@functools.cache
def _grid() -> _Grid:
    import cv2
    from scipy.spatial import cKDTree

    azimuth, y = np.meshgrid(
        ((np.arange(WIDTH) + 0.5) / WIDTH - 0.5) * 2 * np.pi, _TOP - _SPAN * (np.arange(HEIGHT) + 0.5) / HEIGHT
    )
    head = head_model()
    body = head.base[head.is_skin & (head.base[:, 1] > 5.2) & (head.mouth < 0.3)]
    turned, radius = azimuth_of(body), np.hypot(body[:, 0], body[:, 2] - _AXIS)
    # Three times around, so that the nearest vertices are found across the seam; an azimuth counts 0.8 decimeters.
    around = np.concatenate([turned, turned + 2 * np.pi, turned - 2 * np.pi]) * 0.8
    distance, nearest = cKDTree(np.stack([around, np.tile(body[:, 1], 3)], 1)).query(
        np.stack([azimuth.ravel() * 0.8, y.ravel()], 1), k=4
    )
    weight = 1 / (distance + 1e-3)
    radii = ((np.tile(radius, 3)[nearest] * weight).sum(1) / weight.sum(1)).reshape(HEIGHT, WIDTH)
    radii = cv2.GaussianBlur(radii.astype(np.float32), (0, 0), 2)
    azimuth, y = azimuth.astype(np.float32), y.astype(np.float32)
    return _Grid(azimuth, radii * np.sin(azimuth), y, np.float32(_AXIS) + radii * np.cos(azimuth))


# ---------------------------------------------------------------------- where hair grows

_HAIRLINE_AZIMUTH = np.radians([0, 14, 26, 36, 46, 56, 64, 71, 80, 88, 97, 110, 125, 150, 180])
_HAIRLINE_HEIGHT = np.array([8.02, 8.02, 8.0, 7.95, 7.86, 7.72, 7.52, 7.30, 7.28, 7.45, 7.5, 7.25, 6.95, 6.66, 6.6])


def hairline(azimuth: Array, hair: Hair) -> Array:
    """Height above which hair grows."""
    side = np.abs(azimuth)
    height = np.interp(side, _HAIRLINE_AZIMUTH, _HAIRLINE_HEIGHT)
    height = height + hair.hairline * np.exp(-((side / 0.75) ** 4))
    temples, front = np.exp(-(((side - 0.62) / 0.3) ** 2)), np.exp(-((side / 0.6) ** 2))
    height = height + hair.recession * (0.35 * temples + 0.12 * front)
    result: Array = height - 0.1 * hair.widows_peak * np.exp(-((side / 0.13) ** 2))
    return result


def brow_place(brows: Brows, x: Array, y: Array) -> tuple[Array, Array]:
    """Place along a brow, 0 to 1 outward, and across it, -1 to 1, of points on the side where x is positive."""
    along = (x - brows.inner) / brows.length
    inside = np.clip(along, 0, 1)
    middle = 7.475 + brows.height + 1.6 * brows.arch * np.sin(inside**1.35 * np.pi)
    middle = middle + brows.tail * inside**2 + 0.022 * (1 - inside) ** 2
    half = brows.thickness * (1 - 0.62 * inside**1.6) * (0.75 + 0.25 * smoothstep(0, 0.2, along))
    return along, (y - middle) / half


def beard_density(x: Array, y: Array, z: Array, kind: str) -> Array:
    """How densely a beard grows, 0 to 1: ``full``, ``moustache``, ``goatee`` or ``vandyke``."""
    side = np.abs(x)
    above_neck = smoothstep(6.10, 6.26, y - 0.18 * smoothstep(0.45, 0.75, side))
    below_cheek = smoothstep(0, 0.1, (6.66 + 0.5 * np.clip(side - 0.3, 0, 0.5)) - y)
    jaw = below_cheek * above_neck
    moustache = np.exp(-(((y - 6.70 + 0.10 * side) / 0.055) ** 4)) * smoothstep(0.36, 0.26, side)
    chin = smoothstep(0.36, 0.24, side) * smoothstep(6.52, 6.44, y) * above_neck
    around_lips = np.exp(-(((y - 6.56) / 0.085) ** 4)) * smoothstep(0.33, 0.24, side)
    soul_patch = np.exp(-(((y - 6.45) / 0.06) ** 2) - (side / 0.07) ** 2)
    corners = np.exp(-(((side - 0.33) / 0.07) ** 4)) * smoothstep(6.74, 6.66, y) * smoothstep(6.2, 6.4, y)
    goatee = np.maximum(chin * (1 - around_lips), soul_patch)
    density = {
        "full": np.maximum(jaw * (1 - around_lips), np.maximum(moustache, soul_patch)),
        "moustache": moustache,
        "goatee": goatee,
        "vandyke": np.maximum(np.maximum(chin * (1 - around_lips), moustache), corners),
    }[kind]
    result: Array = density * (z > -0.1) * smoothstep(0.05, 0.2, z + 0.1)
    return result


# ---------------------------------------------------------------------- the texture


def skin_texture(person: Person) -> Array:
    """``(HEIGHT, WIDTH, 4)`` float32: linear color, and height in arbitrary units."""
    canvas = _Canvas(person)
    _tones(canvas, person)
    if person.eyes.makeup > 0.2:
        _makeup(canvas, person)
    _spots(canvas, person)
    _age(canvas, person)
    _hair_roots(canvas, person)
    color = np.clip(canvas.color, 0.004, 0.95)
    return np.concatenate([color, canvas.height[..., None]], 2).astype(np.float32)


class _Canvas:
    """The texture while it is painted."""

    def __init__(self, person: Person) -> None:
        self.grid = _grid()
        self.rng = np.random.default_rng((person.number, 5))
        self.color: Array = np.ones((HEIGHT, WIDTH, 3), np.float32) * np.asarray(person.skin.color, np.float32)
        self.height: Array = 0.25 * self.noise(3) + 0.2 * self.noise(1.6)

    def noise(self, cell: float) -> Array:
        """Smooth noise of unit variance, with bumps of ``cell`` texels."""
        import cv2

        coarse = self.rng.standard_normal((max(2, round(HEIGHT / cell)), max(2, round(WIDTH / cell))))
        result: Array = cv2.resize(coarse.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        return result

    def blob(self, x: float, y: float, width: float, height: float) -> Array:
        """A soft spot on the front of the face."""
        spot = np.exp(-(((self.grid.x - x) / width) ** 2) - ((self.grid.y - y) / height) ** 2)
        result: Array = spot * (np.abs(self.grid.azimuth) < 1.9)
        return result

    def tint(self, mask: Array, factors: tuple[float, float, float]) -> None:
        """Multiply the color by ``factors`` where ``mask`` is 1."""
        self.color *= 1 + mask[..., None] * (np.asarray(factors, np.float32) - 1)

    def cover(self, mask: Array, color: Array) -> None:
        """Replace the color where ``mask`` is 1."""
        share = np.clip(mask, 0, 1)[..., None]
        self.color = self.color * (1 - share) + share * np.asarray(color, np.float32)

    def dots(
        self, count: int, center: tuple[float, float], spread: tuple[float, float], radius: tuple[int, int]
    ) -> Array:
        """Round dots around an azimuth and a height."""
        import cv2

        mask = np.zeros((HEIGHT, WIDTH), np.float32)
        for _ in range(count):
            azimuth, y = self.rng.normal(center[0], spread[0]), self.rng.normal(center[1], spread[1])
            column, row = int((azimuth / (2 * np.pi) + 0.5) * WIDTH), int((_TOP - y) / _SPAN * HEIGHT)
            if 0 <= column < WIDTH and 0 <= row < HEIGHT:
                size, strength = int(self.rng.integers(*radius)), 0.3 + 0.7 * float(self.rng.random())
                cv2.circle(mask, (column, row), size, strength, -1)
        result: Array = cv2.GaussianBlur(mask, (0, 0), 0.8)
        return result


def _tones(canvas: _Canvas, person: Person) -> None:
    """Uneven color, red cheeks, nose and ears, shade around the eyes."""
    import cv2

    patches = 0.5 * canvas.noise(60) + 0.35 * canvas.noise(25) + 0.25 * canvas.noise(9)
    canvas.tint(0.5 * np.clip(0.5 + 0.3 * patches, 0, 1), (1.03, 0.93, 0.90))
    canvas.color *= (1 + 0.022 * (0.6 * canvas.noise(5) + 0.6 * canvas.noise(2.2)))[..., None]
    red, amount = (1.06, 0.78, 0.76), person.skin.redness * (1 - 0.6 * person.skin.darkness)
    for x in (-0.48, 0.48):
        canvas.tint(0.55 * amount * canvas.blob(x, 6.92, 0.26, 0.24), red)
    canvas.tint(0.5 * amount * canvas.blob(0, 6.98, 0.17, 0.16), red)
    canvas.tint(0.2 * amount * canvas.blob(0, 6.33, 0.2, 0.12), red)
    grid = canvas.grid
    ears = (np.abs(np.abs(grid.azimuth) - 1.65) < 0.3) & (grid.y < 7.6) & (grid.y > 6.7)
    canvas.tint(0.6 * amount * cv2.GaussianBlur(ears.astype(np.float32), (0, 0), 8), red)
    for x in (-0.31, 0.31):
        canvas.tint((0.35 + 0.65 * person.skin.bags) * canvas.blob(x, 7.11, 0.22, 0.075), (0.86, 0.78, 0.80))
        canvas.tint(0.45 * canvas.blob(x, 7.40, 0.22, 0.08), (0.9, 0.8, 0.78))
        canvas.tint(0.4 * canvas.blob(0.5 * x, 7.28, 0.08, 0.12), (0.88, 0.8, 0.8))
    canvas.tint(0.15 * canvas.blob(0, 6.58, 0.3, 0.12), (1.0, 0.85, 0.85))


def _makeup(canvas: _Canvas, person: Person) -> None:
    shadow = ((0.62, 0.5, 0.5), (0.55, 0.5, 0.62), (0.7, 0.55, 0.42))[person.eyes.shadow]
    for x in (-0.31, 0.31):
        canvas.tint(0.6 * person.eyes.makeup * canvas.blob(1.03 * x, 7.385, 0.2, 0.06), shadow)
        canvas.tint(0.3 * person.eyes.makeup * canvas.blob(1.68 * x, 6.95, 0.2, 0.15), (1.05, 0.78, 0.78))


def _spots(canvas: _Canvas, person: Person) -> None:
    if person.skin.freckles > 0:
        freckles = canvas.dots(int(260 * person.skin.freckles), (0, 6.98), (0.75, 0.22), (1, 3))
        canvas.tint(0.55 * freckles, (0.72, 0.55, 0.45))
    canvas.tint(0.9 * canvas.dots(person.skin.moles, (0, 7.0), (0.6, 0.5), (2, 3)), (0.35, 0.25, 0.22))


def _age(canvas: _Canvas, person: Person) -> None:
    """Wrinkles of the forehead and beside the eyes, and from sixty on, spots."""
    if person.age <= 0.3:
        return
    grid, amount = canvas.grid, (person.age - 0.3) / 0.7
    wobble = 0.03 * canvas.noise(40)
    for y in (7.66, 7.76, 7.86):
        line = np.exp(-(((grid.y - y - wobble) / 0.012) ** 2)) * np.exp(-((grid.azimuth / 0.5) ** 4))
        canvas.height -= (2.2 * amount * line).astype(np.float32)
    for side in (-1, 1):
        beside = grid.x * side - 0.52
        reach = smoothstep(0, 0.05, beside) * smoothstep(0.2, 0.1, beside) * (grid.z > 0.3)
        for slope in (-0.09, -0.03, 0.03, 0.09):
            line = np.exp(-(((grid.y - 7.25 - slope - 5 * beside * slope) / 0.01) ** 2))
            canvas.height -= (1.6 * amount * line * reach).astype(np.float32)
    canvas.tint(0.12 * amount * canvas.noise(7), (0.9, 0.86, 0.84))
    if person.age > 0.55:
        canvas.tint(0.5 * canvas.dots(int(30 * amount), (0, 7.35), (0.9, 0.55), (1, 4)), (0.75, 0.62, 0.55))


def _hair_roots(canvas: _Canvas, person: Person) -> None:
    """The shade of hair below the hair: beard, brows and scalp."""
    import cv2

    grid, base, hair = canvas.grid, np.asarray(person.skin.color), person.hair
    if person.male:
        grain = np.clip(0.65 + 0.5 * canvas.noise(1.5), 0, 1.3)
        strength = person.beard.shadow * (0.55 if person.beard.kind == "none" else 1)
        density = beard_density(grid.x, grid.y, grid.z, "full")
        canvas.cover(0.62 * strength * grain * density, 0.5 * np.asarray(person.beard.color) + 0.18 * base)
    for side in (-1, 1):
        along, across = brow_place(person.brows, grid.x * side, grid.y)
        mask = np.exp(-((across / 0.8) ** 2)) * smoothstep(-0.04, 0.14, along) * smoothstep(1.04, 0.7, along)
        canvas.cover(
            0.42 * min(1.0, person.brows.density) * mask * (grid.z > 0.3), 0.9 * np.asarray(person.brows.color)
        )
    if hair.style != "bald":
        scalp = smoothstep(-0.03, 0.06, grid.y - hairline(grid.azimuth, hair))
        scalp = scalp * (0.6 if hair.style == "buzz" else 0.9) * np.clip(0.9 + 0.1 * canvas.noise(1.3), 0, 1)
        scalp = cv2.GaussianBlur(scalp.astype(np.float32), (0, 0), 1.5)
        canvas.cover(scalp, 0.55 * np.asarray(hair.color) + 0.05 * base)
    elif person.male:
        ring = smoothstep(
            -0.02, 0.1, grid.y - hairline(grid.azimuth, Hair("bald", hair.color, hair.color, recession=1.5))
        )
        sides = smoothstep(1.2, 1.7, np.abs(grid.azimuth)) * smoothstep(8.1, 7.6, grid.y)
        canvas.cover(0.3 * ring * sides, 0.6 * np.asarray(hair.color))
