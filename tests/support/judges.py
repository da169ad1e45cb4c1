"""Judges of likeness for tests of measurements."""

from __future__ import annotations

import numpy as np

from celeb_basis.faces.network import DetectedFace, Floats, Pixels


class Cosine:
    """A judge whose likeness is the cosine."""

    name = "cosine"

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        raise NotImplementedError

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        ours, others = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, references))
        return np.asarray(ours @ others.T, np.float32)
