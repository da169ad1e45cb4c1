"""Hair, brows and beards as strands that grow on a shaped head, and ribbons that the rasterizer can draw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from miniature.people3d.head_model import HAIR, Array, head_model
from miniature.people3d.person import Person, Rng
from miniature.people3d.rasterizer import Surface
from miniature.people3d.skin import azimuth_of, hairline, smoothstep


@dataclass(frozen=True)
class Style:
    """How a style grows. Lengths in decimeters."""

    top: float
    side: float
    back: float
    flow: str
    """``up``, ``forward``, ``back``, ``quiff``, ``side`` or ``tied``."""
    lift: float
    """How far strands stand off: 0 along the skin, 1 straight out."""
    volume: float
    """Thickness of the hair on the head."""
    strands: int
    width: float
    curl: float = 0.0
    """Radius of curls."""
    wave: float = 0.0
    fringe: float = 0.0
    """Share of the hair above the forehead that falls over it."""
    knot: tuple[float, float, float] | None = None
    """Toward where hair is tied."""

    @property
    def long(self) -> bool:
        """Whether it falls along the face."""
        return self.top > 1 and self.flow == "side"


STYLES = {
    "buzz": Style(0.05, 0.04, 0.04, "up", 1.0, 0.02, 9100, 0.0124),
    "short": Style(0.30, 0.16, 0.16, "forward", 0.55, 0.10, 7350, 0.0161),
    "crop": Style(0.42, 0.10, 0.12, "forward", 0.4, 0.12, 7350, 0.0161, fringe=0.8),
    "side part": Style(0.62, 0.16, 0.20, "side", 0.45, 0.15, 7525, 0.0174),
    "slicked back": Style(0.75, 0.30, 0.35, "back", 0.35, 0.10, 7525, 0.0161),
    "quiff": Style(0.55, 0.10, 0.14, "quiff", 0.9, 0.20, 7525, 0.0174),
    "short curls": Style(0.45, 0.20, 0.22, "up", 0.8, 0.16, 6300, 0.0174, curl=0.06),
    "afro": Style(0.62, 0.55, 0.55, "up", 1.0, 0.50, 9100, 0.0186, curl=0.05),
    "longish": Style(1.3, 1.2, 1.2, "side", 0.3, 0.14, 7000, 0.0186, wave=0.03),
    "pixie": Style(0.6, 0.35, 0.30, "side", 0.4, 0.14, 7525, 0.0161, fringe=0.7),
    "bob": Style(1.65, 1.35, 1.2, "side", 0.35, 0.15, 7350, 0.0198),
    "long": Style(3.0, 2.6, 2.5, "side", 0.2, 0.11, 7350, 0.0223),
    "wavy": Style(2.7, 2.4, 2.3, "side", 0.22, 0.15, 7350, 0.0223, wave=0.075),
    "curly": Style(2.0, 1.8, 1.7, "side", 0.5, 0.28, 6650, 0.0223, curl=0.085),
    "bun": Style(1.6, 1.4, 1.2, "tied", 0.12, 0.05, 6650, 0.0174, knot=(0, 8.45, -0.62)),
    "ponytail": Style(1.6, 1.4, 1.2, "tied", 0.12, 0.06, 6650, 0.0174, knot=(0, 7.95, -0.9)),
    "fringe": Style(2.6, 2.3, 2.2, "side", 0.3, 0.13, 7700, 0.0211, fringe=1.0),
}


@dataclass(frozen=True)
class Strands:
    """M strands of K points each."""

    points: Array
    """``(M, K, 3)``."""
    normals: Array
    """``(M, K, 3)`` directions in which the hair's surface faces."""
    widths: Array
    """``(M, K)`` half widths."""
    attributes: Array
    """``(M, K, 4)``: occlusion, place along the strand, the strand's random number, streak."""
    material: int

    def moved(self, points: Array, normals: Array) -> Strands:
        """The same strands elsewhere."""
        return replace(self, points=points, normals=normals)

    def thinned(self, step: int, width: float) -> Strands:
        """Every ``step``-th strand, ``width`` times as wide, for small pictures and shadows."""
        fewer = self.kept(slice(None, None, step))
        return replace(fewer, widths=fewer.widths * width)

    def kept(self, which: Any) -> Strands:
        """Some of the strands."""
        return Strands(
            self.points[which], self.normals[which], self.widths[which], self.attributes[which], self.material
        )


