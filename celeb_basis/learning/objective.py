"""The host's own diffusion loss: mean squared error of the noise, or of the velocity where the model predicts that."""

from __future__ import annotations

import torch
from torch.nn import functional

from celeb_basis.hosts.base import Conditioning, Host, NoiseSchedule


def add_noise(
    schedule: NoiseSchedule, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps`` for ``(N, C, h, w)`` latents at ``(N,)`` timesteps."""
    signal, sigma = _rates(schedule, timesteps, clean)
    return signal * clean + sigma * noise


def prediction_target(
    schedule: NoiseSchedule, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What a perfect denoiser would give: ``eps``, or ``v = sqrt(a_t) eps - sqrt(1 - a_t) x_0``."""
    if schedule.prediction == "epsilon":
        return noise
    signal, sigma = _rates(schedule, timesteps, clean)
    return signal * noise - sigma * clean


def diffusion_loss(
    host: Host,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
) -> torch.Tensor:
    """Mean squared error over all elements, in the dtype of ``noise`` (float32 while learning).

    ``clean`` and ``noise`` are ``(N, C, h, w)`` on the host's device.
    """
    noisy = add_noise(host.schedule, clean, noise, timesteps)
    predicted = host.predict(noisy, timesteps, conditioning)
    target = prediction_target(host.schedule, clean, noise, timesteps)
    return functional.mse_loss(predicted.to(noise.dtype), target)


def _rates(schedule: NoiseSchedule, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rate = schedule.alphas_cumprod.to(like.device)[timesteps].to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
    return rate.sqrt(), (1.0 - rate).sqrt()
