"""Writing a pipeline of diffusers as one ``.safetensors`` file with a ``.yaml``, as checkpoints are shared.

The layout of the keys is that of the original code: ``ldm`` for SD1 and SD2, ``sgm`` for SDXL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.files import write_bytes, write_text
from celeb_basis.hosts.diffusers.configs import Config, Family
from celeb_basis.hosts.diffusers.pipelines import family_of
from celeb_basis.hosts.diffusers.single_file import TEXT_PARTS

if TYPE_CHECKING:
    import torch

_OPEN_CLIP_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""Names of the parts of a layer in OpenCLIP, and in transformers. OpenCLIP stacks queries, keys and values."""
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_single_file(pipeline: Any, path: Path) -> None:
    """Write ``path`` (``.safetensors``) and the ``.yaml`` beside it.

    Raises:
        FileError: A file cannot be written.
    """
    import yaml  # type: ignore[import-untyped]

    write_text(path.with_suffix(".yaml"), yaml.safe_dump(ldm_yaml(pipeline), sort_keys=False))
    save_weights(pipeline, path)


def save_weights(pipeline: Any, path: Path) -> None:
    """Write ``path`` (``.safetensors``) without a ``.yaml``.

    Raises:
        FileError: The file cannot be written.
    """
    from safetensors.torch import save

    weights = {key: value.contiguous() for key, value in ldm_weights(pipeline).items()}
    write_bytes(path, save(weights, {"format": "pt"}))


def ldm_weights(pipeline: Any) -> dict[str, torch.Tensor]:
    """Every weight of a pipeline under its key in the original layout."""
    unet = pipeline.unet
    attends = [kind.startswith("CrossAttn") for kind in unet.config.up_block_types]
    weights = {
        f"model.diffusion_model.{unet_key(key, unet.config.layers_per_block, attends)}": value
        for key, value in unet.state_dict().items()
    }
    levels = len(pipeline.vae.config.block_out_channels)
    for key, value in pipeline.vae.state_dict().items():
        new = vae_key(key, levels)
        # Linear layers of diffusers are 1x1 convolutions in the original code.
        weights[f"first_stage_model.{new}"] = value[..., None, None] if "attn_1" in new and value.ndim == 2 else value
    family = family_of(pipeline)
    for part in TEXT_PARTS[family]:
        own = {
            key.removeprefix("text_model."): value
            for key, value in getattr(pipeline, part.component).state_dict().items()
        }
        own = {key: value for key, value in own.items() if not key.endswith("position_ids")}
        if part.open_clip:
            own = _open_clip(own, repeat_last=family == "sd2")
        weights |= {part.prefix + key: value for key, value in own.items()}
    return weights


def unet_key(key: str, layers: int, up_attends: Sequence[bool]) -> str:
    """The original code's name of a UNet's weight.

    Args:
        key: The name in diffusers.
        layers: Residual blocks per level.
        up_attends: Whether each upsampling block has attention, which then stands before its upsampler.
    """
    for old, new in _UNET_ENDS.items():
        if key.startswith(old):
            return new + key[len(old) :]
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        kind, number, rest = match.groups()
        place = "middle_block.1" if kind == "attentions" else f"middle_block.{2 * int(number)}"
        return f"{place}.{_resnet(rest) if kind == 'resnets' else rest}"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key)
    if match is None:
        raise ValueError(key)
    way, level, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    first = level * (layers + 1) + (way == "down")
    blocks = "input_blocks" if way == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{blocks}.{first + layers}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"{blocks}.{first + layers}.{2 if up_attends[level] else 1}.{rest}"
    return f"{blocks}.{first + number}.{f'0.{_resnet(rest)}' if kind == 'resnets' else f'1.{rest}'}"