def ribbons(strands: Strands, camera: Array) -> Surface:
    """Flat ribbons along the strands that face the camera at ``(3,)``."""
    points = strands.points
    count, length, _ = points.shape
    tangents = np.empty_like(points)
    tangents[:, 1:-1] = points[:, 2:] - points[:, :-2]
    tangents[:, 0], tangents[:, -1] = points[:, 1] - points[:, 0], points[:, -1] - points[:, -2]
    tangents = unit(tangents)
    aside = unit(np.cross(tangents, camera - points)) * strands.widths[..., None]

    def twice(values: Array) -> Array:
        return np.repeat(values.reshape(count * length, -1), 2, 0).astype(np.float32)

    first = (np.arange(count)[:, None] * length + np.arange(length - 1)[None]) * 2
    corners = (first, first + 1, first + 2, first + 1, first + 3, first + 2)
    triangles = np.stack(corners, -1).reshape(-1, 3)
    return Surface(
        positions=np.stack([points - aside, points + aside], 2).reshape(-1, 3).astype(np.float32),
        normals=twice(strands.normals),
        rest=twice(points),
        tangents=twice(tangents),
        attributes=twice(strands.attributes),
        triangles=triangles,
        materials=np.full(len(triangles), strands.material, np.uint8),
    )


# ---------------------------------------------------------------------- the hair of the head


def grow_hair(person: Person, positions: Array, normals: Array, between_eyes: Array) -> list[Strands]:
    """Hair on a shaped head in its rest pose.

    Args:
        person: Whose hair.
        positions: ``(V, 3)`` of the shaped head.
        normals: ``(V, 3)``.
        between_eyes: ``(3,)`` the point between the eyes, around which the face is kept free.
    """
    if person.hair.style == "bald":
        return []
    style = STYLES[person.hair.style]
    rng = np.random.default_rng((person.number, 3))
    growth = _Growth(person, style, rng, positions, normals, between_eyes)
    points, facing = growth.run()
    if style.curl or style.wave:
        points = _curled(person, style, points, facing, growth, rng)
    own = np.clip(0.5 + 0.28 * rng.standard_normal(style.strands), 0, 1)
    roots = growth.rest_roots
    own = np.clip(own + 0.15 * np.sin(roots @ (23, 17, 19)), 0, 1)
    occlusion = 0.45 + 0.55 * growth.layer
    streak = np.clip((growth.layer - 0.6) * 1.5, 0, 1) * rng.random(style.strands)
    along = np.linspace(0, 1, growth.length)
    sets = [_strands(points, facing, along, own, occlusion, style.width, streak)]
    if style.knot is not None:
        sets.append(_bun(person, growth) if person.hair.style == "bun" else _ponytail(person, growth))
    return sets


def _strands(
    points: Array, normals: Array, along: Array, own: Array, occlusion: Array, width: float, streak: Array
) -> Strands:
    shape = points.shape[:2]
    along = np.broadcast_to(along, shape)
    tapered = width * (0.55 + 0.45 * np.minimum(1, along * 6)) * (1 - 0.75 * smoothstep(0.7, 1, along))
    shaded = occlusion[:, None] * (0.55 + 0.45 * smoothstep(0, 0.4, along))
    streaks = streak[:, None] * smoothstep(0.1, 0.8, along)
    attributes = np.stack([shaded, along, np.broadcast_to(own[:, None], shape), streaks], -1)
    return Strands(
        points.astype(np.float32),
        normals.astype(np.float32),
        tapered.astype(np.float32),
        attributes.astype(np.float32),
        HAIR,
    )


