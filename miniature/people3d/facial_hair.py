"""Brows and beards: hairs that are rooted on the face and follow its expressions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from miniature.people3d.hair import Strands, at, sampled, unit
from miniature.people3d.head_model import BEARD, BROW, Array, head_model
from miniature.people3d.person import Person, Rng
from miniature.people3d.skin import beard_density, brow_place, smoothstep


@dataclass(frozen=True)
class FacialHair:
    """Hairs that are rooted on the face and follow its expressions."""

    material: int
    triangles: Array
    weights: Array
    """Where the roots are."""
    directions: Array
    lengths: Array
    lift: float
    droop: float
    width: float
    own: Array
    occlusion: Array

    def strands(self, positions: Array, normals: Array, rotation: Array) -> Strands:
        """The hairs on a posed face whose head is turned by a ``(3, 3)`` rotation."""
        roots = at(positions, self.triangles, self.weights)
        facing = unit(at(normals, self.triangles, self.weights))
        directions = self.directions @ rotation.T
        directions = unit(directions - 0.9 * facing * (directions * facing).sum(1, keepdims=True))
        along, lengths = np.linspace(0, 1, 4), self.lengths[:, None, None]
        lifted = self.lift * 0.5 * np.sin(0.6 * np.pi * along)[None, :, None]
        points = roots[:, None] + 0.004 * facing[:, None] + directions[:, None] * lengths * along[None, :, None]
        points = points + facing[:, None] * lengths * lifted
        points[..., 1] -= 0.35 * self.droop * self.lengths[:, None] * along[None] ** 2
        shape = points.shape[:2]
        columns = (self.occlusion[:, None], along[None], self.own[:, None], np.zeros((1, 1)))
        attributes = np.stack([np.broadcast_to(column, shape) for column in columns], -1)
        widths = np.broadcast_to(self.width * (1 - 0.7 * along)[None], shape)
        return Strands(
            points.astype(np.float32),
            np.repeat(facing[:, None], 4, 1).astype(np.float32),
            widths.astype(np.float32),
            attributes.astype(np.float32),
            self.material,
        )


def grow_facial_hair(person: Person) -> list[FacialHair]:
    """Brows and beard of a person, in the rest pose."""
    rng = np.random.default_rng((person.number, 7))
    return [hairs for hairs in (_brow_hairs(person, rng), _beard_hairs(person, rng)) if hairs is not None]


def _brow_hairs(person: Person, rng: Rng) -> FacialHair | None:
    head, brows = head_model(), person.brows
    centers = head.centers[head.skin_triangles]
    region = (centers[:, 1] > 7.3) & (centers[:, 1] < 7.75) & (np.abs(centers[:, 0]) < 0.75) & (centers[:, 2] > 0.6)
    triangles, weights = sampled(rng, head.base, 18000, region.astype(float))
    roots = at(head.base, triangles, weights)
    along, across = brow_place(brows, np.abs(roots[:, 0]), roots[:, 1])
    # Thin toward the edges and both ends, so that no brow looks cut out.
    chance = (1 - 0.75 * np.abs(across) ** 1.6) * smoothstep(-0.02, 0.22, along) * smoothstep(1.02, 0.8, along)
    keep = np.where((along > 0) & (along < 1) & (np.abs(across) < 1) & (rng.random(len(along)) < chance))[0]
    keep = keep[: int(760 * brows.density * (brows.thickness / 0.05) ** 0.5)]
    if not len(keep):
        return None
    triangles, weights, roots, along, across = (q[keep] for q in (triangles, weights, roots, along, across))
    rising = 0.9 * (1 - along) ** 2 - 0.35 * along - 0.5 * across * (along > 0.1)
    directions = np.stack([np.sign(roots[:, 0]), rising, np.full(len(keep), -0.35)], 1)
    directions = unit(directions + 0.07 * rng.standard_normal(directions.shape))
    lengths = 0.07 * (0.8 + 0.4 * rng.random(len(keep))) * (1 - 0.35 * along)
    own, ones = rng.random(len(keep)), np.ones(len(keep))
    return FacialHair(BROW, triangles, weights, directions, lengths, 0.12, 0.0, 0.0045, own, ones)


_BEARD_LENGTHS = {"short": 0.09, "full": 0.34, "goatee": 0.26, "vandyke": 0.28, "moustache": 0.14}


def _beard_hairs(person: Person, rng: Rng) -> FacialHair | None:
    beard = person.beard
    if beard.kind in ("none", "stubble"):
        return None
    kind = "full" if beard.kind == "short" else beard.kind
    head = head_model()
    centers, corners = head.centers[head.skin_triangles], head.triangles[head.skin_triangles]
    region = (centers[:, 1] > 5.8) & (centers[:, 1] < 7.3) & (centers[:, 2] > -0.2) & (np.abs(centers[:, 0]) < 0.74)
    region &= (
        (head.mouth[corners].max(1) < 0.1) & (head.lips[corners].max(1) < 0.4) & (head.ears[corners].max(1) < 0.15)
    )
    triangles, weights = sampled(rng, head.base, 26000, region.astype(float))
    roots = at(head.base, triangles, weights)
    densities = beard_density(roots[:, 0], roots[:, 1], roots[:, 2], kind)
    keep = np.where(rng.random(len(roots)) < densities)[0][: 4200 if kind == "full" else 2000]
    if not len(keep):
        return None
    triangles, weights, roots = triangles[keep], weights[keep], roots[keep]
    count = len(keep)
    moustache = (roots[:, 1] > 6.62) & (np.abs(roots[:, 0]) < 0.36)
    directions = np.stack([0.25 * roots[:, 0], np.full(count, -1.0), np.full(count, 0.25)], 1)
    directions[moustache] = np.stack(
        [np.sign(roots[moustache, 0]), np.full(moustache.sum(), -0.75), np.full(moustache.sum(), 0.1)], 1
    )
    directions = unit(directions + 0.22 * rng.standard_normal((count, 3)))
    longer_below = 0.35 + 0.65 * smoothstep(6.75, 6.3, roots[:, 1])
    lengths = np.where(moustache, 0.15, _BEARD_LENGTHS[beard.kind] * longer_below) * (0.7 + 0.6 * rng.random(count))
    lift = 0.6 if beard.kind == "short" else 0.45
    own, occlusion = rng.random(count), 0.6 + 0.4 * rng.random(count)
    return FacialHair(BEARD, triangles, weights, directions, lengths, lift, 0.5, 0.011, own, occlusion)
