"""Pictures into latents, one at a time, by whatever encoder a program has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def means_and_stds(
    pictures: torch.Tensor,
    encode: Callable[[torch.Tensor], torch.Tensor],
    encode_in_float32: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the unscaled latents of ``(N, 3, H, W)`` pictures, each ``(N, C, h, w)`` float32 on the CPU.

    Parameters: ``encode`` gives the encoder's output ``(1, 2 C, h, w)`` for one picture, in the precision that the program
    holds the VAE in. Where that overflows, as SDXL's first VAE does, ``encode_in_float32`` is asked.
    """
    import torch

    means, stds = [], []
    for picture in pictures:
        mean, std = _mean_and_std(encode(picture[None]))
        if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
            mean, std = _mean_and_std(encode_in_float32(picture[None]))
        means.append(mean)
        stds.append(std)
    return torch.cat(means).cpu(), torch.cat(stds).cpu()


def _mean_and_std(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_variance = output.float().chunk(2, dim=1)
    return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
