"""Drawing in batches through the host's own interface: DDIM without added noise (Song et al. 2021), as the paper samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.evidence.world import EvidenceWorld
from celeb_basis.diffusion_model import PlaceholderTokens
from celeb_basis.faces.types import Pixels

BATCH = 16


@torch.no_grad()
def draw(world: EvidenceWorld, prompts: Sequence[str], words: PlaceholderTokens, seeds: Sequence[int]) -> list[Pixels]:
    """A picture of each prompt. A seed means the same noise for every contestant, whatever else is in the batch."""
    pictures: list[Pixels] = []
    for start in range(0, len(prompts), BATCH):
        latents = _sample(world, prompts[start : start + BATCH], words, seeds[start : start + BATCH])
        pictures += [np.asarray(picture) for picture in world.decode(latents)]
    return pictures


def _sample(
    world: EvidenceWorld, prompts: Sequence[str], words: PlaceholderTokens, seeds: Sequence[int]
) -> torch.Tensor:
    host = world.host
    told = host.encode_prompts(prompts, words)
    untold = host.encode_prompts([""] * len(prompts), {}) if world.guidance != 1 else None
    rates = host.schedule.alphas_cumprod.to(host.device)
    x = torch.stack([torch.randn(world.latent, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    x = x.to(host.device)
    spacing = host.schedule.timesteps // world.steps
    for number in reversed(range(world.steps)):
        now = number * spacing + 1
        times = torch.full((len(x),), now, device=host.device)
        output = host.predict(x, times, told)
        if untold is not None:
            plain = host.predict(x, times, untold)
            output = plain + world.guidance * (output - plain)
        rate, before = rates[now], rates[now - spacing] if number else rates[0]
        if host.schedule.prediction == "epsilon":
            noise = output
            clean = (x - (1 - rate).sqrt() * noise) / rate.sqrt()
        else:
            clean = rate.sqrt() * x - (1 - rate).sqrt() * output
            noise = rate.sqrt() * output + (1 - rate).sqrt() * x
        x = before.sqrt() * clean + (1 - before).sqrt() * noise
    return x
