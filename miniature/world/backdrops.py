"""What is behind people: places out of focus, as behind a portrait, and plain colors. All are drawn again each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celeb_basis.faces.network import Pixels
from celeb_basis.training.augment import BACKGROUNDS
from miniature.world.scenes import SIDE, Rng

Array = NDArray[Any]
Color = Sequence[float]


def draw_backdrop(name: str, rng: Rng) -> Pixels:
    """``(SIDE, SIDE, 3)`` sRGB picture of a place, or of a plain color with a small random shift."""
    if name in _PLACES:
        return _pixels(_PLACES[name](rng))
    color = np.array(BACKGROUNDS[name], np.float32) + rng.uniform(-6, 6)
    return _pixels(np.broadcast_to(color, (SIDE, SIDE, 3)))


def _pixels(values: Array) -> Pixels:
    picture: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return picture


# ---------------------------------------------------------------------- parts


def _noise(rng: Rng, cells: float, *, stretch: float = 1.0, octaves: int = 4) -> Array:
    """``(SIDE, SIDE)`` smooth noise of mean 0 and deviation about 1: ``cells`` of the coarsest octave across."""
    import cv2

    total = np.zeros((SIDE, SIDE), np.float32)
    for octave in range(octaves):
        across, down = (max(2, round(cells * 2**octave * factor)) for factor in (1 / stretch, 1.0))
        grid = rng.standard_normal((down + 1, across + 1)).astype(np.float32)
        total += cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) * 0.55**octave
    deviation = float(total.std()) + 1e-6
    smooth: Array = (total - total.mean()) / deviation
    return smooth


def _shade(stops: Sequence[tuple[float, Color]]) -> Array:
    """A vertical gradient ``(SIDE, SIDE, 3)`` through colors at shares of the height."""
    rows = (np.arange(SIDE) + 0.5) / SIDE
    places = [place for place, _ in stops]
    channels = [np.interp(rows, places, [color[part] for _, color in stops]) for part in range(3)]
    return np.repeat(np.stack(channels, 1)[:, None], SIDE, 1).astype(np.float32)


def _mixed(below: Array, above: Array | Color, share: Array) -> Array:
    mask = np.clip(share, 0, 1)[..., None].astype(np.float32)
    result: Array = below * (1 - mask) + np.asarray(above, np.float32) * mask
    return result


def _blurred(picture: Array, pixels: float) -> Array:
    import cv2

    result: Array = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), pixels * SIDE / 192)
    return result


def _grid() -> tuple[Array, Array]:
    """Columns and rows as shares, 0 to 1."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    return x, y


def _ridge(rng: Rng, height: float, rough: float, octaves: int = 5) -> Array:
    """``(SIDE,)`` heights (shares from the top) of a line of hills."""
    x = np.arange(SIDE) / SIDE
    line = np.full(SIDE, height)
    for octave in range(octaves):
        turns = 1.3 * 2**octave * rng.uniform(0.8, 1.25)
        line += rough * 0.5**octave * np.sin(2 * np.pi * (turns * x + rng.random()))
    return line.astype(np.float32)


def _below(line: Array, soft: float = 1.5) -> Array:
    """``(SIDE, SIDE)`` 1 below a line of heights, with soft edges of so many pixels."""
    _, y = _grid()
    return np.clip((y - line[None, :]) * SIDE / soft + 0.5, 0, 1)


