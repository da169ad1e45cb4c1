"""Inside a WebUI: a small LoRA in kohya's format and a small hypernetwork, of random weights, for the loaded checkpoint."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

LORA, HYPERNETWORK = "small", "smallnet"
_RANK = 4
_TEXT_LAYERS = (
    (r"transformer_text_model_encoder_layers_(\d+)_(mlp_fc[12]|self_attn_[qkv]_proj)", "lora_te_text_model_encoder_layers_"),
    (r"0_transformer_text_model_encoder_layers_(\d+)_(mlp_fc[12]|self_attn_[qkv]_proj)", "lora_te1_text_model_encoder_layers_"),
    (r"model_transformer_resblocks_(\d+)_(mlp_c_fc|mlp_c_proj|attn)", "lora_te_text_model_encoder_layers_"),
    (r"1_model_transformer_resblocks_(\d+)_(mlp_c_fc|mlp_c_proj|attn)", "lora_te2_text_model_encoder_layers_"),
)  # fmt: skip
_OF_OPEN_CLIP = {"mlp_c_fc": "mlp_fc1", "mlp_c_proj": "mlp_fc2"}
_UNET_LAYER = re.compile(r"diffusion_model_(input_blocks|middle_block|output_blocks)_\w*attn[12]_to_[qkv]")


def write_lora(folder: Path, seed: int = 0) -> int:
    """Write ``small.safetensors``, with layers of every text encoder and of the UNet, under the names that kohya's trainer
    gives them; returns how many layers it holds."""
    from modules import shared
    from safetensors.torch import save_file

    lora = sys.modules["networks"]  # of the host's built-in extension
    lora.assign_network_names_to_compvis_modules(shared.sd_model)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in _layers(shared.sd_model):
        tensors[f"{name}.lora_down.weight"] = torch.randn(_RANK, columns, generator=generator) * columns**-0.5
        tensors[f"{name}.lora_up.weight"] = 0.3 * torch.randn(rows, _RANK, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(float(_RANK))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{LORA}.safetensors")
    lora.list_available_networks()
    return len(tensors) // 3


def _layers(model: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of layers."""
    named = model.network_layer_mapping
    for key, layer in named.items():
        for pattern, prefix in _TEXT_LAYERS:
            if match := re.fullmatch(pattern, key):
                number, part = match.groups()
                if part == "attn":
                    width = int(layer.embed_dim)
                    for which in "qkv":
                        yield f"{prefix}{number}_self_attn_{which}_proj", (width, width)
                else:
                    yield f"{prefix}{number}_{_OF_OPEN_CLIP.get(part, part)}", tuple(layer.weight.shape)
        if _UNET_LAYER.fullmatch(key) and (name := _kohyas_name(key, model.is_sdxl)):
            yield name, tuple(layer.weight.shape)


def _kohyas_name(key: str, sdxl: bool) -> str | None:
    if sdxl:
        return key.replace("diffusion_model", "lora_unet")
    if key.startswith("diffusion_model_input_blocks_1_1_"):
        return key.replace("diffusion_model_input_blocks_1_1_", "lora_unet_down_blocks_0_attentions_0_")
    if key.startswith("diffusion_model_middle_block_1_"):
        return key.replace("diffusion_model_middle_block_1_", "lora_unet_mid_block_attentions_0_")
    return None


def loaded_layers() -> int:
    """Layers that the host found a place for, of the networks that are applied now."""
    return sum(len(one.modules) for one in sys.modules["networks"].loaded_networks)


def write_hypernetwork(width: int, seed: int = 0) -> None:
    """Make ``smallnet.pt`` with the host's own code, for cross-attention over conditionings of ``width``."""
    from modules import shared
    from modules.hypernetworks import hypernetwork

    Path(shared.cmd_opts.hypernetwork_dir).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    hypernetwork.create_hypernetwork(
        HYPERNETWORK,
        [str(width)],
        overwrite_old=True,
        layer_structure=[1, 2, 1],
        activation_func="relu",
        weight_init="XavierNormal",
    )
