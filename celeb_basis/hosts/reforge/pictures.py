"""Pictures into latents, through the VAE that the user chose in reForge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import LatentDistribution
from celeb_basis.hosts.freezing import frozen, widened
from celeb_basis.hosts.reforge.model import denoising_part
from celeb_basis.hosts.reforge.shim import reforge_module

if TYPE_CHECKING:
    import torch


def encode_pictures(model: Any, pictures: torch.Tensor) -> LatentDistribution:
    """Mean and standard deviation of the latents of ``(N, 3, H, W)`` pictures in [-1, 1], times the scaling factor.

    Raises: :class:`HostError` for no pictures or sides that the VAE cannot halve.
    """
    import torch

    pixel = pixels_of_latent(model)
    if pictures.ndim != 4 or pictures.shape[1] != 3 or any(side % pixel or not side for side in pictures.shape[2:]):
        raise HostError(
            f"Pictures of the shape {tuple(pictures.shape)} cannot be encoded: give (N, 3, S, S) with a side S that is a "
            f"multiple of {pixel}."
        )
    if not len(pictures):
        raise HostError("There are no pictures to encode: give at least one.")
    vae = _vae_of(model)
    reforge_module("ldm_patched.modules.model_management").load_models_gpu([vae.patcher])
    module, factor = vae.first_stage_model, float(denoising_part(model).latent_format.scale_factor)
    with torch.no_grad(), frozen([module]), torch.autocast(vae.device.type, enabled=False):
        both = [_encode_one(module, picture[None]) for picture in pictures]
    means, stds = (torch.cat(parts).cpu() * factor for parts in zip(*both, strict=True))
    return LatentDistribution(means, stds)


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


def _encode_one(module: Any, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Half precision where reForge holds the VAE so, but float32 where that overflows, as SDXL's first VAE does."""
    import torch

    mean, std = _moments(module, picture)
    if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
        with widened([module], torch.float32):
            mean, std = _moments(module, picture)
    return mean, std


def _moments(module: Any, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight = next(module.encoder.parameters())
    features = module.encoder(picture.to(weight.device, weight.dtype))
    if (last := getattr(module, "quant_conv", None)) is not None:
        features = last(features)
    mean, log_variance = features.float().chunk(2, dim=1)
    return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
