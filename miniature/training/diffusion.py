"""Stable Diffusion's noise schedule and sampling, for v-prediction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from celeb_basis.hosts.diffusers.configs import Config, component_configs

TIMESTEPS = 1000

SCHEDULER: Config = {**component_configs("sd1")["scheduler"], "prediction_type": "v_prediction"}

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Noisy latents, timesteps ``(N,)`` and conditioning to the predicted velocity."""


def alphas_bar() -> Tensor:
    """``(1000,)`` products of the schedule's alphas."""
    start, end = float(SCHEDULER["beta_start"]), float(SCHEDULER["beta_end"])
    betas = torch.linspace(start**0.5, end**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def noised(latents: Tensor, noise: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents and the velocity to predict, at ``share`` (alpha-bar) of each latent."""
    signal, sigma = share.sqrt()[:, None, None, None], (1 - share).sqrt()[:, None, None, None]
    return signal * latents + sigma * noise, signal * noise - sigma * latents


@torch.no_grad()
def sample(
    denoise: Denoiser, conditioning: Tensor, empty: Tensor, noise: Tensor, *, steps: int = 20, guidance: float = 3.0
) -> Tensor:
    """Generate latents ``(N, 4, H, W)`` from pure noise with deterministic DDIM.

    Args:
        denoise: Predicts the velocity from noisy latents, timesteps and conditioning.
        conditioning: ``(N, L, D)``.
        empty: ``(1, L, D)``: that of the empty prompt.
        noise: The first latents.
        steps: Number of steps.
        guidance: Classifier-free guidance.
    """
    bars = alphas_bar().to(noise.device)
    spacing = TIMESTEPS // steps
    both = torch.cat([conditioning, empty.expand_as(conditioning)])
    x = noise
    for number in reversed(range(steps)):
        t = number * spacing + 1
        share, before = bars[t], bars[t - spacing] if number else bars[0]
        times = torch.full((2 * len(x),), t, device=x.device)
        conditional, unconditional = denoise(torch.cat([x, x]), times, both).chunk(2)
        velocity = unconditional + guidance * (conditional - unconditional)
        clean = share.sqrt() * x - (1 - share).sqrt() * velocity
        left = share.sqrt() * velocity + (1 - share).sqrt() * x
        x = before.sqrt() * clean + (1 - before).sqrt() * left
    return x
