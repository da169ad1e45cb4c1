"""Things of a scene: what is worn on the head or around the neck, and what is held in front of the chest.

They belong to a picture, not to a person. Each is fitted to the head that wears it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from miniature.people3d.head_model import FABRIC, SOLID, Array, head_model
from miniature.people3d.person import linear
from miniature.people3d.rasterizer import Surface

WORN = ("glasses", "sunglasses", "hat", "beanie", "crown", "scarf", "headscarf")
HELD = ("cake", "book", "cup", "flowers")

_RED, _GREEN, _BLUE = linear(150, 40, 44), linear(46, 120, 76), linear(44, 78, 140)
_GOLD, _DARK, _WHITE = linear(226, 178, 66), linear(22, 22, 26), linear(240, 236, 226)


@dataclass(frozen=True)
class Thing:
    """A thing in its place on a shaped head."""

    surface: Surface
    """In the rest pose."""
    turns: bool
    """Whether it turns with the head."""
    hides: Callable[[Array], Array] | None = None
    """Whether hair with roots at ``(M, 3)`` is below it, if any is."""


@dataclass(frozen=True)
class Head:
    """What a thing must know of a shaped head."""

    positions: Array
    """``(V, 3)``."""
    eyes: tuple[Array, Array]
    """Centers of the left and the right eye."""

    @property
    def center(self) -> Array:
        """The middle of the skull, from where things around it are measured."""
        between: Array = (self.eyes[0] + self.eyes[1]) / 2
        center: Array = between + np.array([0, 0.17, -0.95])
        return center


def make_thing(name: str, head: Head, rng: np.random.Generator) -> Thing:
    """Make a thing of :data:`WORN` or :data:`HELD` for a head; its colors and details vary."""
    return _MAKERS[name](head, rng)


# ---------------------------------------------------------------------- meshes

_Mesh = tuple[Array, Array, Array]
"""Vertices, triangles, and a linear color for each vertex."""


def _grid(points: Array, color: Array, *, around: bool = False) -> _Mesh:
    """A mesh of ``(R, C, 3)`` points; ``around`` joins the last column to the first."""
    rows, columns, _ = points.shape
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns if around else columns - 1), indexing="ij")
    following = (column + 1) % columns
    a, b = row * columns + column, row * columns + following
    c, d = a + columns, b + columns
    triangles = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    colors = np.broadcast_to(color, points.shape).reshape(-1, 3)
    return points.reshape(-1, 3), triangles, colors


def _tube(
    path: Sequence[Sequence[float]] | Array, radius: float | Array, color: Array, *, closed: bool = False
) -> _Mesh:
    """A round tube along ``(N, 3)`` points."""
    line = np.asarray(path, float)
    tangents = np.roll(line, -1, 0) - np.roll(line, 1, 0) if closed else np.gradient(line, axis=0)
    tangents = tangents / (np.linalg.norm(tangents, axis=1, keepdims=True) + 1e-9)
    first = np.cross(tangents, (0.12, 0.31, 0.94))
    first /= np.linalg.norm(first, axis=1, keepdims=True) + 1e-9
    second = np.cross(tangents, first)
    angle = np.arange(8) / 8 * 2 * np.pi
    ring = first[:, None] * np.cos(angle)[None, :, None] + second[:, None] * np.sin(angle)[None, :, None]
    points = line[:, None] + np.broadcast_to(radius, len(line))[:, None, None] * ring
    if closed:
        points = np.concatenate([points, points[:1]])
    return _grid(points, color, around=True)


def _turned(
    profile: Sequence[tuple[float, float]], center: Sequence[float] | Array, color: Array, *, flat: float = 1.0
) -> _Mesh:
    """A body of revolution: radius and height along its profile, around a vertical axis; ``flat`` scales its depth."""
    radius, height = np.array(profile, float).T
    angle = np.arange(28) / 28 * 2 * np.pi
    x, z = radius[:, None] * np.sin(angle), flat * radius[:, None] * np.cos(angle)
    points = np.stack([x, np.broadcast_to(height[:, None], x.shape), z], -1) + np.asarray(center)
    return _grid(points, color, around=True)


def _ball(center: Sequence[float] | Array, radius: float, color: Array) -> _Mesh:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 9)
    return _turned([(radius * np.cos(a), radius * np.sin(a)) for a in angle], tuple(center), color)


def _box(center: Sequence[float] | Array, half: Sequence[float], color: Array) -> _Mesh:
    """A box with flat sides."""
    signs = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]], float)
    points: list[Array] = []
    triangles: list[Array] = []
    for axis in range(3):
        for side in (-1, 1):
            corners = np.insert(signs, axis, side, axis=1) * np.asarray(half) + np.asarray(center)
            offset = len(points) * 4
            points.append(corners)
            triangles.append(np.array([[0, 1, 2], [0, 2, 3]]) + offset)
    vertices = np.concatenate(points)
    return vertices, np.concatenate(triangles), np.broadcast_to(color, vertices.shape)


def _surface(meshes: Sequence[_Mesh], material: int) -> Surface:
    """Meshes as one surface, with smooth normals."""
    parts = []
    for vertices, triangles, colors in meshes:
        a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
        facing = np.cross(b - a, c - a)
        normals = np.zeros_like(vertices)
        for corner in range(3):
            np.add.at(normals, triangles[:, corner], facing)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        attributes = np.concatenate([np.ones((len(vertices), 1)), colors], 1)
        zero, of_all = np.zeros_like(vertices), np.full(len(triangles), material, np.uint8)
        parts.append(Surface(vertices, normals, vertices, zero, attributes, triangles, of_all))
    return Surface.joined(parts)


# ---------------------------------------------------------------------- on the head


def _glasses(head: Head, rng: np.random.Generator, *, dark: bool = False) -> Thing:
    frames = (_DARK, linear(70, 44, 30), linear(150, 130, 100), linear(110, 30, 34), linear(40, 60, 90))
    color = _DARK if dark else frames[int(rng.integers(len(frames)))]
    width, height, roundness = ((0.24, 0.23, 1.0), (0.27, 0.19, 0.45), (0.26, 0.18, 0.6))[int(rng.integers(3))]
    if dark:
        width, height = 1.12 * width, 1.12 * height
    thickness = float(rng.choice([0.014, 0.022, 0.03]))
    left, right = head.eyes
    front = max(left[2], right[2]) + 0.30

    def bent(x: float | Array) -> float | Array:
        depth: float | Array = front - 0.14 * np.square(x)
        return depth

    angle = np.arange(28) / 28 * 2 * np.pi
    ovals = [np.sign(part) * np.abs(part) ** roundness for part in (np.cos(angle), np.sin(angle))]
    meshes = []
    for eye in (left, right):
        side = np.sign(eye[0])
        x, y = eye[0] + width * ovals[0] + 0.01 * side, eye[1] - 0.03 + height * ovals[1]
        rim = np.stack([x, y, bent(x)], 1)
        meshes.append(_tube(rim, thickness, color, closed=True))
        if dark:
            lens = np.stack([np.broadcast_to(rim.mean(0) + np.array([0, 0, 0.02]), rim.shape), rim])
            meshes.append(_grid(lens, linear(16, 18, 24), around=True))
        hinge = eye[0] + side * (width + 0.01)
        beside = side * max(abs(hinge) + 0.04, 0.68)
        arm = [
            (hinge, eye[1] + 0.03, bent(hinge)),
            (beside, eye[1] + 0.03, bent(hinge) - 0.3),
            (side * 0.80, eye[1] + 0.02, eye[2] - 0.6),
            (side * 0.81, eye[1] - 0.02, eye[2] - 1.15),
        ]
        meshes.append(_tube(arm, 0.8 * thickness, color))
    bridge = [
        (right[0] + width, left[1] + 0.02, front - 0.01),
        (0, left[1] + 0.06, front + 0.02),
        (left[0] - width, left[1] + 0.02, front - 0.01),
    ]
    meshes.append(_tube(bridge, 0.8 * thickness, color))
    return Thing(_surface(meshes, SOLID), turns=True)


def _sunglasses(head: Head, rng: np.random.Generator) -> Thing:
    return _glasses(head, rng, dark=True)


def _shell(head: Head, directions: Array, margin: float) -> Array:
    """Points around the head in ``(R, C, 3)`` directions, ``margin`` outside of the farthest skin near each."""
    import cv2
    from scipy.spatial import cKDTree

    mesh = head_model()
    skin = mesh.is_skin & (mesh.mouth < 0.3) & (mesh.base[:, 1] > 6.2)
    relative = head.positions[skin] - head.center
    distance = np.linalg.norm(relative, axis=1)
    _, near = cKDTree(relative / distance[:, None]).query(directions, k=14)
    radius = cv2.GaussianBlur(distance[near].max(-1).astype(np.float32), (0, 0), 1.5, borderType=cv2.BORDER_REPLICATE)
    result: Array = head.center + directions * (radius + margin)[..., None]
    return result


def _dome(head: Head, front: float, back: float, margin: float, rows: int = 14) -> Array:
    """``(rows, 37, 3)`` points over the head from its top down to a line: ``front`` and ``back`` high above its center."""
    azimuth = np.linspace(-np.pi, np.pi, 37)
    line = back + (front - back) * (0.5 + 0.5 * np.cos(azimuth))
    lowest = np.arctan2(line, 0.85)
    elevation = np.linspace(np.full_like(lowest, np.pi / 2 - 0.02), lowest, rows)
    level = np.cos(elevation)
    directions = np.stack([level * np.sin(azimuth), np.sin(elevation), level * np.cos(azimuth)], -1)
    return _shell(head, directions, margin)


def _above(head: Head, front: float, back: float) -> Callable[[Array], Array]:
    """Whether roots lie above a line that slopes from front to back."""
    center = head.center

    def hides(roots: Array) -> Array:
        share = np.clip((roots[:, 2] - center[2] + 1.05) / 2.2, 0, 1)
        result: Array = roots[:, 1] - center[1] > back + (front - back) * share - 0.12
        return result

    return hides


def _hat(head: Head, rng: np.random.Generator) -> Thing:
    """A hat with a brim and a ribbon."""
    color = (_RED, linear(92, 70, 48), linear(52, 56, 66), linear(190, 168, 128))[int(rng.integers(4))]
    front, back = 0.46, 0.12
    crown = _dome(head, front, back, 0.14)
    top = crown[..., 1].max()
    line = head.center[1] + front
    lifted = np.clip((crown[..., 1] - line) / (top - line), 0, 1)
    crown[..., 1] += 0.28 * np.sqrt(lifted)  # a crown is taller than the head, and steeper
    edge = crown[-1]
    outward = (edge - edge.mean(0)) * (1, 0, 1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    spread = np.linspace(0, 0.42, 5)[:, None, None]
    brim = edge + outward * spread + np.array([0, -0.12, 0]) * spread
    ribbon = crown[-4:] + outward * 0.015
    meshes = [_grid(crown, color), _grid(brim, 0.85 * color), _grid(ribbon, _DARK)]
    return Thing(_surface(meshes, FABRIC), turns=True, hides=_above(head, front, back))


def _beanie(head: Head, rng: np.random.Generator) -> Thing:
    """A knitted hat with a cuff."""
    color = (_RED, _GREEN, _BLUE, linear(210, 170, 60))[int(rng.integers(4))]
    front, back = 0.34, -0.35
    dome = _dome(head, front, back, 0.14, rows=18)
    ribs = 0.012 * np.sin(np.linspace(0, 72 * np.pi, dome.shape[1]))
    cuff = dome[-5:] + (dome[-5:] - head.center) * (0.06 + ribs)[None, :, None]
    meshes = [
        _grid(dome, color),
        _grid(cuff, 0.8 * color),
        _ball(dome[0].mean(0) + np.array([0, 0.12, 0]), 0.2, _WHITE),
    ]
    return Thing(_surface(meshes, FABRIC), turns=True, hides=_above(head, front, back))


def _crown(head: Head, rng: np.random.Generator) -> Thing:
    """A golden crown with stones."""
    edge = _dome(head, 0.62, 0.55, 0.10)[-1]
    outward = (edge - edge.mean(0)) * (1, 0, 1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    points, count = 8, len(edge)
    tooth = np.abs((np.arange(count) / (count - 1) * points + 0.5) % 1 - 0.5) * 2
    height = 0.22 + 0.34 * (1 - tooth)
    upper = edge + outward * 0.08 + np.stack([0 * height, height, 0 * height], 1)
    band = np.linspace(edge, upper, 4)
    meshes = [_grid(band, _GOLD), _tube(edge[:-1], 0.04, 0.8 * _GOLD, closed=True)]
    stones = (linear(190, 30, 50), linear(40, 90, 190), linear(40, 150, 90))
    for number, place in enumerate(np.linspace(0, count - 1, points, endpoint=False).astype(int)):
        stone = edge[place] + outward[place] * 0.06 + np.array([0, 0.12, 0])
        meshes.append(_ball(stone, 0.05, stones[(number + int(rng.integers(3))) % 3]))
    return Thing(_surface(meshes, SOLID), turns=True)


def _headscarf(head: Head, rng: np.random.Generator) -> Thing:
    """A headscarf that leaves the face free and falls on the shoulders."""
    color = (_GREEN, _BLUE, linear(150, 60, 90), linear(190, 160, 130), linear(60, 60, 70))[int(rng.integers(5))]
    rows = 30
    opening = np.linspace(0.02, 1, rows)  # from the rim around the face to the back
    around = np.linspace(-np.pi, np.pi, 49)  # along the rim; 0 at the forehead
    rim = np.stack(
        [0.76 * np.sin(around), -0.36 + 0.80 * np.cos(around)], -1
    )  # x and y of the rim, seen from the front
    forward = np.concatenate([rim, np.full((len(around), 1), 0.75)], 1)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    behind = np.array([0, -0.15, -1.0])
    directions = forward[None] * (1 - opening)[:, None, None] + behind * opening[:, None, None]
    # Past the sides, so that the straight way from the rim to the back goes around the head.
    sideways = np.stack([np.sin(around), np.cos(around), 0 * around], -1)
    directions = directions + 0.9 * np.sin(np.pi * opening)[:, None, None] * sideways[None]
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    hood = _shell(head, directions, 0.10)
    hood[0] += 0.03 * (hood[0] - head.center)
    turns = np.linspace(-np.pi, np.pi, 41)
    drape = []
    for y, width, depth in (
        (-1.02, 0.72, 0.74),
        (-1.30, 0.76, 0.76),
        (-1.55, 0.86, 0.84),
        (-1.85, 1.10, 0.95),
        (-2.15, 1.32, 1.05),
        (-2.45, 1.45, 1.12),
    ):
        fold = 1 + 0.02 * np.sin(9 * turns + 3 * y)
        drape.append(
            np.stack([width * np.sin(turns) * fold, y - 0.10 * np.cos(turns), depth * np.cos(turns) * fold], -1)
        )
    meshes = [_grid(hood, color), _grid(head.center + np.stack(drape), 0.94 * color)]
    return Thing(_surface(meshes, FABRIC), turns=True, hides=lambda roots: np.ones(len(roots), bool))


def _scarf(head: Head, rng: np.random.Generator) -> Thing:
    """A knitted scarf around the neck with one end in front."""
    first = (_GREEN, _RED, _BLUE)[int(rng.integers(3))]
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    meshes = []
    neck = head.center + np.array([0, -1.55, -0.02])
    for lift, radius in ((0.0, 0.21), (0.17, 0.17)):
        ring = np.stack([0.66 * np.sin(angle), lift - 0.10 * np.cos(angle), 0.60 * np.cos(angle)], 1)
        meshes.append(_tube(neck + ring, radius * (1 + 0.06 * np.sin(5 * angle)), first, closed=True))
    for row, y in enumerate(np.linspace(-0.12, -1.14, 8)):
        stripe = _WHITE if row % 3 == 1 else first
        meshes.append(_box(neck + np.array([0.34, y - 0.06, 0.80 - 0.22 * (y + 0.12)]), (0.24, 0.074, 0.05), stripe))
    return Thing(_surface(meshes, FABRIC), turns=False)


# ---------------------------------------------------------------------- held in front of the chest

_HELD_AT = np.array([0.0, -2.2, 1.55])
"""Relative to the center of the head."""


def _cake(head: Head, rng: np.random.Generator) -> Thing:
    """A cake with icing, cherries and a candle on a plate."""
    icing = (linear(240, 170, 190), linear(250, 240, 220), linear(120, 70, 44))[int(rng.integers(3))]
    x, y, z = head.center + _HELD_AT
    base = linear(196, 140, 84)
    meshes = [
        _turned([(0, 0), (0.78, 0), (0.84, 0.05)], (x, y - 0.42, z), _WHITE),
        _turned([(0.6, 0), (0.6, 0.30)], (x, y - 0.38, z), base),
        _turned([(0.63, 0.28), (0.64, 0.46), (0.58, 0.52), (0, 0.52)], (x, y - 0.38, z), icing),
        _turned([(0.035, 0), (0.035, 0.34), (0, 0.34)], (x, y + 0.14, z), linear(90, 150, 210)),
        _turned([(0, 0), (0.05, 0.05), (0.03, 0.11), (0, 0.17)], (x, y + 0.49, z), linear(255, 196, 70)),
    ]
    for angle in np.arange(8) / 8 * 2 * np.pi:
        meshes.append(_ball((x + 0.46 * np.sin(angle), y + 0.17, z + 0.46 * np.cos(angle)), 0.075, linear(190, 24, 44)))
    return Thing(_surface(meshes, SOLID), turns=False)


def _book(head: Head, rng: np.random.Generator) -> Thing:
    """A book, held up so that its cover is seen."""
    color = (_RED, _BLUE, _GREEN, linear(110, 60, 120))[int(rng.integers(4))]
    x, y, z = head.center + _HELD_AT
    meshes = [
        _box((x, y, z), (0.52, 0.62, 0.05), color),
        _box((x + 0.02, y, z - 0.07), (0.49, 0.59, 0.04), _WHITE),
        _box((x, y + 0.2, z + 0.052), (0.34, 0.09, 0.004), _GOLD),
        _box((x, y - 0.28, z + 0.052), (0.22, 0.04, 0.004), _GOLD),
    ]
    return Thing(_surface(meshes, SOLID), turns=False)


def _cup(head: Head, rng: np.random.Generator) -> Thing:
    """A cup with a handle."""
    color = (_WHITE, _RED, _BLUE, linear(220, 170, 60))[int(rng.integers(4))]
    x, y, z = head.center + _HELD_AT
    angle = np.linspace(-1.9, 1.9, 12)
    handle = np.stack([x + 0.36 + 0.22 * np.cos(angle), y + 0.02 + 0.2 * np.sin(angle), np.full(12, z)], 1)
    profile = [(0, -0.36), (0.3, -0.36), (0.36, -0.2), (0.38, 0.36), (0.34, 0.36), (0.32, 0.28)]
    meshes = [
        _turned(profile, (x, y, z), color),
        _turned([(0.34, 0), (0, 0)], (x, y + 0.30, z), linear(60, 34, 20)),
        _tube(handle, 0.055, color),
    ]
    return Thing(_surface(meshes, SOLID), turns=False)


def _flowers(head: Head, rng: np.random.Generator) -> Thing:
    """A bunch of flowers."""
    petals = (linear(220, 60, 90), linear(245, 205, 70), linear(220, 120, 200), _WHITE, linear(240, 130, 60))
    x, y, z = head.center + _HELD_AT
    meshes = [_turned([(0.08, -0.6), (0.14, -0.3), (0.5, 0.1)], (x, y, z - 0.05), linear(216, 196, 160), flat=0.6)]
    for number in range(13):
        angle, reach = 2.4 * number, 0.14 * np.sqrt(number)
        head_of = np.array([x + reach * np.sin(angle), y + 0.34 + 0.7 * reach * np.cos(angle), z + 0.12 - 0.1 * reach])
        meshes.append(_tube([(x, y - 0.5, z), tuple(head_of)], 0.02, _GREEN))
        color = petals[int(rng.integers(len(petals)))]
        for petal in np.arange(6) / 6 * 2 * np.pi:
            meshes.append(_ball(head_of + 0.085 * np.array([np.sin(petal), np.cos(petal), 0]), 0.062, color))
        meshes.append(_ball(head_of + np.array([0, 0, 0.05]), 0.05, linear(250, 190, 60)))
    return Thing(_surface(meshes, FABRIC), turns=False)


_MAKERS: dict[str, Callable[[Head, np.random.Generator], Thing]] = {
    "glasses": _glasses,
    "sunglasses": _sunglasses,
    "hat": _hat,
    "beanie": _beanie,
    "crown": _crown,
    "scarf": _scarf,
    "headscarf": _headscarf,
    "cake": _cake,
    "book": _book,
    "cup": _cup,
    "flowers": _flowers,
}
