"""A diffusion model small enough for thousands of steps per minute: plain torch, with every method of the interface."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from celeb_basis.diffusion_model import (
    GenerationRequest,
    LatentDistribution,
    MemoryStats,
    ModelInfo,
    NoiseSchedule,
    PlaceholderTokens,
    Precision,
    Prediction,
    TensorCall,
)

VOCABULARY = 4000


def tokenize(text: str) -> list[int]:
    """One token a word, by a hash: the same word has the same token everywhere."""
    return [
        int.from_bytes(hashlib.md5(word.encode()).digest()[:4], "big") % VOCABULARY for word in text.lower().split()
    ]


class ToyTextEncoder:
    def __init__(self, name: str, width: int, seed: int, scale: float = 0.05) -> None:
        self.name = name
        self.width = width
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(VOCABULARY, width, generator=generator) * scale
        self.mix = torch.randn(width, width, generator=generator) / width**0.5

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [tokenize(text) for text in texts]

    def token_table(self) -> torch.Tensor:
        return self.table

    def weights(self) -> Iterator[torch.Tensor]:
        yield from (self.table, self.mix)

    def encode(self, prompt: str, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """``(length, width)``: each position mixed with the mean of the whole prompt, with the tokens' vectors inserted."""
        rows = []
        for part in prompt.replace(",", " ").split() or ["nothing"]:
            dtype = next(iter(tokens.values())).dtype if tokens else self.table.dtype
            rows.append(tokens[part] if part in tokens else self.table[tokenize(part)].to(dtype))
        sequence = torch.cat(rows)
        return torch.tanh(sequence @ self.mix.to(sequence.dtype) + sequence.mean(dim=0)) + sequence


class ToyDenoiser(nn.Module):
    """A convolution whose channels are scaled by the conditioning and the timestep."""

    def __init__(self, width: int, channels: int = 4, hidden: int = 16) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, hidden, 3, padding=1)
        self.context = nn.Linear(width, hidden)
        self.time = nn.Linear(1, hidden)
        self.leave = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        time = self.time(timesteps[:, None].to(context.dtype) / 1000)
        hidden = self.enter(latents) * (1 + self.context(context) + time)[:, :, None, None]
        return self.leave(torch.nn.functional.silu(hidden))


class ToyModel:
    """Implements ``DiffusionModel``; ``poison_at`` makes the prediction NaN from that call on."""

    def __init__(
        self,
        widths: Sequence[int] = (32,),
        prediction: Prediction = "epsilon",
        seed: int = 0,
        poison_at: int | None = None,
    ) -> None:
        torch.manual_seed(seed)
        names = ("clip_l", "clip_g")
        self.text_encoders = [ToyTextEncoder(names[i], width, seed + i) for i, width in enumerate(widths)]
        self.denoiser = ToyDenoiser(sum(widths))
        self.info = ModelInfo(
            "toy",
            "sd1" if len(widths) == 1 else "sdxl",
            hashlib.sha256(f"toy {seed} {widths}".encode()).hexdigest(),
            64,
            8,
        )
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.schedule = NoiseSchedule(torch.cumprod(1 - betas, 0).float(), prediction)
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.poison_at = poison_at
        self.calls = 0
        self.training_depth = 0

    def memory(self) -> MemoryStats:
        return MemoryStats((), 8, 0, 0, False, None)

    @contextlib.contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        del precision, checkpointing
        flags = [p.requires_grad for p in self.denoiser.parameters()]
        self.denoiser.requires_grad_(False)
        self.training_depth += 1
        try:
            yield
        finally:
            self.training_depth -= 1
            for parameter, flag in zip(self.denoiser.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)

    def encode_images(self, pictures: torch.Tensor) -> LatentDistribution:
        small = torch.nn.functional.adaptive_avg_pool2d(pictures, pictures.shape[-1] // 8)
        mean = torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)
        return LatentDistribution(mean, torch.full_like(mean, 0.05))

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(latents[:, :3].float(), scale_factor=8)

    def encode_one_by_one(self, pictures: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        for picture in pictures:
            yield self.encode_images(picture)

    def release_vae(self) -> None:
        return None

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> torch.Tensor:
        rows = []
        for prompt in prompts:
            parts = [
                encoder.encode(prompt, {word: vectors[i] for word, vectors in placeholder_tokens.items()}).mean(dim=0)
                for i, encoder in enumerate(self.text_encoders)
            ]
            rows.append(torch.cat(parts))
        return torch.stack(rows)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        result: torch.Tensor = self.denoiser(latents, timesteps, conditioning)
        if self.poison_at is not None and self.calls >= self.poison_at:
            return result * float("nan")
        return result

    def denoiser_call(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: torch.Tensor
    ) -> TensorCall | None:
        del latents, timesteps, conditioning
        return None

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        for index in range(request.count):
            random = np.random.default_rng(request.seed + index)
            yield Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
