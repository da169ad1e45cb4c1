"""What checkpoint reForge has loaded, whether it can be learned through, and its noise schedule."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import LatentDistribution, NoiseSchedule, Prediction, check_images
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import means_and_stds
from celeb_basis.hosts.a1111.model import Family, checkpoint_name, own_resolution, text_embedders
from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.hosts.reforge.modules import reforge_module
from celeb_basis.hosts.torch_utils import frozen, torch_attention_keeps_scores, upcast, without_autocast

if TYPE_CHECKING:
    import torch


_ADVICE = "choose a plain text-to-image checkpoint of Stable Diffusion 1.x, 2.x or XL"
_NOT_PLAIN = {9: "an inpainting checkpoint", 5: "a depth checkpoint", 8: "an InstructPix2Pix checkpoint"}
_GRADIENTS = ("attention_basic", "attention_split", "attention_sub_quad", "attention_xformers", "attention_pytorch")
"""Ways of computing attention that a gradient passes; Sage's and flash attention's are made for drawing alone."""


def check_model(model: Any) -> None:
    """Raise :class:`HostError` unless the model denoises plain latents by its prompt alone."""
    name = checkpoint_name(model)
    if getattr(model, "is_sd3", False) or not hasattr(model, "get_learned_conditioning"):
        raise HostError(f"{name} is no checkpoint of Stable Diffusion 1, 2 or XL: {_ADVICE}.")
    part = denoising_part(model)
    inputs, latent = part.model_config.unet_config["in_channels"], part.latent_format.latent_channels
    if inputs != latent:
        kind = _NOT_PLAIN.get(inputs, "a special checkpoint")
        raise HostError(f"{name} is {kind}, which wants more than a prompt: {_ADVICE}.")
    embedders = text_embedders(model)
    if model.is_sdxl and len(embedders) != 2:
        raise HostError(f"{name} has one of SDXL's two text encoders only, as its refiner does: {_ADVICE}.")
    if not model.is_sdxl and unet_of(model).num_classes is not None:
        raise HostError(f"{name} is an unCLIP checkpoint, which wants a picture as well: {_ADVICE}.")
    _prediction(model)


def family_of(model: Any) -> Family:
    """By the text encoders: reForge itself calls every SD2 an SD1."""
    if model.is_sdxl:
        return "sdxl"
    return "sd2" if hasattr(model.forge_objects_original.clip.cond_stage_model, "clip_h") else "sd1"


def resolution_of(model: Any) -> int:
    """Side in pixels of the checkpoint's own square pictures: what the ``.yaml`` beside it says, else the family's."""
    config = Path(str(model.sd_checkpoint_info.filename)).with_suffix(".yaml")
    return own_resolution(config, family_of(model), lambda: _prediction(model) == "v_prediction")


def denoising_part(model: Any) -> Any:
    """ReForge's wrapper of the denoiser, as the checkpoint has it: without the LoRAs and patches of the last prompt."""
    return model.forge_objects_original.unet.model


def unet_of(model: Any) -> Any:
    return denoising_part(model).diffusion_model


def weights_dtype(model: Any) -> torch.dtype:
    """What the denoiser computes in: what its weights are held in, unless reForge casts them as it goes."""
    casting: torch.dtype | None = denoising_part(model).manual_cast_dtype
    dtype: torch.dtype = next(unet_of(model).parameters()).dtype
    return dtype if casting is None else casting


def noise_schedule(model: Any) -> NoiseSchedule:
    """The schedule reForge would draw with: the checkpoint's own, or with zero terminal SNR where it or the user says so."""
    import torch

    sigmas = denoising_part(model).model_sampling.sigmas.detach().to("cpu", torch.float64)
    alphas = (1.0 / (1.0 + sigmas**2)).to(torch.float32)
    if host_module("shared").opts.sd_noise_schedule == "Zero Terminal SNR" or getattr(model, "ztsnr", False):
        alphas = host_module("sd_models").rescale_zero_terminal_snr_abar(alphas)
    return NoiseSchedule(alphas, _prediction(model))


def keeps_scores(device: torch.device) -> bool:
    """Whether the attention that reForge chose keeps its scores for the backward pass."""
    attention = reforge_module("ldm_patched.ldm.modules.attention").optimized_attention.__name__
    return attention != "attention_xformers" and (
        attention != "attention_pytorch" or torch_attention_keeps_scores(device)
    )


def attention_has_gradients() -> bool:
    """Whether a gradient passes the attention that reForge chose."""
    return reforge_module("ldm_patched.ldm.modules.attention").optimized_attention.__name__ in _GRADIENTS


def _prediction(model: Any) -> Prediction:
    """By the classes that reForge puts together for the checkpoint."""
    kinds = [kind.__name__ for kind in type(denoising_part(model).model_sampling).__mro__]
    discrete = "ModelSamplingDiscrete" in kinds and not any(
        other in kinds for other in ("ModelSamplingDiscreteFlow", "ModelSamplingDiscreteEDM", "StableCascadeSampling")
    )
    if not discrete or not {"EPS", "V_PREDICTION"} & set(kinds) or {"EDM", "X0"} & set(kinds):
        raise HostError(f"{checkpoint_name(model)} predicts neither noise nor velocity: {_ADVICE}.")
    return "v_prediction" if "V_PREDICTION" in kinds else "epsilon"


# FOLDED: Pictures into latents, through the VAE that the user chose in reForge.


def encode_images(model: Any, pictures: torch.Tensor) -> LatentDistribution:
    """Mean and standard deviation of the latents of ``(N, 3, H, W)`` pictures in [-1, 1], times the scaling factor.

    Raises: :class:`HostError` for no pictures or sides that the VAE cannot halve.
    """
    import torch

    check_images(pictures, vae_scale_factor_of(model))
    vae = _vae_of(model)
    reforge_module("ldm_patched.modules.model_management").load_models_gpu([vae.patcher])
    module, factor = vae.first_stage_model, float(denoising_part(model).latent_format.scale_factor)
    with torch.no_grad(), frozen([module]), without_autocast(vae.device):
        means, stds = means_and_stds(pictures, partial(_encoded, module), partial(_encoded_in_float32, module))
    return LatentDistribution(means * factor, stds * factor)


def vae_scale_factor_of(model: Any) -> int:
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
    """ReForge's wrapper of the VAE."""
    return model.forge_objects_original.vae


def _encoded(module: Any, picture: torch.Tensor) -> torch.Tensor:
    weight = next(module.encoder.parameters())
    output: torch.Tensor = module.encoder(picture.to(weight.device, weight.dtype))
    last = getattr(module, "quant_conv", None)
    return output if last is None else last(output)


def _encoded_in_float32(module: Any, picture: torch.Tensor) -> torch.Tensor:
    import torch

    with upcast([module], torch.float32):
        return _encoded(module, picture)