def _discs(
    picture: Array,
    rng: Rng,
    count: int,
    colors: Sequence[Color],
    radius: tuple[float, float],
    *,
    rows: tuple[float, float],
    strength: float,
) -> Array:
    """Round spots of light out of focus."""
    import cv2

    layer, mask = np.zeros_like(picture), np.zeros((SIDE, SIDE), np.float32)
    for _ in range(count):
        size = rng.uniform(*radius) * SIDE
        place = rng.uniform(-0.05, 1.05) * SIDE, rng.uniform(*rows) * SIDE
        color = np.array(colors[int(rng.integers(len(colors)))]) * rng.uniform(0.8, 1.1)
        spot = np.zeros((SIDE, SIDE), np.float32)
        center = round(place[0] * 8), round(place[1] * 8)
        cv2.circle(spot, center, round(size * 8), 1.0, -1, cv2.LINE_AA, 3)
        amount = spot * strength * rng.uniform(0.5, 1.0)
        layer = _mixed(layer, color, amount / np.maximum(mask + amount * (1 - mask), 1e-6))
        mask = mask + amount * (1 - mask)
    return _mixed(picture, _blurred(layer, 0.7), _blurred(mask, 0.7))


def _clouds(picture: Array, rng: Rng, color: Color, horizon: float, amount: float) -> Array:
    _, y = _grid()
    cover = np.clip(_noise(rng, 3, stretch=2.5) * 0.6 - 0.25, 0, 1) * np.clip((horizon - y) / 0.25, 0, 1)
    return _mixed(picture, color, amount * cover)


# ---------------------------------------------------------------------- places


def _beach(rng: Rng) -> Array:
    sea, sand = rng.uniform(0.36, 0.46), rng.uniform(0.6, 0.7)
    sky = _clouds(_shade([(0, (96, 165, 226)), (sea, (205, 230, 245))]), rng, (252, 252, 250), sea, 0.9)
    water = _shade([(sea, (40, 128, 176)), (sand, (98, 196, 205))])
    water = water + 14 * _noise(rng, 16, stretch=6, octaves=3)[..., None]
    beach = _shade([(sand, (238, 214, 164)), (1, (220, 186, 130))]) + 5 * _noise(rng, 24)[..., None]
    shore = _ridge(rng, sand, 0.012, 3)
    picture = _mixed(sky, water, _below(np.full(SIDE, sea, np.float32)))
    foam = np.clip(1 - np.abs(_grid()[1] - shore[None] + 0.012) / 0.016, 0, 1)
    picture = _mixed(picture, beach, _below(shore))
    return _blurred(_mixed(picture, (250, 252, 250), 0.85 * foam), 1.4)


def _forest(rng: Rng) -> Array:
    x, y = _grid()
    picture = _shade([(0, (196, 218, 150)), (0.5, (120, 160, 84)), (1, (52, 84, 40))])
    picture = picture + (26 * _noise(rng, 5))[..., None] * np.array([0.8, 1, 0.5])
    for depth in (0.35, 0.7, 1.0):
        for _ in range(int(3 + 3 * depth)):
            middle, half = rng.uniform(0, 1), depth * rng.uniform(0.012, 0.03)
            lean = rng.uniform(-0.05, 0.05)
            trunk = np.clip((half - np.abs(x - middle - lean * y)) * SIDE / 2 + 0.5, 0, 1) * (y < 0.66 + 0.25 * depth)
            bark = np.array([96, 78, 54]) * (1.25 - 0.5 * depth)
            picture = _mixed(picture, bark, 0.9 * depth * trunk)
    leaves = [(96, 150, 52), (140, 186, 70), (60, 110, 44), (180, 206, 96)]
    picture = _discs(picture, rng, 46, leaves, (0.02, 0.07), rows=(-0.05, 0.5), strength=0.75)
    ground = _shade([(0.7, (104, 118, 58)), (1, (70, 80, 38))]) + 10 * _noise(rng, 14, stretch=3)[..., None]
    return _blurred(_mixed(picture, ground, _below(_ridge(rng, 0.84, 0.02), 8)), 1.8)