class _Growth:
    """Strands that start on the scalp and grow step by step: along their style's flow, down, and off the head."""

    def __init__(
        self, person: Person, style: Style, rng: Rng, positions: Array, normals: Array, between_eyes: Array
    ) -> None:
        from scipy.spatial import cKDTree

        head = head_model()
        self.person, self.style, self.rng, self.between_eyes = person, style, rng, between_eyes
        curly_long = bool(style.curl) and style.top > 1
        self.length = 26 if curly_long else 15 if max(style.top, style.side) > 0.9 or style.curl else 7
        triangles, corners = sampled(rng, positions, style.strands, _scalp(person))
        self.roots, self.root_normals = at(positions, triangles, corners), at(normals, triangles, corners)
        self.rest_roots = at(head.base, triangles, corners)
        surface = np.where(head.is_skin & (head.mouth < 0.3))[0]
        self._tree, self._surface, self._surface_normals = (
            cKDTree(positions[surface]),
            positions[surface],
            normals[surface],
        )
        self.above = smoothstep(7.75, 8.15, self.rest_roots[:, 1])
        self.lengths, self.in_fringe = self._lengths()
        self.layer = rng.random(style.strands) ** 0.7
        self.tie, self.tie_direction = self._tie(positions, normals)

    def _lengths(self) -> tuple[Array, Array]:
        style, hair, rng, roots = self.style, self.person.hair, self.rng, self.rest_roots
        turned = np.abs(azimuth_of(roots))
        behind = smoothstep(1.7, 2.3, turned) * (1 - self.above)
        lengths = style.top * self.above + (1 - self.above) * ((1 - behind) * style.side + behind * style.back)
        if not style.curl or lengths.max() > 1:
            lengths = lengths * hair.length ** (0.6 if style.top < 1 else 0.8)
        front = smoothstep(0.75, 0.5, turned) * smoothstep(0.05, 0.35, roots[:, 2]) * smoothstep(7.8, 7.95, roots[:, 1])
        self._front = front
        in_fringe = (front > 0.5) & (rng.random(len(roots)) < style.fringe)
        over_forehead = (0.55 if hair.style == "pixie" else 0.62) * (1 if style.top > 1 else 0.8)
        lengths = np.where(in_fringe, over_forehead * (0.85 + 0.3 * rng.random(len(roots))), lengths)
        return lengths * (0.82 + 0.36 * rng.random(len(roots))), in_fringe

    def _tie(self, positions: Array, normals: Array) -> tuple[Array, Array]:
        """Where hair is tied on this head, and the direction in which that lies from its middle."""
        if self.style.knot is None:
            return np.zeros(3), np.zeros(3)
        head, middle = head_model(), np.array([0, 7.5, 0.1])
        direction = unit(np.array(self.style.knot) - middle)
        crown = np.where(head.is_skin & (head.base[:, 1] > 6.6) & (head.mouth < 0.3))[0]
        nearest = crown[np.argmax(unit(head.base[crown] - middle) @ direction)]
        return positions[nearest] + 0.06 * normals[nearest], direction

    def _first_directions(self) -> Array:
        style, rng, roots, above, side = (
            self.style,
            self.rng,
            self.rest_roots,
            self.above,
            np.sign(self.person.hair.part),
        )
        count = len(roots)
        if style.flow == "up":
            flow = self.root_normals.copy()
        elif style.flow == "forward":
            flow = above[:, None] * (0, -0.25, 1) + (1 - above[:, None]) * (0, -1, 0.1)
            flow[:, 0] += 0.25 * side
        elif style.flow == "back":
            flow = np.tile((0, 0.15, -1.0), (count, 1))
            flow[:, 1] -= 0.7 * (1 - above)
        elif style.flow == "quiff":
            flow = np.stack([0.25 * side * above, 0.5 + self._front - 1.2 * (1 - above), -0.5 + 0.6 * self._front], 1)
        elif style.flow == "tied":
            flow = np.array(style.knot) - roots
        else:
            beside = np.where(roots[:, 0] + 0.05 * rng.standard_normal(count) > self.person.hair.part, 1.0, -1.0)
            flow = np.stack([beside, -0.15 - 1.2 * (1 - above), -0.25 - 0.3 * self._front], 1)
        fringe = self.in_fringe
        if fringe.any():
            some = int(fringe.sum())
            swept = 0.35 * side + 0.35 * rng.standard_normal(some) + 0.5 * roots[fringe, 0]
            flow[fringe] = np.stack([swept, np.full(some, -0.35), np.ones(some)], 1)
        flow = unit(flow)
        if style.flow != "up":
            flow = unit(flow - self.root_normals * (flow * self.root_normals).sum(1, keepdims=True))
        loose = 0.10 * rng.standard_normal((count, 3))
        return unit(flow * (1 - 0.5 * style.lift) + self.root_normals * style.lift + loose)

    def run(self) -> tuple[Array, Array]:
        """``(M, K, 3)`` points and normals."""
        style, count = self.style, len(self.roots)
        points, facing = np.zeros((count, self.length, 3)), np.zeros((count, self.length, 3))
        points[:, 0], facing[:, 0] = self.roots - 0.01 * self.root_normals, self.root_normals
        current, directions = points[:, 0].copy(), self._first_directions()
        step = (self.lengths / (self.length - 1))[:, None]
        stiffness = np.full_like(step, 0.97) if style.flow == "up" else np.exp(-step * (2.6 if style.top > 1 else 1))
        arrived = np.zeros(count, bool)
        for k in range(1, self.length):
            if style.flow == "tied":
                directions = 0.6 * directions + 0.4 * unit(self.tie - current)
            elif style.flow == "up":
                directions = directions * stiffness + ((0, -0.05, 0) if style.curl else (0.0, 0.0, 0.0))
            else:
                directions = directions * stiffness + (1 - stiffness) * (0, -1.0, 0)
            directions = unit(directions)
            following = current + directions * step
            if style.long:
                following = self._free_face(following)
            following, off = self._outside(following, k / (self.length - 1))
            directions = 0.75 * unit(following - current) + 0.25 * directions
            outward = following - (0, self.between_eyes[1] - 0.1, self.between_eyes[2] - 1.0)
            outward[:, 1] *= 0.5
            outward = unit(outward)
            facing[:, k] = unit(0.55 * off + 0.45 * outward if style.long else 0.8 * off + 0.2 * outward)
            current = following
            if style.flow == "tied":  # what has reached the knot stays in it
                arrived |= np.linalg.norm(current - self.tie, axis=1) < 0.20
                in_knot = self.tie + 0.10 * unit(self.roots - self.tie)
                current = np.where(arrived[:, None], in_knot, current)
            points[:, k] = current
        return points, facing

    def _free_face(self, points: Array) -> Array:
        """Move long hair out of the face, to the side on which it falls."""
        relative = points - self.between_eyes
        half_width = np.interp(
            relative[:, 1], [-2, -1.2, -0.6, 0, 0.35, 0.62, 0.8], [0.62, 0.66, 0.70, 0.72, 0.66, 0.45, 0.1]
        )
        in_face = (
            (relative[:, 2] > -0.95) & ~self.in_fringe & (np.abs(relative[:, 0]) < half_width) & (relative[:, 1] < 0.8)
        )
        side = np.where(points[:, 0] - self.person.hair.part * (relative[:, 1] > 0) > 0, 1.0, -1.0)
        points[:, 0] = np.where(in_face, 0.5 * points[:, 0] + 0.5 * side * half_width, points[:, 0])
        return points

    def _outside(self, points: Array, along: float) -> tuple[Array, Array]:
        """Push points off the head as far as their layer lies above it. Returns them and the skin's normals there."""
        style = self.style
        distance, nearest = self._tree.query(points, k=3)
        weight = 1 / (distance + 1e-3)
        weight /= weight.sum(1, keepdims=True)
        normals = unit((self._surface_normals[nearest] * weight[..., None]).sum(1))
        skin = (self._surface[nearest] * weight[..., None]).sum(1)
        height = ((points - skin) * normals).sum(1)
        thickness = style.volume * self.person.hair.volume * self.layer
        if style.flow == "tied":
            wanted = 0.015 + thickness * np.sin(np.pi * along)
        else:
            wanted = 0.012 + thickness * min(1.0, along * 2.2 + 0.15) * (1 - 0.45 * along if style.long else 1)
            if self.in_fringe.any():
                wanted = np.where(self.in_fringe, 0.45 * wanted, wanted)
        push = np.where(distance[:, 0] < 0.5, np.maximum(0, wanted - height), 0)
        return points + normals * push[:, None], normals


