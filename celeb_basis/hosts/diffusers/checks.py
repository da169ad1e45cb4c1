"""What a pipeline is, whether it can be used, and its noise schedule."""

from __future__ import annotations

from typing import Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import NoiseSchedule
from celeb_basis.hosts.diffusers.configs import Family

_ADVICE = "use a plain text-to-image checkpoint of Stable Diffusion 1.x, 2.x or XL"


def check_pipeline(pipeline: Any) -> None:
    """Raise :class:`HostError` unless ``pipeline`` denoises plain latents by its prompt alone."""
    unet, vae = getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)
    if unet is None or vae is None or getattr(pipeline, "tokenizer", None) is None:
        raise HostError(f"{type(pipeline).__name__} has no UNet, VAE or text encoder of its own: {_ADVICE}.")
    if getattr(pipeline, "text_encoder", None) is None:
        raise HostError(f"The first text encoder is missing, as in SDXL's refiner: {_ADVICE}.")
    channels, latent = unet.config.in_channels, vae.config.latent_channels
    if channels != latent:
        kind = {9: "an inpainting", 5: "a depth-to-image", 8: "an InstructPix2Pix"}.get(channels, "a special")
        raise HostError(f"This is {kind} model: its UNet takes {channels} channels instead of {latent}; {_ADVICE}.")
    config = unet.config
    if config.get("class_embed_type") or config.get("num_class_embeds") or config.get("time_cond_proj_dim"):
        raise HostError(f"The UNet wants more than a prompt (an upscaler, unCLIP or LCM model): {_ADVICE}.")
    if config.get("addition_embed_type") not in (None, "text_time") or config.get("encoder_hid_dim_type"):
        raise HostError(f"The UNet wants conditions that are not text: {_ADVICE}.")
    if pipeline.config.get("requires_aesthetics_score"):
        raise HostError(f"This is SDXL's refiner: {_ADVICE}.")
    if getattr(vae.config, "latents_mean", None) is not None or getattr(vae.config, "latents_std", None) is not None:
        raise HostError(f"The VAE normalises its latents channel by channel, as Playground's does: {_ADVICE}.")


def family_of(pipeline: Any) -> Family:
    """``sdxl`` has two text encoders; ``sd2`` one of width 1024, or a smaller one of OpenCLIP's kind; else ``sd1``."""
    if getattr(pipeline, "text_encoder_2", None) is not None:
        return "sdxl"
    width = pipeline.text_encoder.config.hidden_size
    if width == 768:
        return "sd1"
    # OpenAI's CLIP computes with quick_gelu, OpenCLIP's with gelu. What is predicted says nothing: SD1 predicts velocity too.
    return "sd2" if width == 1024 or pipeline.text_encoder.config.hidden_act == "gelu" else "sd1"


def noise_schedule(scheduler: Any) -> NoiseSchedule:
    """The forward process of a scheduler's config, zero terminal signal-to-noise ratio included."""
    import diffusers
    import torch

    config = scheduler.config
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise HostError(f"The checkpoint predicts {prediction!r}, neither noise nor velocity: {_ADVICE}.")
    if "beta_start" not in config and config.get("trained_betas") is None:
        raise HostError(
            f"{type(scheduler).__name__} is no schedule of a diffusion model with discrete steps: {_ADVICE}."
        )
    # DDPM's is the one scheduler that knows every option of the forward process.
    process = diffusers.DDPMScheduler.from_config(_plain(config))
    return NoiseSchedule(process.alphas_cumprod.to("cpu", torch.float32).clone(), prediction)


def sampler(scheduler: Any) -> Any:
    """DDIM over the same forward process."""
    import diffusers

    options: dict[str, Any] = {"clip_sample": False, "thresholding": False}
    if scheduler.config.get("rescale_betas_zero_snr"):
        options["timestep_spacing"] = "trailing"  # else the step without any signal would be left out
    return diffusers.DDIMScheduler.from_config(_plain(scheduler.config), **options)


def _plain(config: Any) -> dict[str, Any]:
    """A config without the marks of the class that it was saved from, which diffusers would warn of."""
    return {key: value for key, value in config.items() if not key.startswith("_")}