def _city(rng: Rng) -> Array:
    picture = _shade([(0, (14, 16, 44)), (0.6, (44, 34, 78)), (1, (28, 22, 40))])
    x, y = _grid()
    for depth in (0.5, 1.0):
        left = -rng.uniform(0, 0.1)
        while left < 1:
            width, top = rng.uniform(0.1, 0.2), rng.uniform(0.06, 0.5) + 0.14 * (1 - depth)
            wall = (x >= left) & (x < left + width) & (y >= top)
            picture = _mixed(picture, np.array([26, 28, 46]) * (1.5 - 0.6 * depth), wall * 0.95)
            column, row = (x - left) / width * rng.integers(4, 7), (y - top) * rng.integers(18, 26)
            pane = wall & (column % 1 > 0.3) & (row % 1 > 0.35)
            lit = rng.random((64, 8)) < 0.55
            on = pane & lit[np.clip(row.astype(int), 0, 63), np.clip(column.astype(int), 0, 7)]
            warm = np.array([250, 206, 120]) if rng.random() < 0.7 else np.array([190, 214, 246])
            picture = _mixed(picture, warm, on * (0.5 + 0.4 * depth))
            left += width + rng.uniform(0.0, 0.03)
    lights = [(255, 196, 92), (255, 120, 80), (130, 190, 255), (255, 240, 200), (220, 90, 160)]
    return _discs(_blurred(picture, 1.3), rng, 22, lights, (0.015, 0.05), rows=(0.45, 1.0), strength=0.8)


def _mountains(rng: Rng) -> Array:
    picture = _clouds(_shade([(0, (92, 150, 216)), (0.6, (206, 226, 244))]), rng, (250, 250, 252), 0.6, 0.8)
    for height, rough, rock, snow_line in ((0.36, 0.16, (136, 148, 176), 0.46), (0.5, 0.15, (94, 102, 124), 0.56)):
        line = _ridge(rng, height, rough, 7)
        face = _noise(rng, 6, stretch=0.7)
        stone = np.array(rock, np.float32) + 16 * face[..., None]
        snow = np.array([246, 249, 255], np.float32) - 16 * np.clip(face, -1, 1)[..., None] * np.array([1, 0.8, 0.4])
        _, y = _grid()
        white = np.clip((snow_line - y) * 12 + 0.5 * face + 1.0, 0, 1)
        picture = _mixed(picture, _mixed(stone, snow, white), _below(line))
    field = _shade([(0.7, (238, 244, 252)), (1, (214, 226, 244))]) + 4 * _noise(rng, 5, stretch=3)[..., None]
    return _blurred(_mixed(picture, field, _below(_ridge(rng, 0.76, 0.03, 3), 6)), 1.2)


def _sunset(rng: Rng) -> Array:
    line = rng.uniform(0.58, 0.68)
    picture = _shade(
        [(0, (70, 44, 110)), (0.3, (190, 84, 110)), (line - 0.05, (255, 170, 84)), (line, (255, 210, 120))]
    )
    picture = _clouds(picture, rng, (250, 130, 110), line, 0.75)
    x, y = _grid()
    middle, high = rng.uniform(0.1, 0.9), line - rng.uniform(0.02, 0.14)
    distance = np.hypot(x - middle, y - high)
    picture = _mixed(picture, (255, 226, 140), 0.7 * np.exp(-(distance**2) / 0.03))
    picture = _mixed(picture, (255, 246, 204), np.clip((0.07 - distance) * SIDE / 2, 0, 1))
    water = _shade([(line, (196, 104, 92)), (1, (52, 30, 64))])
    glitter = np.clip(_noise(rng, 26, stretch=5, octaves=2) - 0.6, 0, 1) * np.exp(-((x - middle) ** 2) / 0.02)
    water = _mixed(water + 8 * _noise(rng, 14, stretch=6, octaves=3)[..., None], (255, 220, 140), glitter)
    return _blurred(_mixed(picture, water, _below(np.full(SIDE, line, np.float32))), 1.3)


