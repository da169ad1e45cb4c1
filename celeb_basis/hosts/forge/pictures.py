"""Pictures into latents, through the VAE that the user chose in Forge."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.base import LatentDistribution
from celeb_basis.hosts.forge.precision import casting
from celeb_basis.hosts.forge.shim import backend_module
from celeb_basis.hosts.requests import check_pictures
from celeb_basis.hosts.webui_family.pictures import means_and_stds

if TYPE_CHECKING:
    import torch


def encode_pictures(model: Any, pictures: torch.Tensor) -> LatentDistribution:
    """Mean and standard deviation of the latents of ``(N, 3, H, W)`` pictures in [-1, 1], times the scaling factor.

    Raises: :class:`HostError` for no pictures or sides that the VAE cannot halve.
    """
    import torch

    check_pictures(pictures, pixels_of_latent(model))
    vae = vae_of(model)
    with torch.inference_mode():
        backend_module("memory_management").load_models_gpu([vae.patcher])
    with torch.no_grad():
        means, stds = means_and_stds(pictures, partial(_encoded, vae, vae.vae_dtype), partial(_encoded_in_float32, vae))
    module = vae.first_stage_model
    return LatentDistribution(module.process_in(means), stds * float(module.scaling_factor))


def vae_of(model: Any) -> Any:
    """Forge's wrapper of the VAE."""
    return model.forge_objects_original.vae


def pixels_of_latent(model: Any) -> int:
    """Side in pixels of what one place of a latent stands for."""
    return int(vae_of(model).downscale_ratio)


def send_vae_away(model: Any) -> None:
    """The VAE off the device, where that frees memory."""
    import torch

    memory = backend_module("memory_management")
    if memory.cpu_mode():
        return
    patcher = vae_of(model).patcher
    for loaded in [one for one in memory.current_loaded_models if one.model is patcher]:
        memory.current_loaded_models.remove(loaded)
        with torch.inference_mode():
            loaded.model_unload()
    memory.soft_empty_cache()


def _encoded(vae: Any, dtype: torch.dtype, picture: torch.Tensor) -> torch.Tensor:
    module = vae.first_stage_model
    output: torch.Tensor = module.encoder(picture.to(vae.device, dtype))
    return output if module.quant_conv is None else module.quant_conv(output)


def _encoded_in_float32(vae: Any, picture: torch.Tensor) -> torch.Tensor:
    import torch

    with casting(vae.first_stage_model, torch.float32):
        return _encoded(vae, torch.float32, picture)
