"""Pictures of invented people: a head in a pose, an expression and a light, cut out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from miniature.people3d import hair as hairs
from miniature.people3d.facial_hair import grow_facial_hair
from miniature.people3d.head_model import EYE_LEFT, EYE_RIGHT, LASHES, MOUTH, SKIN, TEETH, Array, HeadModel, head_model
from miniature.people3d.looks import CLOTHES, Clothes, Lighting
from miniature.people3d.person import Person, linear
from miniature.people3d.rasterizer import Rendered, Surface, View, depth_map, render
from miniature.people3d.skin import skin_texture, smoothstep
from miniature.people3d.things import Head, make_thing

EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "slight smile": {"mouthSmile": 0.35},
    "smile": {"mouthSmile": 0.75, "cheekSquint": 0.5, "eyeSquint": 0.25},
    "laugh": {
        "mouthSmile": 0.8,
        "cheekSquint": 0.6,
        "eyeSquint": 0.3,
        "jawOpen": 0.14,
        "mouthUpperUp": 0.45,
        "mouthLowerDown": 0.2,
    },
    "surprise": {"browInnerUp": 0.8, "browOuterUp": 0.7, "jawOpen": 0.35, "eyeWide": 0.5},
    "serious": {"browDown": 0.45, "mouthPress": 0.3},
}
"""Weights of face units; those of both sides are named once."""

_AT_REST = {"eyeBlink": 0.09, "mouthSmile": 0.16, "browInnerUp": 0.12}
"""What every face does, so that nobody stares."""


@dataclass(frozen=True)
class Pose:
    """How a head is turned, in degrees: yaw to the person's left, pitch up, roll to the person's left shoulder."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


_NECKLINE, _NECKLINE_TILT, _NECKLINE_DEPTH = 5.93, -0.42, 0.75
_ARMS = 2.26
"""How far the body reaches to both sides: the arms, which are cut off beyond, hang straight."""
_LOWEST = 4.45
"""Below, the chest is drawn out, so that no picture shows where it ends."""
_CAMERA_DISTANCE = 12.0
_UNITS_ACROSS = 3.2
_FAR = 50.0
_BEHIND = 0.03
"""Decimeters that teeth stay behind the skin in front of them."""
_MOST_PIERCED = 0.25
"""Skin that lies farther behind is seen through the open mouth: the jaw's underside, or the back of the head."""
"""Decimeters at the eyes across a picture."""


@dataclass(frozen=True)
class Cutout:
    """A picture of a person without a background."""

    color: Array
    """``(S, S, 3)`` float32 linear color, multiplied by coverage."""
    coverage: Array
    """``(S, S, 1)`` float32, 0 to 1."""
    landmarks: Array
    """``(5, 2)`` pixels: the eye on the left of the picture, the other, nose, left and right corner of the mouth."""

    def over(self, background: Array) -> Array:
        """``(S, S, 3)`` uint8 sRGB, in front of a linear ``(S, S, 3)`` background."""
        return developed(self.color + background * (1 - self.coverage))


def developed(light: Array) -> Array:
    """uint8 sRGB of linear light, with soft highlights that keep their hue."""
    exposed = np.maximum(light * 0.92, 0)
    brightness = (exposed * np.array([0.3, 0.55, 0.15], np.float32)).sum(-1, keepdims=True)
    by_brightness = exposed * (1 - np.exp(-1.3 * brightness)) / np.maximum(brightness, 1e-4)
    toned = np.clip(0.55 * by_brightness + 0.45 * (1 - np.exp(-1.3 * exposed)), 0, 1)
    encoded = np.where(toned <= 0.0031308, 12.92 * toned, 1.055 * toned ** (1 / 2.4) - 0.055)
    result: Array = (encoded * 255 + 0.5).astype(np.uint8)
    return result