def _desert(rng: Rng) -> Array:
    picture = _shade([(0, (120, 176, 222)), (0.45, (240, 224, 190))])
    for height, rough, light, dark in (
        (0.42, 0.03, (226, 180, 120), (196, 146, 92)),
        (0.55, 0.05, (234, 182, 112), (184, 128, 72)),
        (0.75, 0.06, (222, 164, 92), (160, 104, 54)),
    ):
        line = _ridge(rng, height, rough, 3)
        slope = np.gradient(line) * SIDE
        _, y = _grid()
        shade = np.clip(0.5 + 1.6 * slope[None] + 0.8 * (y - line[None]), 0, 1)
        dune = _mixed(np.broadcast_to(np.array(light, np.float32), picture.shape), dark, shade)
        dune = dune + 4 * _noise(rng, 30, stretch=4, octaves=2)[..., None]
        picture = _mixed(picture, dune, _below(line))
    return _blurred(picture, 1.3)


def _space(rng: Rng) -> Array:
    picture: Array = np.broadcast_to(np.array([7, 8, 22], np.float32), (SIDE, SIDE, 3))
    for color in ((96, 50, 150), (30, 96, 150), (170, 70, 110)):
        cloud = np.clip(_noise(rng, 2.5) * 0.5 - 0.15, 0, 1)
        picture = picture + cloud[..., None] * np.array(color, np.float32) * 0.75
    stars = np.zeros((SIDE, SIDE), np.float32)
    for count, size, light in ((170, 0.6, 260), (36, 1.1, 900)):
        layer = np.zeros_like(stars)
        layer[rng.integers(0, SIDE, count), rng.integers(0, SIDE, count)] = rng.uniform(0.4, 1, count)
        stars += light * _blurred(layer, size) * (6 * size * size)
    picture = picture + stars[..., None] * np.array([1, 0.98, 0.94])
    x, y = _grid()
    corner = np.array([(0.14, 0.16), (0.86, 0.17), (0.13, 0.62), (0.88, 0.6)][int(rng.integers(4))])
    radius, tone = rng.uniform(0.09, 0.14), [(214, 140, 92), (120, 110, 214), (94, 180, 166)][int(rng.integers(3))]
    away = np.hypot(x - corner[0], y - corner[1])
    lit = np.clip(0.35 + 0.9 * ((corner[0] - x) + (corner[1] - y)) / radius, 0.08, 1.1)
    bands = 1 + 0.12 * np.sin((y - corner[1]) / radius * 9 + 0.6 * _noise(rng, 4))
    planet = np.array(tone, np.float32) * (lit * bands)[..., None]
    return _mixed(picture, planet, np.clip((radius - away) * SIDE / 1.5 + 0.5, 0, 1))


def _garden(rng: Rng) -> Array:
    line = rng.uniform(0.26, 0.36)
    picture = _clouds(_shade([(0, (130, 190, 236)), (line, (214, 234, 240))]), rng, (252, 252, 252), line, 0.8)
    field = _shade([(line, (120, 176, 92)), (1, (60, 124, 48))]) + 13 * _noise(rng, 12, stretch=2)[..., None]
    picture = _mixed(picture, field, _below(_ridge(rng, line, 0.015, 3), 3))
    petals = [(232, 66, 96), (250, 216, 72), (228, 120, 206), (250, 248, 244), (150, 104, 214), (246, 140, 70)]
    for low, high, size, count in ((line + 0.02, 0.5, 0.008, 90), (0.45, 0.75, 0.016, 70), (0.7, 1.02, 0.03, 46)):
        picture = _discs(picture, rng, count, petals, (0.7 * size, 1.2 * size), rows=(low, high), strength=0.95)
        picture = _blurred(picture, 0.7)
    return picture


_PLACES: dict[str, Callable[[Rng], Array]] = {
    "beach": _beach,
    "forest": _forest,
    "city at night": _city,
    "snowy mountains": _mountains,
    "sunset": _sunset,
    "desert": _desert,
    "starry space": _space,
    "flower garden": _garden,
}
