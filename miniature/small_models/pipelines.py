"""Small pipelines of diffusers with random weights, and with the vocabulary and the layout of SD1, SD2 and SDXL.

No weight is constant or zero, so that images, prompts and timesteps all change the output.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError, MissingPackageError
from celeb_basis.hosts.diffusers.configs import (
    PIPELINE_CLASSES,
    Config,
    Family,
    clip_tokenizer,
    component_configs,
    text_config,
)
from miniature.small_models.weights import fill, standardize_latents

if TYPE_CHECKING:
    import torch

_CHANNELS = [32, 64]
"""The narrowest that group normalization with Stable Diffusion's 32 groups allows."""


def make_pipeline(
    kind: Family,
    *,
    seed: int = 0,
    resolution: int = 64,
    width: int | None = None,
    second_width: int | None = None,
    text_layers: int = 2,
    full_size: bool = False,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Any:
    """A ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline`` with seeded random weights, made where they lie.

    Args:
        kind: The family.
        seed: Of the weights.
        resolution: Side of its images in pixels, a multiple of 16.
        width: Width of the token embeddings of the (first) text encoder, a multiple of 64: by default 768, for SD2 1024.
        second_width: The same for SDXL's second text encoder: by default 1280.
        text_layers: Layers of each text encoder, at least 2.
        full_size: Build the true architecture instead of a small one. The other sizes are then ignored.
        device: Where the weights are made; another kind of device gives other numbers.
        dtype: What the weights are held in; float32 by default.

    Raises:
        HostError: The sizes cannot be built.
        MissingPackageError: diffusers is not installed.
    """
    if (
        resolution % 16
        or resolution < 16
        or text_layers < 2
        or any(size and size % 64 for size in (width, second_width))
    ):
        raise HostError(
            "A small model needs a resolution that is a multiple of 16, at least 2 text layers, and widths that are "
            "multiples of 64: choose other sizes."
        )
    configs = component_configs(kind)
    if not full_size:
        configs = small_configs(kind, resolution, width, second_width, text_layers)
    return build_pipeline(kind, configs, seed=seed, device=device, dtype=dtype)


def small_configs(
    kind: Family,
    resolution: int = 64,
    width: int | None = None,
    second_width: int | None = None,
    text_layers: int = 2,
) -> dict[str, Config]:
    """The configs of the components that :func:`make_pipeline` builds, for callers that change them first."""
    configs = component_configs(kind)
    return configs | _small(kind, configs, resolution, width, second_width, text_layers)


def build_pipeline(
    kind: Family, configs: dict[str, Config], *, seed: int, device: str = "cpu", dtype: torch.dtype | None = None
) -> Any:
    """Build a pipeline of any size from the configs of its components, with seeded random weights."""

    def filled(make: Any, name: str) -> torch.nn.Module:
        return _filled(make, seed, name, device, dtype)

    def text_encoder(kind: Any, name: str) -> torch.nn.Module:
        return filled(lambda: kind(kind.config_class(**configs[name])), name)

    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise MissingPackageError("diffusers is not installed: run pip install celeb-basis[diffusers].") from error
    parts: dict[str, Any] = {
        "unet": filled(lambda: diffusers.UNet2DConditionModel.from_config(configs["unet"]), "unet"),
        "vae": filled(lambda: diffusers.AutoencoderKL.from_config(configs["vae"]), "vae"),
        "tokenizer": clip_tokenizer("open_clip" if kind == "sd2" else "clip"),
        "text_encoder": text_encoder(transformers.CLIPTextModel, "text_encoder"),
        "scheduler": diffusers.DDIMScheduler.from_config(configs["scheduler"]),
    }
    standardize_latents(parts["vae"], seed)
    if kind == "sdxl":
        parts["text_encoder_2"] = text_encoder(transformers.CLIPTextModelWithProjection, "text_encoder_2")
        parts["tokenizer_2"] = clip_tokenizer("open_clip")
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return getattr(diffusers, PIPELINE_CLASSES[kind])(**parts)


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Write a pipeline as a folder of diffusers, weights as ``.safetensors``."""
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def _small(
    kind: Family,
    configs: dict[str, Config],
    resolution: int,
    width: int | None,
    second_width: int | None,
    layers: int,
) -> dict[str, Config]:
    """Small configs of a family's components: the same kinds of blocks, and two levels of 32 and 64 channels."""
    width = width or (1024 if kind == "sd2" else 768)
    small = {"text_encoder": text_config("gelu" if kind == "sd2" else "quick_gelu", width, layers)}
    unet = {
        **configs["unet"],
        "sample_size": resolution // 8,
        "block_out_channels": list(_CHANNELS),
        "layers_per_block": 1,
        "cross_attention_dim": width,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }
    if kind != "sd1":
        unet["attention_head_dim"] = [channels // 16 for channels in _CHANNELS]
    if kind == "sdxl":
        second_width = second_width or 1280
        small["text_encoder_2"] = text_config("gelu", second_width, layers, projection=second_width)
        unet |= {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2],
            "cross_attention_dim": width + second_width,
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": second_width + 6 * 32,
        }
    vae = {**configs["vae"], "sample_size": resolution, "block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}
    return {**small, "unet": unet, "vae": vae}


def _filled(make: Any, seed: int, name: str, device: str, dtype: torch.dtype | None) -> torch.nn.Module:
    import torch

    # On "meta" nothing is allocated or initialized, so that the only random numbers are those of fill().
    with torch.device("meta"):
        module: torch.nn.Module = make()
    torch.nn.Module.to(module, dtype or torch.float32)  # diffusers' own to() warns of what does not apply here
    module = module.to_empty(device=device).eval()
    fill(module, seed, name)
    return module
