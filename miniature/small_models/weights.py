"""Random weights for small models: signals keep their size through a network, and no output is constant."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TOKEN_STD = 0.0139
"""Standard deviation of the entries of CLIP-L's token embeddings."""
_POSITION_STD = 0.005
_NOT_QUITE_ZERO = 0.05


def fill(module: torch.nn.Module, seed: int, name: str) -> None:
    """Fill every parameter of ``module`` from its own random generator, seeded by ``seed`` and the parameter's name.

    The numbers depend on the kind of device that the module is on.
    """
    import torch

    with torch.no_grad():
        for key, parameter in module.named_parameters():
            generator = torch.Generator(parameter.device)
            generator.manual_seed(zlib.crc32(f"{seed}/{name}/{key}".encode()))
            mean, std = _mean_and_std(key, parameter)
            parameter.normal_(mean, std, generator=generator)
        for key, buffer in module.named_buffers():
            if key.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1], device=buffer.device).expand(buffer.shape))
            else:
                raise NotImplementedError(f"the buffer {key} has no rule")


def standardize_latents(vae: Any, seed: int) -> None:
    """Scale the encoder's last layer so that scaled latents of images have mean 0 and standard deviation 1 per channel.

    The VAE keeps its published scaling factor, because other tools assume it.
    """
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/pictures".encode()))
    with torch.no_grad():
        pictures = torch.zeros(8, 3, 64, 64)
        # Blobs of several sizes, as in photos
        for side, weight in ((2, 0.5), (8, 0.3), (32, 0.15)):
            noise = torch.randn(8, 3, side, side, generator=generator)
            pictures += weight * torch.nn.functional.interpolate(noise, size=(64, 64), mode="bilinear")
        means = vae.encode(pictures.clamp(-1, 1).to(vae.device, vae.dtype)).latent_dist.mean.float()
        channels = means.shape[1]
        spread = means.std(dim=(0, 2, 3)) * vae.config.scaling_factor
        layer = vae.quant_conv
        layer.bias[:channels] = (layer.bias[:channels] - means.mean(dim=(0, 2, 3))) / spread
        layer.weight[:channels] /= spread[:, None, None, None]
        # Log-variances near -6, as those of trained encoders
        layer.weight[channels:] *= 0.1
        layer.bias[channels:] -= 6


def _mean_and_std(key: str, parameter: torch.Tensor) -> tuple[float, float]:
    if key.endswith("token_embedding.weight"):
        return 0.0, TOKEN_STD
    if key.endswith("position_embedding.weight"):
        return 0.0, _POSITION_STD
    if parameter.ndim == 1:
        return float(key.endswith("weight")), _NOT_QUITE_ZERO  # weights of norms about one; biases about zero
    fan_in = parameter[0].numel()
    # Attention over 77 tokens averages. Without a gain the influence of the prompt would be lost.
    gain = 3.0 if "attn2.to_out" in key else 1.0
    return 0.0, gain * fan_in**-0.5
