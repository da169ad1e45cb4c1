"""The public architectures of Stable Diffusion 1.5, 2.x and XL as diffusers configs, component by component.

A checkpoint in one file brings no configs; diffusers would ask the model hub for these.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

Family = Literal["sd1", "sd2", "sdxl"]
Config: TypeAlias = "dict[str, Any]"

PIPELINE_CLASSES: dict[Family, str] = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
}


def component_configs(family: Family) -> dict[str, Config]:
    """Fresh configs of ``unet``, ``vae``, ``scheduler``, ``text_encoder`` and, for SDXL, ``text_encoder_2``."""
    configs = {
        "unet": _UNETS[family](),
        "vae": _vae(0.13025 if family == "sdxl" else 0.18215, 1024 if family == "sdxl" else 512),
        "scheduler": _scheduler("v_prediction" if family == "sd2" else "epsilon"),
        "text_encoder": text_config("gelu", 1024, 23) if family == "sd2" else text_config("quick_gelu", 768, 12),
    }
    if family == "sdxl":
        configs["text_encoder_2"] = text_config("gelu", 1280, 32, projection=1280)
    return configs


def sample_sizes(vae: Config, side: int) -> tuple[int, int]:
    """``sample_size`` of the VAE of this configuration and of its UNet, for square pictures of ``side`` pixels."""
    return side, side // 2 ** (len(vae["block_out_channels"]) - 1)


def text_config(activation: str, width: int, layers: int, *, projection: int | None = None) -> Config:
    """A CLIP text transformer: heads of 64 numbers and a hidden layer four times as wide, as in all of CLIP's.

    The end-of-text id is the tokenizer's own (public configs hold a wrong one), so pooling finds the right place.
    """
    return {
        "vocab_size": 49408,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": projection or width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": 77,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }


def _sd1_unet() -> Config:
    return {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        # diffusers' name notwithstanding, this is the number of heads
        "attention_head_dim": 8,
    }


def _sd2_unet() -> Config:
    return {
        **_sd1_unet(),
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "upcast_attention": True,
    }


def _sdxl_unet() -> Config:
    return {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }


_UNETS = {"sd1": _sd1_unet, "sd2": _sd2_unet, "sdxl": _sdxl_unet}


def _vae(scaling_factor: float, sample_size: int) -> Config:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "sample_size": sample_size,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "scaling_factor": scaling_factor,
        "force_upcast": sample_size == 1024,
    }


def _scheduler(prediction: str) -> Config:
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "prediction_type": prediction,
    }
