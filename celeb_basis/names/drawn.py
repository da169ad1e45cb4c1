"""The filter that asks the model itself: does it draw a face for a name, and the same face each time?

The authors picked such names by eye; this is the same question put to a face network (method: paper section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from celeb_basis.errors import HostError, SettingsError
from celeb_basis.faces.types import FaceNetwork, Floats
from celeb_basis.hosts.base import GenerationRequest, Host

Progress = Callable[[str, "str | None"], None]
"""Called after each name with the name and its verdict: why it is no good, or ``None``."""


class DrawnFaceCheck:
    """A :data:`~celeb_basis.names.filters.FaceCheck` that lets ``host`` draw each name and looks at the faces.

    A name fails if one of its pictures shows no face, or if the mean cosine between the faces' vectors, over all pairs
    of its pictures, is below ``same_face``. With one picture only the first is asked. In a picture of several faces the
    largest counts.

    Parameters: ``template`` is the prompt, with ``{}`` where the name goes; picture ``i`` is drawn with ``seed + i``;
    ``progress`` is called after each name, and what it raises ends the work.

    Raises: :class:`SettingsError` at construction for a value out of its range.
    """

    def __init__(
        self,
        host: Host,
        faces: FaceNetwork,
        *,
        template: str = "a photo of {}",
        pictures: int = 2,
        same_face: float = 0.3,
        seed: int = 0,
        steps: int = 25,
        progress: Progress | None = None,
    ) -> None:
        if template.count("{}") != 1:
            raise SettingsError(f"The template {template!r} must hold {{}} once, where the name goes: change it.")
        if not 1 <= pictures <= 64:
            raise SettingsError(f"pictures is {pictures}: choose from 1 to 64.")
        if not -1.0 <= same_face <= 1.0:
            raise SettingsError(f"same_face is {same_face}: choose a cosine from -1 to 1.")
        if not 1 <= steps <= 1000:
            raise SettingsError(f"steps is {steps}: choose from 1 to 1000.")
        if not 0 <= seed < 2**32:
            raise SettingsError(f"seed is {seed}: choose from 0 to {2**32 - 1}.")
        self._host = host
        self._faces = faces
        self._template = template
        self._pictures = pictures
        self._same_face = same_face
        self._seed = seed
        self._steps = steps
        self._progress = progress

    def __call__(self, name: str) -> str | None:
        """Why ``name`` is no good, or ``None``.

        Raises: :class:`HostError` if the host draws fewer pictures than asked for, and whatever the host raises.
        """
        verdict = self._verdict(name)
        if self._progress is not None:
            self._progress(name, verdict)
        return verdict

    def _verdict(self, name: str) -> str | None:
        # replace, not format: braces in a template or a name mean nothing here.
        prompt = self._template.replace("{}", name)
        request = GenerationRequest(prompt=prompt, count=self._pictures, seed=self._seed, steps=self._steps)
        vectors: list[Floats] = []
        for picture in self._host.generate(request):
            pixels = np.array(picture.convert("RGB"), dtype=np.uint8)
            found = self._faces.detect(pixels)
            if not found:
                # The rest is not drawn: a host draws one picture after the other.
                return f"no face in drawn picture {len(vectors) + 1} of {self._pictures}"
            vectors.append(self._faces.embed([self._faces.align(pixels, found[0].landmarks)])[0])
        if len(vectors) != self._pictures:
            raise HostError(
                f"The model drew {len(vectors)} of {self._pictures} pictures for {name!r}: "
                "was it interrupted? Start the filter again."
            )
        if self._pictures == 1:
            return None
        cosine = float(np.mean([_cosine(one, other) for one, other in combinations(vectors, 2)]))
        # Written so that NaN fails too.
        if not cosine >= self._same_face:
            return f"draws a different face each time (cosine {cosine:.2f}, wanted {self._same_face:.2f})"
        return None


def _cosine(one: Floats, other: Floats) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other)) / lengths if lengths > 0 else float("nan")