class Model:
    """A person who sits for pictures: shape, hair and skin are made once (a third of a second)."""

    def __init__(self, person: Person) -> None:
        """Prepare a person."""
        self.person = person
        self._head = head = head_model()
        self._positions = shaped(head, person)
        self._normals = head.normals(self._positions)
        self._eyes = {side: head.eye(self._positions, side) for side in (EYE_LEFT, EYE_RIGHT)}
        self._between_eyes = (self._eyes[EYE_LEFT] + self._eyes[EYE_RIGHT]) / 2
        self._hair = hairs.grow_hair(person, self._positions, self._normals, self._between_eyes)
        self._facial_hair = grow_facial_hair(person)
        self._texture = skin_texture(person)
        self._occlusion = self._occluded()
        self._lashes = _Lashes.of(head)
        self._nostrils = _nostrils()

    def picture(
        self,
        side: int,
        pose: Pose = Pose(),
        expression: str | Mapping[str, float] = "neutral",
        *,
        lighting: Lighting,
        clothes: Clothes | None,
        things: Sequence[str] = (),
        seed: int = 0,
        zoom: float = 1.0,
        oversampling: int = 2,
    ) -> Cutout:
        """Take a picture.

        Args:
            side: Width and height in pixels.
            pose: How the head is turned.
            expression: A name of :data:`EXPRESSIONS`, or weights of face units.
            lighting: The light.
            clothes: What is worn on the body, or ``None``.
            things: Names of :data:`miniature.people3d.things.WORN` and ``HELD``.
            seed: Chooses colors and details of the things.
            zoom: 1 shows head and shoulders.
            oversampling: Pixels drawn for each pixel across.
        """
        head, person = self._head, self.person
        unposed = self._expressed(EXPRESSIONS[expression] if isinstance(expression, str) else expression)
        if clothes is not None:  # cloth is thicker than skin
            below = smoothstep(6.05, 5.5, head.base[:, 1]) * head.is_skin
            unposed = unposed + head.normals(unposed) * (0.07 * below)[:, None]
        degrees = np.array([-pose.pitch, pose.yaw, pose.roll])
        rotation = _rotations(np.radians(degrees))
        turned = _rotations(head.head_weight[:, None] * np.radians(degrees))
        positions = (np.einsum("nij,nj->ni", turned, unposed - head.pivot) + head.pivot).astype(np.float32)
        np.clip(positions[:, 0], -_ARMS, _ARMS, out=positions[:, 0])
        positions[head.base[:, 1] < _LOWEST, 1] -= 0.5
        normals = head.normals(positions)

        def with_head(points: Array) -> Array:
            result: Array = ((points - head.pivot) @ rotation.T + head.pivot).astype(np.float32)
            return result

        camera = np.array([0, self._between_eyes[1] - 0.10, _CAMERA_DISTANCE], np.float32)
        parts = [self._body(positions, normals)]
        made = [make_thing(name, Head(self._positions, self.eyes), np.random.default_rng(seed)) for name in things]
        for thing in made:
            surface = thing.surface
            if thing.turns:
                turned_normals = (surface.normals @ rotation.T).astype(np.float32)
                surface = replace(surface, positions=with_head(surface.positions), normals=turned_normals)
            parts.append(surface)
        hair = self._hair
        for hides in (thing.hides for thing in made if thing.hides is not None):
            hair = [one.kept(~hides(one.points[:, 0])) for one in hair]
        strands = [one.moved(with_head(one.points), (one.normals @ rotation.T).astype(np.float32)) for one in hair]
        if side <= 128:
            strands = [one.thinned(2, 1.5) for one in strands]
        strands += [one.strands(positions, normals, rotation) for one in self._facial_hair]
        parts += [hairs.ribbons(one, camera) for one in strands if len(one.points)]

        pixels = side * oversampling * zoom / _UNITS_ACROSS
        focal = pixels * (_CAMERA_DISTANCE - self._between_eyes[2])
        left, right = with_head(self._eyes[EYE_LEFT]), with_head(self._eyes[EYE_RIGHT])
        toward_camera = camera - (left + right) / 2
        gaze = 0.35 * rotation[:, 2] + 0.65 * toward_camera / np.linalg.norm(toward_camera)
        view = _view(person, lighting, clothes).fill_in(
            camera=camera,
            focal=focal,
            center=(side * oversampling / 2,) * 2,
            head=rotation,
            eye_left=left,
            eye_right=right,
            gaze=gaze,
        )
        drawn = render(view, Surface.joined(parts), self._texture, side * oversampling)
        color, coverage = _light_through_skin(drawn, pixels), (drawn.materials >= 0).astype(np.float32)
        points = np.stack([right, left, *positions[list(_landmark_vertices())]])
        relative = points - camera
        landmarks = side / 2 + focal / oversampling * relative[:, :2] * (1, -1) / -relative[:, 2:]
        return Cutout(_smaller(color, side), _smaller(coverage, side)[..., None], landmarks.astype(np.float32))

    def _expressed(self, expression: Mapping[str, float]) -> Array:
        positions = self._positions.copy()
        for unit, weight in expression.items():
            positions += weight * _face_unit(self._head, unit)
        return self._lashes.thinned(_behind_skin(self._head, positions), self.person.eyes.makeup)

    def _body(self, positions: Array, normals: Array) -> Surface:
        head = self._head
        inside = np.maximum(head.mouth, 0.55 * self._nostrils)
        occlusion = self._occlusion * (1 - 0.6 * self._nostrils)
        attributes = np.stack([occlusion, head.lips, inside, np.zeros_like(head.lips)], 1).astype(np.float32)
        tangents = np.zeros_like(positions)
        return Surface(positions, normals, head.base, tangents, attributes, head.triangles, head.materials)

    def _occluded(self) -> Array:
        """``(V,)`` how open each vertex lies to light from above, below hair as well."""
        head, side, scale = self._head, 112, 112 / 4.6
        rng = np.random.default_rng(0)
        directions = rng.standard_normal((24, 3))
        directions[:, 1] = 0.9 * np.abs(directions[:, 1])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        solid = head.triangles[np.isin(head.materials, (SKIN, TEETH, MOUTH))]
        thin = [
            hairs.Strands(
                s.points[::5, ::2], s.normals[::5, ::2], 4 * s.widths[::5, ::2], s.attributes[::5, ::2], s.material
            )
            for s in self._hair
        ]
        reached, total = np.zeros(len(head.base)), np.zeros(len(head.base))
        raised = self._positions + 0.05 * self._normals - self._between_eyes
        for light in directions:
            across = np.cross([0, 1, 0], light)
            across /= np.linalg.norm(across) + 1e-9
            up = np.cross(light, across)
            points, triangles = [self._positions], [solid]
            for one in thin:
                ribbon = hairs.ribbons(one, light * 50)
                triangles.append(ribbon.triangles + sum(map(len, points)))
                points.append(ribbon.positions)
            q = np.concatenate(points) - self._between_eyes
            screen = np.stack(
                [side / 2 + scale * (q @ across), side / 2 - scale * (q @ up), -q @ light, np.ones(len(q))], 1
            )
            depth = depth_map(screen, np.concatenate(triangles), side)
            x = np.clip((side / 2 + scale * (raised @ across)).astype(int), 0, side - 1)
            y = np.clip((side / 2 - scale * (raised @ up)).astype(int), 0, side - 1)
            faces_it = np.clip(self._normals @ light, 0, 1)
            reached += (-(raised @ light) - 0.03 < depth[y, x]) * faces_it
            total += faces_it
        open_share = head.smoothed(reached / np.maximum(total, 0.5))
        openness = np.clip(0.22 + 0.85 * open_share, 0, 1)
        # Where the arms were cut off, the mesh would shade itself.
        chest = smoothstep(6.0, 5.6, head.base[:, 1])
        return np.maximum(openness, 0.9 * chest).astype(np.float32)

    @property
    def positions(self) -> Array:
        """``(V, 3)`` the shaped head at rest."""
        return self._positions

    @property
    def eyes(self) -> tuple[Array, Array]:
        """Centers of the left and the right eye at rest."""
        return self._eyes[EYE_LEFT], self._eyes[EYE_RIGHT]