def vae_key(key: str, levels: int) -> str:
    """The original code's name of a VAE's weight."""
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    if "mid_block.attentions.0." in key:
        for old, new in _VAE_ATTENTION.items():
            key = key.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
    key = key.replace("mid_block.attentions.0", "mid.attn_1")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{levels - 1 - int(match[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{levels - 1 - int(match[1])}.upsample", key)


def ldm_yaml(pipeline: Any) -> Config:
    """The training config of the original code, as far as loaders read it."""
    family = family_of(pipeline)
    schedule = pipeline.scheduler.config
    vae = pipeline.vae.config
    widths = vae.block_out_channels
    first_stage = {
        "double_z": True,
        "z_channels": vae.latent_channels,
        "resolution": 256,
        "in_channels": vae.in_channels,
        "out_ch": vae.out_channels,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": vae.layers_per_block,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params: Config = {"scale_factor": vae.scaling_factor}
    velocity = schedule["prediction_type"] == "v_prediction"
    unet = {"target": _UNET_CLASSES[family], "params": _unet_params(pipeline.unet.config, family)}
    if family == "sdxl":
        scaling = f"sgm.modules.diffusionmodules.denoiser_scaling.{'VScaling' if velocity else 'EpsScaling'}"
        params["denoiser_config"] = {"params": {"scaling_config": {"target": scaling}}}
        params["network_config"] = unet
    else:
        params |= {"linear_start": schedule["beta_start"], "linear_end": schedule["beta_end"]}
        params |= {"timesteps": schedule["num_train_timesteps"], "image_size": pipeline.unet.config.sample_size}
        params |= {"parameterization": "v"} if velocity else {}
        params["unet_config"] = unet
    params["first_stage_config"] = {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {"embed_dim": vae.latent_channels, "ddconfig": first_stage},
    }
    target = "sgm.models.diffusion.DiffusionEngine" if family == "sdxl" else "ldm.models.diffusion.ddpm.LatentDiffusion"
    resolution = pipeline.unet.config.sample_size * 2 ** (len(widths) - 1)
    return {"model": {"target": target, "params": params}, "celeb_basis": {"resolution": resolution}}


_UNET_CLASSES: dict[Family, str] = {
    "sd1": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
    "sd2": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
    "sdxl": "sgm.modules.diffusionmodules.openaimodel.UNetModel",
}


def _unet_params(unet: Any, family: Family) -> Config:
    widths = unet.block_out_channels
    attends = [kind.startswith("CrossAttn") for kind in unet.down_block_types]
    depth = unet.transformer_layers_per_block
    params: Config = {
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "model_channels": widths[0],
        "attention_resolutions": [2**level for level, attend in enumerate(attends) if attend],
        "num_res_blocks": unet.layers_per_block,
        "channel_mult": [width // widths[0] for width in widths],
        "use_spatial_transformer": True,
        "transformer_depth": depth if isinstance(depth, int) else list(depth),
        "context_dim": unet.cross_attention_dim,
        "use_checkpoint": False,
        "legacy": False,
    }
    heads = unet.attention_head_dim
    params |= {"num_heads": heads} if isinstance(heads, int) else {"num_head_channels": widths[0] // heads[0]}
    params |= {"use_linear_in_transformer": True} if unet.use_linear_projection else {}
    if family == "sdxl":
        params |= {"num_classes": "sequential", "adm_in_channels": unet.projection_class_embeddings_input_dim}
    else:
        params["image_size"] = 32  # a leftover that the original constructor asks for
    return params


def _resnet(rest: str) -> str:
    name, _, kind = rest.partition(".")
    return f"{_RESNET[name]}.{kind}"


def _open_clip(own: dict[str, torch.Tensor], *, repeat_last: bool) -> dict[str, torch.Tensor]:
    """A text encoder in OpenCLIP's layout. SD2's has a last layer and a projection that are never used."""
    import torch

    new = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"],
        "ln_final.bias": own["final_layer_norm.bias"],
    }
    width = new["positional_embedding"].shape[1]
    projection = own.get("text_projection.weight")
    new["text_projection"] = torch.eye(width) if projection is None else projection.T
    new["logit_scale"] = torch.tensor(100.0).log()
    layers = 1 + max(int(key.split(".")[2]) for key in own if key.startswith("encoder.layers."))
    for number in range(layers + repeat_last):
        here, there = f"encoder.layers.{min(number, layers - 1)}", f"transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            rows = [own[f"{here}.self_attn.{name}.{kind}"] for name in ("q_proj", "k_proj", "v_proj")]
            new[f"{there}.attn.in_proj_{kind}"] = torch.cat(rows)
            for old, name in _OPEN_CLIP_PARTS.items():
                value = own[f"{here}.{name}.{kind}"]
                new[f"{there}.{old}.{kind}"] = value.clone() if number >= layers else value
    return new
