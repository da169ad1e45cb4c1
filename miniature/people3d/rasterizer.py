"""The rasterizer of ``rasterizer.c`` for numpy arrays, compiled when it is first used."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from miniature.compiled import library
from miniature.people3d.head_model import Array

SOURCE = Path(__file__).with_name("rasterizer.c")
SHADOW_SIDE = 320
"""Side of the shadow map in pixels."""


class Light(ctypes.Structure):
    """Where a light comes from, and its linear color."""

    _fields_ = [("direction", ctypes.c_float * 3), ("color", ctypes.c_float * 3)]


class View(ctypes.Structure):
    """Camera, light and colors of one picture; field for field the struct of ``rasterizer.c``."""

    _fields_ = [
        ("camera", ctypes.c_float * 3),
        ("focal", ctypes.c_float),
        ("center", ctypes.c_float * 2),
        ("head", ctypes.c_float * 9),
        ("key", Light),
        ("fill", Light),
        ("rim", Light),
        ("sky", ctypes.c_float * 3),
        ("ground", ctypes.c_float * 3),
        ("skin_shine", ctypes.c_float),
        ("bump", ctypes.c_float),
        ("lips", ctypes.c_float * 3),
        ("lip_strength", ctypes.c_float),
        ("lip_gloss", ctypes.c_float),
        ("hair", ctypes.c_float * 3),
        ("hair_streaks", ctypes.c_float * 3),
        ("hair_shine", ctypes.c_float),
        ("brow", ctypes.c_float * 3),
        ("beard", ctypes.c_float * 3),
        ("eye_left", ctypes.c_float * 3),
        ("eye_right", ctypes.c_float * 3),
        ("gaze", ctypes.c_float * 3),
        ("iris_radius", ctypes.c_float),
        ("pupil", ctypes.c_float),
        ("iris_inner", ctypes.c_float * 3),
        ("iris_outer", ctypes.c_float * 3),
        ("sclera", ctypes.c_float * 3),
        ("liner", ctypes.c_float),
        ("cloth_kind", ctypes.c_float),
        ("cloth", ctypes.c_float * 3),
        ("cloth_second", ctypes.c_float * 3),
        ("neckline", ctypes.c_float),
        ("neckline_tilt", ctypes.c_float),
        ("neckline_depth", ctypes.c_float),
    ]

    def fill_in(self, **values: Any) -> View:
        """Set fields from numbers, sequences and pairs (a light's direction and color), and return this view."""
        for name, value in values.items():
            if isinstance(getattr(self, name), Light):
                direction, color = value
                setattr(self, name, Light(tuple(map(float, direction)), tuple(map(float, color))))
            elif isinstance(value, Sequence | np.ndarray):
                setattr(self, name, tuple(float(number) for number in np.ravel(value)))
            else:
                setattr(self, name, float(value))
        return self


@dataclass(frozen=True)
class Surface:
    """Triangles to draw, and what shading needs at their N vertices."""

    positions: Array
    normals: Array
    rest: Array
    """``(N, 3)`` positions in the rest pose: textures are fixed to them."""
    tangents: Array
    """``(N, 3)`` directions of hair strands; zero elsewhere."""
    attributes: Array
    """``(N, 4)``: occlusion, then by material lips and mouth; place along a strand, its random number, streak; or a color."""
    triangles: Array
    materials: Array

    @classmethod
    def joined(cls, parts: Sequence[Surface]) -> Surface:
        """One surface of several, with the vertices of the triangles renumbered."""
        offsets = np.cumsum([0, *(len(part.positions) for part in parts[:-1])])
        triangles = [part.triangles + offset for part, offset in zip(parts, offsets, strict=True)]

        def all_of(name: str) -> Array:
            return np.ascontiguousarray(np.concatenate([getattr(part, name) for part in parts]), np.float32)

        return cls(
            all_of("positions"),
            all_of("normals"),
            all_of("rest"),
            all_of("tangents"),
            all_of("attributes"),
            np.ascontiguousarray(np.concatenate(triangles), np.int32),
            np.ascontiguousarray(np.concatenate([part.materials for part in parts]), np.uint8),
        )


@dataclass(frozen=True)
class Rendered:
    """What the rasterizer knows of each of ``(S, S)`` pixels, in linear light."""

    albedo: Array
    light: Array
    shine: Array
    materials: Array
    """int8, -1 where nothing is."""


def render(view: View, surface: Surface, texture: Array, side: int) -> Rendered:
    """Draw a surface.

    Args:
        view: Camera, light and colors.
        surface: What is drawn, float32.
        texture: ``(h, w, 4)`` skin color and height over azimuth and height of the head.
        side: Width and height of the result in pixels.
    """
    albedo, light, shine = (np.empty((side, side, 3), np.float32) for _ in range(3))
    materials = np.empty((side, side), np.int8)
    texture = np.ascontiguousarray(texture, np.float32)
    height, width, _ = texture.shape
    arrays = (surface.positions, surface.normals, surface.rest, surface.tangents, surface.attributes)
    enough = _library().render(
        ctypes.byref(view),
        len(surface.positions),
        *map(_pointer, arrays),
        len(surface.triangles),
        _pointer(surface.triangles),
        _pointer(surface.materials),
        _pointer(texture),
        width,
        height,
        side,
        side,
        SHADOW_SIDE,
        *map(_pointer, (albedo, light, shine, materials)),
    )
    if not enough:
        raise MemoryError("the rasterizer found no memory")
    return Rendered(albedo, light, shine, materials)


def depth_map(screen: Array, triangles: Array, side: int) -> Array:
    """``(side, side)`` depth of the nearest triangle, from ``(N, 4)`` x, y, depth and 1 of each vertex."""
    screen = np.ascontiguousarray(screen, np.float32)
    triangles = np.ascontiguousarray(triangles, np.int32)
    depth = np.empty((side, side), np.float32)
    _library().depth_only(_pointer(screen), len(triangles), _pointer(triangles), side, side, _pointer(depth))
    return depth


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _library() -> ctypes.CDLL:
    return library(SOURCE, "Drawing people in 3D")
