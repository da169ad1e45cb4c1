"""The third way of inventing people: CharacterFactory's small GAN over the names' token vectors (TIP 2025), by its paper.

It needs the text encoder with gradients, which this program asks of no host: so it is here, to be compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.evidence.testbed import EvidenceTestbed
from celeb_basis.method import Basis

NOISE, STEPS, BATCH, RATE = 64, 3_000, 8, 5e-5
CONSISTENCY, REAL_NOISE = 8.0, 0.005
_SLOWER = 0.1
"""Multiplier of the learning rate of the generator's layers."""

_TOKEN = "<person>"

TEMPLATES = (
    "a photo of {}",
    "a pencil sketch of {}",
    "an oil painting of {}",
    "a sepia photo of {}",
    "a photo of {} on a beach",
    "a photo of {} in a forest",
    "a photo of {} wearing a hat",
    "{} on a plain blue background",
)


class _SlowLinear(nn.Module):
    """A layer whose weights are scaled, so that they learn slower by a factor."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / _SLOWER)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._scale = _SLOWER / inputs**0.5

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return functional.linear(values, self.weight * self._scale, self.bias * _SLOWER)


class Generator(nn.Module):
    """From noise ``(B, NOISE)`` to token vectors ``(B, E, D)`` with the celebrities' mean and deviation."""

    def __init__(self, real: torch.Tensor) -> None:
        super().__init__()
        self._shape = real.shape[1:]
        flat = real.reshape(len(real), -1)
        self.layers = nn.Sequential(
            _SlowLinear(NOISE, flat.shape[1]), nn.LeakyReLU(0.2), _SlowLinear(flat.shape[1], flat.shape[1])
        )
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("deviation", flat.std(0))

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        """Token vectors of noise."""
        values = functional.layer_norm(self.layers(noise), self.mean.shape)
        return (values * self.deviation + self.mean).reshape(len(noise), *self._shape)


def generated_vectors(testbed: EvidenceTestbed, basis: Basis, count: int, *, steps: int = STEPS) -> list[torch.Tensor]:
    """Train the GAN on the text encoder alone, and generate people.

    Args:
        testbed: Whose first text encoder and names are used.
        basis: The names' basis in that encoder.
        count: People.
        steps: Of the training.

    Returns:
        ``(E, D)`` token vectors of each person.
    """
    torch.manual_seed(0)
    real = basis.expand(basis.name_coefficients).float()
    generator = Generator(real)
    width = real.shape[1] * real.shape[2]
    discriminator = nn.Sequential(
        *(nn.Linear(width, 512), nn.LeakyReLU(0.2), nn.Dropout(0.2)),
        *(nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(256, 1)),
    )
    with testbed.model.prepare_for_training("fp32"):  # else every step has gradients of the whole token table
        _train(testbed, generator, discriminator, real, steps)
    with torch.no_grad():
        noise = torch.randn(count, NOISE, generator=torch.Generator().manual_seed(1))
        return list(generator(noise))


def _train(
    testbed: EvidenceTestbed, generator: Generator, discriminator: nn.Module, real: torch.Tensor, steps: int
) -> None:
    optimizers = [torch.optim.AdamW(module.parameters(), RATE) for module in (generator, discriminator)]
    encoder: Any = testbed.model.text_encoders[0]
    chunks = _chunks(encoder, real[0])
    for step in range(steps):
        fake = generator(torch.randn(BATCH, NOISE))
        chosen = real[torch.randint(len(real), (BATCH,))]
        noisy = chosen + REAL_NOISE * torch.rand_like(chosen)
        judged = [discriminator(rows.reshape(BATCH, -1)) for rows in (noisy, fake.detach())]
        loss = _binary(judged[0], 1.0) + _binary(judged[1], 0.0)
        optimizers[1].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers[1].step()
        fooled = _binary(discriminator(fake.reshape(BATCH, -1)), 1.0)
        consistent = _consistency(encoder, chunks, fake[0])
        optimizers[0].zero_grad()
        (fooled + CONSISTENCY * consistent).backward()  # type: ignore[no-untyped-call]
        optimizers[0].step()
        losses = ", ".join(f"{float(one.detach()):.3f}" for one in (loss, fooled, consistent))
        testbed.report.step(f"GAN ({losses})", step + 1, steps)


def _binary(logits: torch.Tensor, target: float) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _chunks(encoder: Any, vectors: torch.Tensor) -> list[Any]:
    """The templates' tokens up to the person's: the encoder is causal, so that what follows changes nothing there."""
    chunks = [encoder.chunks(text.format(_TOKEN), {_TOKEN: [vectors]}, 0)[0] for text in TEMPLATES]
    length = max(place for chunk in chunks for place, _, _ in chunk.positions) + 1
    return [replace(chunk, ids=chunk.ids[:length]) for chunk in chunks]


def _consistency(encoder: Any, chunks: list[Any], vectors: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the text encoder's outputs at a person's positions over the templates."""
    states, _ = encoder._encoded(chunks, {_TOKEN: vectors}, False)
    places = [[place for place, _, _ in chunk.positions] for chunk in chunks]
    rows = torch.stack([state[at] for state, at in zip(states, places, strict=True)])
    distance: torch.Tensor = (rows[:, None] - rows[None]).pow(2).mean()
    return distance