# ---------------------------------------------------------------------- parts


def _face_unit(head: HeadModel, unit: str) -> Array:
    """``(V, 3)`` displacement of a face unit; of both sides, where there are two."""
    if (delta := head.targets.get(f"face/{unit}")) is not None:
        return delta
    result: Array = head.targets[f"face/{unit}Left"] + head.targets[f"face/{unit}Right"]
    return result


def shaped(head: HeadModel, person: Person) -> Array:
    """``(V, 3)`` the head of a person at rest."""
    positions = head.base.copy()
    for unit, weight in _AT_REST.items():
        positions += weight * _face_unit(head, unit)
    for target, weight in person.shape.items():
        if weight and (delta := head.targets.get(target)) is not None:
            positions += weight * delta
    result: Array = positions.astype(np.float32)
    return result


def _behind_skin(head: HeadModel, positions: Array) -> Array:
    """Move teeth, tongue and the inside of the mouth behind the skin of the face, which some shapes and smiles let them pierce.

    What is seen through the open mouth has no skin before it and stays.
    """
    side, across = 160, 1.6
    inner = np.zeros(len(positions), bool)
    inner[head.triangles[np.isin(head.materials, (TEETH, MOUTH))]] = True
    inner |= head.is_skin & (head.mouth > 0.9)
    lips = positions[head.is_skin & (head.lips > 0.4)]
    center = (lips.min(0) + lips.max(0)) / 2
    outer = head.triangles[(head.materials == SKIN) & (head.mouth[head.triangles].max(1) < 0.5)]
    scale = side / across
    x, y = scale * (positions[:, 0] - center[0]) + side / 2, side / 2 - scale * (positions[:, 1] - center[1])
    screen = np.stack([x, y, _FAR - positions[:, 2], np.ones(len(x))], 1)
    depth = depth_map(screen.astype(np.float32), outer, side)
    columns, rows = np.floor(x).astype(int), np.floor(y).astype(int)
    near = inner & (columns > 0) & (rows > 0) & (columns < side - 1) & (rows < side - 1)
    result: Array = positions.copy()
    front = np.full(int(near.sum()), np.inf)
    for right in (-1, 0, 1):  # the deepest skin nearby, so that triangles between the vertices stay behind it, too
        for down in (-1, 0, 1):
            z = _FAR - depth[rows[near] + down, columns[near] + right]
            pierced = z > positions[near, 2] - _MOST_PIERCED
            front = np.minimum(front, np.where(pierced, z, np.inf))
    result[near, 2] = np.minimum(result[near, 2], front - _BEHIND)
    return result


