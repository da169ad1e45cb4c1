"""Pictures into latents, through the VAE that the user chose in the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import LatentDistribution
from celeb_basis.hosts.freezing import frozen, widened
from celeb_basis.hosts.webui.shim import host_module

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
    vae = bring_vae(model)
    factor = float(model.scale_factor)
    with torch.no_grad(), frozen([vae]), torch.autocast(host_module("devices").device.type, enabled=False):
        both = [_encode_one(vae, picture[None]) for picture in pictures]
    means, stds = (torch.cat(parts).cpu() * factor for parts in zip(*both, strict=True))
    return LatentDistribution(means, stds)


def pixels_of_latent(model: Any) -> int:
    """Side in pixels of what one place of a latent stands for."""
    return int(2 ** (model.first_stage_model.encoder.num_resolutions - 1))


def bring_vae(model: Any) -> Any:
    """The VAE on the device. Under ``--medvram`` it takes the place of what is there, as in the host."""
    lowvram, devices = host_module("lowvram"), host_module("devices")
    vae = model.first_stage_model
    if getattr(model, "lowvram", False) and lowvram.module_in_gpu is not vae:
        lowvram.send_everything_to_cpu()
        lowvram.module_in_gpu = vae
    vae.to(devices.device)
    return vae


def send_vae_away(model: Any) -> None:
    """The VAE to the CPU, where that frees memory on the device."""
    lowvram, devices = host_module("lowvram"), host_module("devices")
    if devices.device.type == "cpu":
        return
    if lowvram.module_in_gpu is model.first_stage_model:
        lowvram.module_in_gpu = None
    model.first_stage_model.to(devices.cpu)
    devices.torch_gc()


def _encode_one(vae: Any, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Half precision where the host holds the VAE so, but float32 where that overflows, as SDXL's first VAE does."""
    import torch

    mean, std = _moments(vae, picture)
    if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
        with widened([vae], torch.float32):
            mean, std = _moments(vae, picture)
    return mean, std


def _moments(vae: Any, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``encode`` of SDXL's VAE would draw a sample; here both kinds are asked for the distribution itself."""
    weight = vae.quant_conv.weight
    mean, log_variance = vae.quant_conv(vae.encoder(picture.to(weight.device, weight.dtype))).float().chunk(2, dim=1)
    return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
