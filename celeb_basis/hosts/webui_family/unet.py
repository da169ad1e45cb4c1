"""The denoiser as the forks with a Stable Diffusion of their own call it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def through_unet(
    unet: Any,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    crossattn: torch.Tensor,
    vector: torch.Tensor | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``unet``'s output in float32, computed in ``dtype``; ``vector`` is SDXL's."""
    output: torch.Tensor = unet(
        latents.to(device, dtype),
        timesteps.to(device).float(),
        context=crossattn.to(device, dtype),
        transformer_options={},
        **({} if vector is None else {"y": vector.to(device, dtype)}),
    )
    return output.float()