@dataclass(frozen=True)
class _Lashes:
    """The strips of the eyelashes, which are too long without make-up."""

    vertices: Array
    roots: Array
    """The vertex of the lid for each of them."""
    upper: Array

    @classmethod
    def of(cls, head: HeadModel) -> _Lashes:
        from scipy.spatial import cKDTree

        lashes = np.unique(head.triangles[head.materials == LASHES])
        skin = np.where(head.is_skin)[0]
        distance, _ = cKDTree(head.base[skin]).query(head.base[lashes])
        on_lid = lashes[distance < 0.0075]
        roots = on_lid[cKDTree(head.base[on_lid]).query(head.base[lashes])[1]]
        return cls(lashes, roots, head.base[lashes, 1] > 7.282)

    def thinned(self, positions: Array, makeup: float) -> Array:
        shorter = np.where(self.upper, 0.72 - 0.42 * makeup, 0.93 - 0.2 * makeup)[:, None]
        positions[self.vertices] += shorter * (positions[self.roots] - positions[self.vertices])
        return positions


@lru_cache
def _nostrils() -> Array:
    """``(V,)`` 1 in the nostrils: vertices of the nose that are hardly seen from in front and below."""
    head, side, scale = head_model(), 600, 600 / 0.8
    base, normals = head.base, head.normals(head.base)
    nose: Array = head.is_skin & (np.abs(base[:, 0]) < 0.18) & (base[:, 1] > 6.83) & (base[:, 1] < 6.99)
    nose = np.where(nose & (base[:, 2] > 1.38) & (base[:, 2] < 1.64) & (head.mouth < 0.5))[0]
    rng, seen, views = np.random.default_rng(1), np.zeros(len(nose)), 30
    for _ in range(views):
        direction = np.array([0.5 * rng.standard_normal(), 0.5 * rng.standard_normal() - 0.5, 1.0])
        direction /= np.linalg.norm(direction)
        across = np.cross([0, 1, 0], direction)
        across /= np.linalg.norm(across)
        up = np.cross(direction, across)
        q = base - (0, 6.9, 1.5)
        screen = np.stack(
            [side / 2 + scale * (q @ across), side / 2 - scale * (q @ up), -q @ direction, np.ones(len(q))], 1
        )
        depth = depth_map(screen, head.triangles[head.materials == SKIN], side)
        x, y = (np.clip(screen[nose, axis].astype(int), 0, side - 1) for axis in (0, 1))
        seen += (screen[nose, 2] - 0.012 < depth[y, x]) & (normals[nose] @ direction > 0)
    mask = np.zeros(len(base), np.float32)
    mask[nose[seen / views < 0.17]] = 1
    return mask