def _scalp(person: Person) -> Array:
    """How densely hair grows on each triangle of the skin."""
    head = head_model()
    skin = head.skin_triangles
    centers, corners = head.centers[skin], head.triangles[skin]
    density = smoothstep(-0.02, 0.05, centers[:, 1] - hairline(azimuth_of(centers), person.hair))
    density = density * (head.ears[corners].max(1) < 0.3) * (centers[:, 1] > 6.5) * (head.mouth[corners].max(1) < 0.2)
    if person.hair.recession > 0.7:
        crown = np.exp(-((centers[:, 0] / 0.4) ** 2 + ((centers[:, 2] + 0.3) / 0.5) ** 2)) * (centers[:, 1] > 8.1)
        density = density * (1 - 0.8 * crown * min(1.0, person.hair.recession - 0.5))
    result: Array = density
    return result


def sampled(rng: Rng, positions: Array, count: int, density: Array) -> tuple[Array, Array]:
    """Random places on the skin: triangles, and ``(count, 3)`` weights of their corners."""
    head = head_model()
    corners = head.triangles[head.skin_triangles]
    a, b, c = (positions[corners[:, corner]] for corner in range(3))
    chance = np.linalg.norm(np.cross(b - a, c - a), axis=1) * density
    if chance.sum() <= 0:
        return np.zeros(0, int), np.zeros((0, 3))
    chosen = head.skin_triangles[rng.choice(len(corners), count, p=chance / chance.sum())]
    two = rng.random((count, 2))
    two = np.where(two.sum(1, keepdims=True) > 1, 1 - two, two)
    return chosen, np.concatenate([1 - two.sum(1, keepdims=True), two], 1)


