"""Pictures into latents, through the VAE that the user chose in the host."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.base import LatentDistribution
from celeb_basis.hosts.devices import without_autocast
from celeb_basis.hosts.freezing import frozen, widened
from celeb_basis.hosts.requests import check_pictures
from celeb_basis.hosts.webui.shim import host_module
from celeb_basis.hosts.webui_family.pictures import means_and_stds

if TYPE_CHECKING:
    import torch


def encode_pictures(model: Any, pictures: torch.Tensor) -> LatentDistribution:
    """Mean and standard deviation of the latents of ``(N, 3, H, W)`` pictures in [-1, 1], times the scaling factor.

    Raises: :class:`HostError` for no pictures or sides that the VAE cannot halve.
    """
    import torch

    check_pictures(pictures, pixels_of_latent(model))
    vae = bring_vae(model)
    factor = float(model.scale_factor)
    with torch.no_grad(), frozen([vae]), without_autocast(host_module("devices").device):
        means, stds = means_and_stds(pictures, partial(_encoded, vae), partial(_encoded_in_float32, vae))
    return LatentDistribution(means * factor, stds * factor)


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


def bring_vae_for_drawing(model: Any) -> None:
    """The VAE to the device, unless ``--medvram`` does that itself: otherwise the host takes for granted that it is there."""
    if not getattr(model, "lowvram", False):
        bring_vae(model)


def send_vae_away(model: Any) -> None:
    """The VAE to the CPU, where that frees memory on the device."""
    lowvram, devices = host_module("lowvram"), host_module("devices")
    if devices.device.type == "cpu":
        return
    if lowvram.module_in_gpu is model.first_stage_model:
        lowvram.module_in_gpu = None
    model.first_stage_model.to(devices.cpu)
    devices.torch_gc()


def _encoded(vae: Any, picture: torch.Tensor) -> torch.Tensor:
    """``encode`` of SDXL's VAE would draw a sample; here both kinds are asked for the distribution itself."""
    weight = vae.quant_conv.weight
    output: torch.Tensor = vae.quant_conv(vae.encoder(picture.to(weight.device, weight.dtype)))
    return output


def _encoded_in_float32(vae: Any, picture: torch.Tensor) -> torch.Tensor:
    import torch

    with widened([vae], torch.float32):
        return _encoded(vae, picture)
