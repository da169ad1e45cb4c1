"""Which pipeline SD.Next has loaded, whether it can be learned through, and the file that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers.checks import check_pipeline
from celeb_basis.hosts.diffusers.fingerprint import sha256_of_weights
from celeb_basis.hosts.sdnext.shim import sdnext_module

_ADVICE = "choose a plain text-to-image checkpoint of Stable Diffusion 1.x, 2.x or XL"


def loaded_pipeline_or_none() -> Any | None:
    """SD.Next's pipeline as it is now, without loading one. Never keep it: SD.Next makes a new one for each task."""
    pipeline = sdnext_module("modeldata").model_data.sd_model
    return getattr(pipeline, "pipe", pipeline)


def loaded_pipeline() -> Any:
    """SD.Next's pipeline as it is now.

    Raises: :class:`HostError` if no checkpoint is loaded.
    """
    pipeline = loaded_pipeline_or_none()
    if pipeline is None:
        raise HostError(
            "SD.Next has no checkpoint loaded: choose one at the top of its page, and wait until it is there."
        )
    return pipeline


def is_stable_diffusion(pipeline: Any) -> bool:
    """Whether it is a Stable Diffusion 1, 2 or XL of diffusers, by its parts."""
    return all(getattr(pipeline, name, None) is not None for name in ("unet", "text_encoder", "tokenizer"))


def check_loaded(pipeline: Any) -> None:
    """Raise :class:`HostError` unless a gradient can pass the pipeline, and its prompt alone says what it draws."""
    name = checkpoint_name(pipeline)
    if not is_stable_diffusion(pipeline):
        raise HostError(f"{name} is no Stable Diffusion 1, 2 or XL ({type(pipeline).__name__}): {_ADVICE}.")
    check_pipeline(pipeline)
    for part in (pipeline.unet, *text_parts(pipeline)):
        if hasattr(part, "_orig_mod"):
            raise HostError("The checkpoint is compiled: switch model compile off in SD.Next's settings to learn.")
        weights = list(part.parameters())
        if getattr(part.config, "quantization_config", None) or not all(one.is_floating_point() for one in weights):
            raise HostError("The checkpoint is quantised: switch quantization off in SD.Next's settings to learn.")
    if getattr(sdnext_module("lora.lora_common"), "previously_loaded_networks", None):
        raise HostError(
            "The LoRA of the last picture is still in the checkpoint: draw one picture without any, then learn."
        )


def text_parts(pipeline: Any) -> list[Any]:
    """The text encoders, one or (SDXL) two."""
    second = getattr(pipeline, "text_encoder_2", None)
    return [pipeline.text_encoder] if second is None else [pipeline.text_encoder, second]


def checkpoint_name(pipeline: Any) -> str:
    """What people call the checkpoint: its file's or folder's name without the ending."""
    described = getattr(pipeline, "sd_checkpoint_info", None)
    name = str(getattr(described, "name", None) or getattr(pipeline, "sd_model_checkpoint", None) or "model")
    return Path(name).stem if name.endswith(".safetensors") else Path(name).name


def sha256_of(pipeline: Any) -> str | None:
    """Hex digest of the weights that it was loaded from, remembered on disk; ``None`` where they cannot be found."""
    described = getattr(pipeline, "sd_checkpoint_info", None)
    if known := getattr(described, "sha256", None):
        return str(known)
    for place in (getattr(described, "path", None), getattr(described, "filename", None)):
        if place and Path(str(place)).exists():
            return sha256_of_weights(Path(str(place)))
    return None
