"""The ``.yaml`` that lies beside a checkpoint of unusual make, read as diffusers configs.

Such files are the training configs of the original code (``ldm`` for SD1 and SD2, ``sgm`` for SDXL); the WebUI takes
them from the same place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celeb_basis.errors import HostError
from celeb_basis.files import explained_os_errors
from celeb_basis.hosts.diffusers.configs import Config, Family, sample_sizes
from celeb_basis.hosts.resolution import told_resolution


def read_yaml(path: Path) -> Config:
    """The content of a ``.yaml`` beside a checkpoint.

    Raises: :class:`HostError` if it is not such a config.
    """
    import yaml  # type: ignore[import-untyped]

    with explained_os_errors(path, "read"):
        data = path.read_bytes()
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError) as error:
        raise HostError(f"{path} is not readable as YAML: repair it or take it away.") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise HostError(f"{path} is not the config of a checkpoint: repair it or take it away.")
    return content


def apply_yaml(path: Path, content: Config, family: Family, configs: dict[str, Config]) -> dict[str, Config]:
    """``configs`` with everything that the ``.yaml`` says put in; SD2's ``image_size`` says nothing of its pictures.

    Raises: :class:`HostError` if it lacks what every such file has.
    """
    try:
        params = content["model"]["params"]
        network = params["network_config" if "network_config" in params else "unet_config"]["params"]
        first_stage = params["first_stage_config"]["params"]["ddconfig"]
        unet = {**configs["unet"], **_unet(network, family, configs)}
        vae = {**configs["vae"], **_vae(first_stage)}
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise HostError(
            f"{path} does not describe a Stable Diffusion ({error!r}): repair it or take it away."
        ) from error
    if "scale_factor" in params:
        vae["scaling_factor"] = float(params["scale_factor"])
    scheduler = dict(configs["scheduler"])
    for theirs, ours in (
        ("linear_start", "beta_start"),
        ("linear_end", "beta_end"),
        ("timesteps", "num_train_timesteps"),
    ):
        if theirs in params:
            scheduler[ours] = type(scheduler[ours])(params[theirs])
    scheduler["prediction_type"] = _prediction(params)
    resolution = told_resolution(content)
    if not resolution and family != "sd2" and isinstance(params.get("image_size"), int):
        resolution = params["image_size"] * 8
    if resolution:
        vae["sample_size"], unet["sample_size"] = sample_sizes(vae, resolution)
    return {**configs, "unet": unet, "vae": vae, "scheduler": scheduler}


def _prediction(params: Config) -> str:
    scaling = str(params.get("denoiser_config", ""))  # sgm names a class there
    return "v_prediction" if params.get("parameterization") == "v" or "VScaling" in scaling else "epsilon"


def _unet(network: Config, family: Family, configs: dict[str, Config]) -> Config:
    channels = [int(network["model_channels"]) * multiple for multiple in network["channel_mult"]]
    levels = len(channels)
    attends = [2**level in network["attention_resolutions"] for level in range(levels)]
    depth = network.get("transformer_depth") or 1
    context = network["context_dim"]
    heads: Any = network.get("num_heads")
    if heads in (None, -1):
        heads = [width // int(network["num_head_channels"]) for width in channels]
    unet: Config = {
        "in_channels": network["in_channels"],
        "out_channels": network["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": network["num_res_blocks"],
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "transformer_layers_per_block": depth if isinstance(depth, int) else [max(1, layers) for layers in depth],
        "cross_attention_dim": context if isinstance(context, int) else context[0],
        "attention_head_dim": heads,
        "use_linear_projection": bool(network.get("use_linear_in_transformer", False)),
    }
    if family == "sdxl":
        added = int(network["adm_in_channels"])
        unet["projection_class_embeddings_input_dim"] = added
        # Six numbers about size and crop are embedded beside the pooled text.
        unet["addition_time_embed_dim"] = (added - configs["text_encoder_2"]["projection_dim"]) // 6
    return unet


def _vae(first_stage: Config) -> Config:
    channels = [int(first_stage["ch"]) * multiple for multiple in first_stage["ch_mult"]]
    return {
        "in_channels": first_stage["in_channels"],
        "out_channels": first_stage["out_ch"],
        "latent_channels": first_stage["z_channels"],
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "layers_per_block": first_stage["num_res_blocks"],
    }
