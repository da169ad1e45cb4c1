"""Pictures into latents, through the VAE that the user chose in Forge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import LatentDistribution
from celeb_basis.hosts.forge.precision import casting
from celeb_basis.hosts.forge.shim import backend_module

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
    vae = vae_of(model)
    with torch.inference_mode():
        backend_module("memory_management").load_models_gpu([vae.patcher])
    with torch.no_grad():
        both = [_encode_one(vae, picture[None]) for picture in pictures]
    means, stds = (torch.cat(parts).cpu() for parts in zip(*both, strict=True))
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


def _encode_one(vae: Any, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In the precision that Forge holds the VAE in, but float32 where that overflows, as SDXL's first VAE does."""
    import torch

    mean, std = _moments(vae, picture, vae.vae_dtype)
    if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
        with casting(vae.first_stage_model, torch.float32):
            mean, std = _moments(vae, picture, torch.float32)
    return mean, std


def _moments(vae: Any, picture: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    module = vae.first_stage_model
    features = module.encoder(picture.to(vae.device, dtype))
    if module.quant_conv is not None:
        features = module.quant_conv(features)
    mean, log_variance = features.float().chunk(2, dim=1)
    return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
