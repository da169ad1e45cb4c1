"""What checkpoint Forge has loaded, whether it can be learned through, and its noise schedule."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import NoiseSchedule
from celeb_basis.hosts.devices import torch_attention_keeps_scores
from celeb_basis.hosts.forge.shim import backend_module
from celeb_basis.hosts.forge.weights import ordinary
from celeb_basis.hosts.webui.model import Family, checkpoint_name, own_resolution
from celeb_basis.hosts.webui.shim import host_module

if TYPE_CHECKING:
    import torch

_ADVICE = "choose a plain text-to-image checkpoint of Stable Diffusion 1.x, 2.x or XL"


def loaded_model_or_none() -> Any | None:
    """Forge's model as it is now; ``None`` before the first one is loaded. Never keep it."""
    model = host_module("sd_models").model_data.sd_model
    return model if getattr(model, "sd_checkpoint_info", None) is not None else None


def loaded_model() -> Any:
    """Forge's model as it is now. Never keep it.

    Raises: :class:`HostError` if no checkpoint is loaded.
    """
    model = loaded_model_or_none()
    if model is None:
        raise HostError("Forge has no checkpoint loaded: choose one at the top of its page, and try again.")
    return model


def load_chosen() -> None:
    """Load the checkpoint that is chosen at the top of the page, as Forge itself does before it draws, and not earlier.

    Raises: :class:`HostError` if it cannot be loaded.
    """
    models = host_module("sd_models")
    try:
        if not models.model_data.forge_loading_parameters:  # without a page, Forge has looked for none yet
            importlib.import_module("modules_forge.main_entry").refresh_model_loading_parameters()
        models.forge_model_reload()
    except Exception as error:  # whatever its loader meets in a file
        chosen = models.model_data.forge_loading_parameters.get("checkpoint_info")
        name = getattr(chosen, "name_for_extra", None) or "a checkpoint"
        raise HostError(f"Forge cannot load {name} ({error}): choose another checkpoint.") from error


def check_model(model: Any) -> None:
    """Raise :class:`HostError` unless the model denoises plain latents by its prompt alone."""
    name = checkpoint_name(model)
    if not (model.is_sd1 or model.is_sd2 or model.is_sdxl):
        raise HostError(f"{name} is none of Stable Diffusion 1.x, 2.x or XL: {_ADVICE}.")
    engines = text_engines(model)
    if model.is_sdxl and len(engines) != 2:
        raise HostError(f"{name} has one of SDXL's two text encoders only, as its refiner does: {_ADVICE}.")
    unet = unet_of(model)
    if unet.in_channels != model.forge_objects_original.vae.latent_channels:
        raise HostError(f"{name} is an inpainting or another special checkpoint: {_ADVICE}.")
    if isinstance(unet.storage_dtype, str):
        raise HostError(
            f'{name} is held in {unet.storage_dtype}, which lets no gradients through: set "Diffusion in Low Bits" at '
            "the top of Forge's page to Automatic, and use a file that is not quantized."
        )
    if getattr(predictor_of(model), "alphas_cumprod", None) is None or _prediction(model) is None:
        raise HostError(f"{name} has a noise schedule of another kind than Stable Diffusion's: {_ADVICE}.")


def family_of(model: Any) -> Family:
    """Forge's own finding."""
    if model.is_sdxl:
        return "sdxl"
    return "sd2" if model.is_sd2 else "sd1"


def resolution_of(model: Any) -> int:
    """Side in pixels of the checkpoint's own square pictures: what the ``.yaml`` beside it says for us, else the family's."""
    config = Path(str(model.sd_checkpoint_info.filename)).with_suffix(".yaml")
    return own_resolution(config, family_of(model), lambda: _prediction(model) == "v_prediction")


def unet_of(model: Any) -> Any:
    return model.forge_objects_original.unet.model.diffusion_model


def predictor_of(model: Any) -> Any:
    """What turns Forge's noise levels into timesteps and back."""
    return model.forge_objects_original.unet.model.predictor


def text_part(model: Any) -> Any:
    """The module that holds all text encoders."""
    return model.forge_objects_original.clip.cond_stage_model


def text_engines(model: Any) -> list[Any]:
    """What turns prompts into conditioning: one of CLIP's engines, or (SDXL) two; none for models without CLIP."""
    kind = backend_module("text_processing.classic_engine").ClassicTextProcessingEngine
    names = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g")
    return [engine for name in names if isinstance(engine := getattr(model, name, None), kind)]


def token_embedding(engine: Any) -> Any:
    """Forge's wrapper around a text encoder's token table."""
    return engine.text_encoder.transformer.text_model.embeddings.token_embedding


def noise_schedule(model: Any) -> NoiseSchedule:
    """The schedule that Forge would draw with: the checkpoint's own, or with zero terminal SNR where that is set."""
    import torch

    alphas = ordinary(predictor_of(model).alphas_cumprod.detach()).to("cpu", torch.float32).clone()
    if host_module("shared").opts.sd_noise_schedule == "Zero Terminal SNR" or getattr(
        model.model_config, "ztsnr", False
    ):
        sigmas = ((1 - alphas) / alphas) ** 0.5
        sigmas = backend_module("modules.k_prediction").rescale_zero_terminal_snr_sigmas(sigmas)
        alphas = 1 / (sigmas**2 + 1)
    return NoiseSchedule(alphas, "v_prediction" if _prediction(model) == "v_prediction" else "epsilon")


def keeps_scores(device: torch.device) -> bool:
    """Whether the attention that Forge chose keeps its scores for the backward pass."""
    attention = backend_module("attention")
    chosen = getattr(attention.attention_function, "__name__", "")
    return chosen != "attention_xformers" and (chosen != "attention_pytorch" or torch_attention_keeps_scores(device))


def weights_dtype(model: Any) -> torch.dtype:
    """What the denoiser's weights are held in, or computed in where they are stored in 8 bits."""
    unet = unet_of(model)
    dtype: torch.dtype = unet.storage_dtype if unet.storage_dtype.itemsize > 1 else unet.computation_dtype
    return dtype


def _prediction(model: Any) -> str | None:
    kind = predictor_of(model).prediction_type
    return kind if kind in ("epsilon", "v_prediction") else None
