"""Pictures into latents, through the VAE that the user chose in reForge."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.base import LatentDistribution
from celeb_basis.hosts.devices import without_autocast
from celeb_basis.hosts.freezing import frozen, widened
from celeb_basis.hosts.reforge.model import denoising_part
from celeb_basis.hosts.reforge.shim import reforge_module
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
    vae = _vae_of(model)
    reforge_module("ldm_patched.modules.model_management").load_models_gpu([vae.patcher])
    module, factor = vae.first_stage_model, float(denoising_part(model).latent_format.scale_factor)
    with torch.no_grad(), frozen([module]), without_autocast(vae.device):
        means, stds = means_and_stds(pictures, partial(_encoded, module), partial(_encoded_in_float32, module))
    return LatentDistribution(means * factor, stds * factor)


def pixels_of_latent(model: Any) -> int:
    """Side in pixels of what one place of a latent stands for."""
    return int(_vae_of(model).downscale_ratio)


def send_vae_away(model: Any) -> None:
    """The VAE off the device, where that frees memory."""
    memory = reforge_module("ldm_patched.modules.model_management")
    if memory.cpu_mode():
        return
    patcher = _vae_of(model).patcher
    for loaded in [one for one in memory.current_loaded_models if one.model is patcher]:
        memory.current_loaded_models.remove(loaded)
        loaded.model_unload()
    memory.soft_empty_cache()


def _vae_of(model: Any) -> Any:
    """reForge's wrapper of the VAE."""
    return model.forge_objects_original.vae


def _encoded(module: Any, picture: torch.Tensor) -> torch.Tensor:
    weight = next(module.encoder.parameters())
    output: torch.Tensor = module.encoder(picture.to(weight.device, weight.dtype))
    last = getattr(module, "quant_conv", None)
    return output if last is None else last(output)


def _encoded_in_float32(module: Any, picture: torch.Tensor) -> torch.Tensor:
    import torch

    with widened([module], torch.float32):
        return _encoded(module, picture)
