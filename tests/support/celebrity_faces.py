"""A toy model that renders every name as a picture of its own and counts, and a face network for such pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from support.toys import ToyModel

from celeb_basis.diffusion_model import PlaceholderTokens
from celeb_basis.errors import HostError
from celeb_basis.faces.network import DetectedFace, Floats, Pixels


@dataclass(frozen=True)
class Named:
    """Encoded prompts without placeholder tokens."""

    prompts: tuple[str, ...]


class OutOfMemoryError(RuntimeError):
    """As torch's own, by its name."""


def pattern(prompt: str) -> torch.Tensor:
    """``(4, 8, 8)``: what the model makes of a prompt, from -1 to 1."""
    random = np.random.default_rng(list(prompt.encode()))
    return torch.from_numpy(random.uniform(-1, 1, (4, 8, 8)).astype(np.float32))


class CountingModel(ToyModel):
    """Renders a prompt without placeholder tokens as its :func:`pattern`, and counts."""

    broken_after = 10_000
    sharp_below = 1000
    """The timestep below which it sees more than noise."""
    most_at_once = 1000

    def __init__(self, widths: Sequence[int] = (32,), seed: int = 0) -> None:
        super().__init__(widths, seed=seed)
        self.drawn: list[str] = []
        self.evaluations = 0
        self.decoded_while_training = False
        self.last: tuple[str, ...] = ()

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Any:
        if placeholder_tokens:
            return super().encode_prompts(prompts, placeholder_tokens)
        return Named(tuple(prompts))

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        if not isinstance(conditioning, Named):
            return super().predict(latents, timesteps, conditioning)
        if len(latents) > self.most_at_once:
            raise OutOfMemoryError("CUDA out of memory")
        if len(set(self.drawn)) + len(latents) > self.broken_after:
            raise HostError("The program has switched to another checkpoint.")
        self.evaluations += len(latents)
        if int(timesteps[0]) == 999 and any(conditioning.prompts):
            self.drawn += conditioning.prompts
        # Guidance goes from the empty prompt's picture to the prompt's: with the same one, it changes nothing.
        self.last = conditioning.prompts if any(conditioning.prompts) else self.last
        signal = self.schedule.alphas_cumprod[timesteps][:, None, None, None]
        seen = torch.stack([pattern(prompt) for prompt in self.last])[..., : latents.shape[-1]]
        clean = seen[:, :, : latents.shape[-2]] if int(timesteps[0]) <= self.sharp_below else torch.ones_like(latents)
        return (latents - signal.sqrt() * clean) / (1 - signal).sqrt()

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        self.decoded_while_training = self.decoded_while_training or self.training_depth > 0
        return super().decode_latents(latents)


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
        rows = np.stack([np.resize(one.reshape(-1), 512).astype(np.float32) for one in aligned])
        vectors: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return vectors
