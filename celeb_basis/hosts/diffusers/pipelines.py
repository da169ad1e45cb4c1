"""Pipelines of diffusers: which can be learned on, their families, their noise schedules and gradient checkpointing."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from celeb_basis.diffusion_model import NoiseSchedule
from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers.configs import Family
from celeb_basis.sampling import clean_prediction, output_for

_ADVICE = "use a text-to-image or inpainting checkpoint of Stable Diffusion 1.x, 2.x or XL"


def check_pipeline(pipeline: Any) -> None:
    """Check that a pipeline denoises plain latents conditioned on its prompt alone.

    Raises:
        HostError: It does not; the message names what the model is instead.
    """
    unet, vae = getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)
    if unet is None or vae is None or getattr(pipeline, "tokenizer", None) is None:
        raise HostError(f"{type(pipeline).__name__} has no UNet, VAE or text encoder of its own: {_ADVICE}.")
    if getattr(pipeline, "text_encoder", None) is None:
        raise HostError(f"The first text encoder is missing, as in SDXL's refiner: {_ADVICE}.")
    channels, latent = unet.config.in_channels, vae.config.latent_channels
    if channels != latent and not is_inpainting(pipeline):
        kind = {5: "a depth-to-image", 8: "an InstructPix2Pix"}.get(channels, "a special")
        raise HostError(f"This is {kind} model: its UNet takes {channels} channels instead of {latent}; {_ADVICE}.")
    config = unet.config
    if config.get("class_embed_type") or config.get("num_class_embeds") or config.get("time_cond_proj_dim"):
        raise HostError(f"The UNet needs more than a prompt (an upscaler, unCLIP or LCM model): {_ADVICE}.")
    if config.get("addition_embed_type") not in (None, "text_time") or config.get("encoder_hid_dim_type"):
        raise HostError(f"The UNet needs conditions that are not text: {_ADVICE}.")
    if pipeline.config.get("requires_aesthetics_score"):
        raise HostError(f"This is SDXL's refiner: {_ADVICE}.")
    if getattr(vae.config, "latents_mean", None) is not None or getattr(vae.config, "latents_std", None) is not None:
        raise HostError(f"The VAE normalizes its latents channel by channel, as Playground's does: {_ADVICE}.")


def is_inpainting(pipeline: Any) -> bool:
    """Whether the denoiser takes a mask and the latents of a masked image beside the noisy latents."""
    return bool(pipeline.unet.config.in_channels == 1 + 2 * pipeline.vae.config.latent_channels)


def family_of(pipeline: Any) -> Family:
    """The family of a pipeline: ``sdxl`` has two text encoders, ``sd2`` has OpenCLIP's, all others are ``sd1``."""
    if getattr(pipeline, "text_encoder_2", None) is not None:
        return "sdxl"
    width = pipeline.text_encoder.config.hidden_size
    if width == 768:
        return "sd1"
    # OpenAI's CLIP computes with quick_gelu, OpenCLIP with gelu. The prediction type does not help, because there are
    # SD1 checkpoints that predict velocity.
    return "sd2" if width == 1024 or pipeline.text_encoder.config.hidden_act == "gelu" else "sd1"


def noise_schedule(scheduler: Any) -> NoiseSchedule:
    """The forward process of a scheduler's config, including a zero terminal signal-to-noise ratio.

    Raises:
        HostError: The scheduler is not one of a diffusion model with discrete steps, or the prediction type is unknown.
    """
    import diffusers

    config = scheduler.config
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise HostError(f"The checkpoint predicts {prediction!r}, neither noise nor velocity: {_ADVICE}.")
    if "beta_start" not in config and config.get("trained_betas") is None:
        raise HostError(
            f"{type(scheduler).__name__} is not a schedule of a diffusion model with discrete steps: {_ADVICE}."
        )
    # DDPMScheduler is the only scheduler that supports every option of the forward process.
    process = diffusers.DDPMScheduler.from_config(_plain(config))
    return NoiseSchedule(process.alphas_cumprod.to("cpu", torch.float32).clone(), prediction)


def sampler(scheduler: Any) -> Any:
    """A DDIM scheduler over the same forward process."""
    import diffusers

    options: dict[str, Any] = {"clip_sample": False, "thresholding": False}
    if scheduler.config.get("rescale_betas_zero_snr"):
        options["timestep_spacing"] = "trailing"  # otherwise the step without any signal is left out
    return diffusers.DDIMScheduler.from_config(_plain(scheduler.config), **options)


def refine_steps(scheduler: Any, refine: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    """Have a DDIM scheduler of :func:`sampler` go on from changed predictions of the clean latents.

    Args:
        scheduler: The scheduler of one image; it is changed.
        refine: Gives the clean latents to go on with for those of a step and its number, from 0.
    """
    step, taken = scheduler.step, 0

    @functools.wraps(step)
    def refined(output: torch.Tensor, timestep: Any, latents: torch.Tensor, **more: Any) -> Any:
        nonlocal taken
        taken += 1
        signal = float(scheduler.alphas_cumprod[int(timestep)])
        alpha, sigma = math.sqrt(signal), math.sqrt(1.0 - signal)
        kind = scheduler.config.prediction_type
        if alpha > 0:  # the first step of a schedule that ends without signal predicts nothing
            clean = clean_prediction(output, latents, alpha, sigma, kind)
            if (changed := refine(clean, taken - 1)) is not clean:
                output = output_for(changed, clean, output, alpha, sigma, kind)
        return step(output, timestep, latents, **more)

    scheduler.step = refined


def _plain(config: Any) -> dict[str, Any]:
    """A config without the private keys of the class that saved it, about which diffusers would warn."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


@contextmanager
def gradient_checkpointing(model: Any, wanted: bool) -> Iterator[None]:
    """Enable or disable gradient checkpointing in every block of a diffusers model, and restore it on leaving."""
    keys = ("gradient_checkpointing", "_gradient_checkpointing_func")
    blocks = [part for part in model.modules() if hasattr(part, keys[0]) or hasattr(part, keys[1])]
    before = [{key: vars(part)[key] for key in keys if key in vars(part)} for part in blocks]
    try:
        if wanted:
            model.enable_gradient_checkpointing()
        elif model.is_gradient_checkpointing:
            model.disable_gradient_checkpointing()
        yield
    finally:
        for part, saved in zip(blocks, before, strict=True):
            for key in keys:
                vars(part).pop(key, None)
            vars(part).update(saved)