@lru_cache
def _landmark_vertices() -> tuple[int, int, int]:
    """Vertices of the nose's tip and of the corners of the mouth, left and right in the picture."""
    head = head_model()
    base = head.base
    bridge = np.where(head.is_skin & (np.abs(base[:, 0]) < 0.02) & (base[:, 1] > 6.8) & (base[:, 1] < 7.1))[0]
    lips = np.where(head.is_skin & (head.lips > 0.4) & (head.mouth < 0.5))[0]
    across = base[lips, 0]
    return int(bridge[base[bridge, 2].argmax()]), int(lips[across.argmin()]), int(lips[across.argmax()])


def _rotations(vectors: Array) -> Array:
    """``(..., 3, 3)`` rotation matrices of ``(..., 3)`` axes times angles, by Rodrigues' formula."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vectors / np.maximum(angle[..., 0], 1e-8), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape((*vectors.shape[:-1], 3, 3))
    result: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return result


def _view(person: Person, lighting: Lighting, clothes: Clothes | None) -> View:
    """All colors of a picture."""
    skin, eyes = person.skin, person.eyes
    view = View().fill_in(
        key=lighting.key,
        fill=lighting.fill,
        rim=lighting.rim,
        sky=lighting.sky,
        ground=lighting.ground,
        skin_shine=skin.shine,
        bump=0.16,
        lips=skin.lips,
        lip_strength=0.85 if eyes.makeup > 0.5 else 0.55,
        lip_gloss=0.3 + 0.7 * eyes.makeup,
        hair=person.hair.color,
        hair_streaks=person.hair.streaks,
        hair_shine=person.hair.shine,
        brow=0.72 * person.brows.color + 0.17 * skin.color,
        beard=0.85 * person.beard.color + 0.07 * skin.color,
        iris_radius=eyes.radius,
        pupil=eyes.pupil,
        iris_inner=eyes.inner,
        iris_outer=eyes.outer,
        sclera=linear(228, 222, 216),
        liner=0.25 if person.male else 0.35 + 0.6 * eyes.makeup,
        neckline=_NECKLINE,
        neckline_tilt=_NECKLINE_TILT,
        neckline_depth=_NECKLINE_DEPTH,
    )
    if clothes is not None:
        view.fill_in(cloth_kind=1 + CLOTHES.index(clothes.kind), cloth=clothes.color, cloth_second=clothes.second)
    return view


_SCATTER = (0.060, 0.030, 0.016)
"""How far red, green and blue light spreads in skin, in decimeters."""


def _light_through_skin(drawn: Rendered, pixels: float) -> Array:
    """``(S, S, 3)`` linear color; light on skin is spread as it is by what lies below."""
    import cv2

    skin = (drawn.materials == SKIN).astype(np.float32)
    light = drawn.light.copy()
    for channel, distance in enumerate(_SCATTER):
        weight = cv2.GaussianBlur(skin, (0, 0), distance * pixels)
        spread = cv2.GaussianBlur(light[..., channel] * skin, (0, 0), distance * pixels) / np.maximum(weight, 1e-3)
        light[..., channel] = np.where(skin > 0, 0.35 * light[..., channel] + 0.65 * spread, light[..., channel])
    color: Array = drawn.albedo * light + drawn.shine
    return color


def _smaller(image: Array, side: int) -> Array:
    import cv2

    result: Array = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return result
