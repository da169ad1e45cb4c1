"""A toy model that counts the pictures it generates, and a face network for pictures of noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from support.toys import ToyModel

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.faces.network import DetectedFace, Floats, Pixels


class CountingModel(ToyModel):
    """Generates noise that depends on the prompt, and counts."""

    broken_after = 10_000

    def __init__(self, widths: Sequence[int] = (32,)) -> None:
        super().__init__(widths)
        self.drawn: list[str] = []

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        self.drawn.append(request.prompt)
        for number in range(request.count):
            if len(self.drawn) > self.broken_after:
                return
            random = np.random.default_rng([request.seed + number, *request.prompt.encode()])
            yield Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8))


class PixelFaces:
    """A face network whose vector of a picture is made of its pixels; pictures whose first pixel is dark have no face."""

    name = "pixels"

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        if picture[0, 0, 0] < 100:
            return []
        marks = np.array([[20, 24], [44, 24], [32, 36], [22, 48], [42, 48]], np.float32)
        return [DetectedFace(box=(0.0, 0.0, 64.0, 64.0), score=1.0, landmarks=marks)]

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        del landmarks
        return picture

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        rows = np.stack([one.reshape(-1)[:512].astype(np.float32) for one in aligned])
        vectors: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return vectors
