"""Who is seen in the demo's pictures, in figures and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from celeb_basis.faces.types import FaceNetwork, Floats, Pixels


@dataclass(frozen=True)
class Seen:
    """What was made out in one picture."""

    likeness: float | None
    """Mean cosine of the faces to those who are meant; ``None`` if one of them is missing."""
    note: str
    """A sentence for people."""


def look(picture: Pixels, meant: Sequence[str], vectors: dict[str, Floats], faces: FaceNetwork) -> Seen:
    """Compare the picture's largest faces, from left to right, with the people it is ``meant`` to show.

    Parameters: ``vectors`` holds everybody's ``(512,)`` face vector; who is not meant is told for comparison.
    """
    found = sorted(faces.detect(picture)[: len(meant)], key=lambda face: face.box[0] + face.box[2])
    if len(found) < len(meant):
        wanted = "no face" if not found else f"{len(found)} of {len(meant)} faces"
        return Seen(None, f"{wanted} found")
    seen = faces.embed([faces.align(picture, face.landmarks) for face in found])
    told, own = [], []
    for name, vector in zip(meant, seen, strict=True):
        cosines = {other: float(vector @ reference) for other, reference in vectors.items()}
        own.append(cosines[name])
        others = ", ".join(f"{other} {value:.2f}" for other, value in cosines.items() if other != name)
        told.append(f"{name} {cosines[name]:.2f}" + (f" ({others})" if others else ""))
    places = ("left: ", "right: ") if len(meant) == 2 else ("",)
    sentence = "likeness " + "; ".join(place + words for place, words in zip(places, told, strict=True))
    return Seen(float(np.mean(own)), sentence)