def at(values: Array, triangles: Array, weights: Array) -> Array:
    """Interpolate ``(V, 3)`` values at places on triangles."""
    result: Array = (values[head_model().triangles[triangles]] * weights[..., None]).sum(1)
    return result


def unit(vectors: Array) -> Array:
    """``(..., 3)`` vectors at length 1."""
    result: Array = vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9)
    return result


def _curled(person: Person, style: Style, points: Array, facing: Array, growth: _Growth, rng: Rng) -> Array:
    """Wind strands into curls, or bend them in waves that neighbors share."""
    phase = rng.random(len(points)) * 2 * np.pi
    size = (style.curl or style.wave) * (0.7 + 0.6 * person.hair.curl)
    turns = 2 * np.pi / (0.42 if style.curl else 0.95)
    if style.wave:
        phase = 0.6 * np.sin(growth.rest_roots @ (3, 0, 4)) + 0.25 * phase
    along = np.linspace(0, 1, growth.length)[None] * growth.lengths[:, None]
    tangents = unit(np.gradient(points, axis=1))
    aside = unit(np.cross(tangents, facing))
    amount, angle = np.clip(along / 0.3, 0, 1) * size, turns * along + phase[:, None]
    depth = 0.8 if style.curl else 0.4
    result: Array = (
        points + aside * (amount * np.sin(angle))[..., None] + facing * (depth * amount * np.cos(angle))[..., None]
    )
    return result


_KNOT_STRANDS, _KNOT_POINTS = 1600, 12


def _bun(person: Person, growth: _Growth) -> Strands:
    """A ball of hair, wound around changing axes."""
    rng = np.random.default_rng((person.number, 99))
    radius, center = 0.27 * person.hair.length**0.5, growth.tie + 0.2 * growth.tie_direction
    start = unit(rng.standard_normal((_KNOT_STRANDS, 3)))
    axis = unit(0.4 * rng.standard_normal((_KNOT_STRANDS, 3)) + (0.1, 0.2, 1.0))
    angle = np.linspace(0, 2.2, _KNOT_POINTS)[None, :, None]
    facing = unit(start[:, None] * np.cos(angle) + np.cross(axis, start)[:, None] * np.sin(angle))
    layer = rng.random(_KNOT_STRANDS)
    points = center + facing * (radius * (0.8 + 0.2 * layer))[:, None, None]
    along, own = np.linspace(0.3, 1, _KNOT_POINTS), rng.random(_KNOT_STRANDS)
    lightness = 0.8 + 0.2 * layer
    return _strands(points, facing, along, own, 0.5 + 0.5 * lightness, 0.036, 0.3 * lightness)


def _ponytail(person: Person, growth: _Growth) -> Strands:
    """A bundle that hangs behind, a little to one side."""
    rng = np.random.default_rng((person.number, 99))
    along = np.linspace(0, 1, _KNOT_POINTS)
    offset = rng.standard_normal((_KNOT_STRANDS, 3)) * (0.12, 0.072, 0.084)
    aside = 0.55 * np.sign(person.hair.part) * rng.random()
    path = np.stack(
        [aside * along**1.5, 0.1 * np.sin(np.pi * along) - 1.9 * along**1.3, -0.45 * np.sin(0.6 * np.pi * along)], -1
    )
    spread = 0.35 + 0.9 * np.sin(np.pi * np.clip(along * 1.1, 0, 1))
    points = growth.tie + offset[:, None] * spread[None, :, None] + path[None]
    facing = np.repeat(unit(offset)[:, None], _KNOT_POINTS, 1)
    layer, own = rng.random(_KNOT_STRANDS), rng.random(_KNOT_STRANDS)
    return _strands(points, facing, np.linspace(0.3, 1, _KNOT_POINTS), own, 0.5 + 0.5 * layer, 0.02, 0.3 * layer)
