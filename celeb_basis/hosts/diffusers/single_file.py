"""Checkpoints in one ``.safetensors`` file, in the key layout of the original code, read without any model hub."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import Prediction, configured_resolution, family_resolution
from celeb_basis.errors import HostError
from celeb_basis.files import explained_os_errors
from celeb_basis.hosts.diffusers.configs import (
    PIPELINE_CLASSES,
    Config,
    Family,
    clip_tokenizer,
    component_configs,
    sample_sizes,
    text_config,
)
from celeb_basis.hosts.torch_utils import upcast

if TYPE_CHECKING:
    import torch


# FOLDED: The ``.yaml`` that lies beside a checkpoint of unusual make, read as diffusers configs.
# FOLDED:
# FOLDED: Such files are the training configs of the original code (``ldm`` for SD1 and SD2, ``sgm`` for SDXL); the
# FOLDED: WebUI takes
# FOLDED: them from the same place.


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
    resolution = configured_resolution(content)
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


# FOLDED: Text encoders as they lie in checkpoints of one file: CLIP's in transformers' own keys, OpenCLIP's in
# FOLDED: OpenCLIP's.

Weights = Mapping[str, "torch.Tensor"]

_PROJECTION = "text_projection.weight"

OPEN_CLIP_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""OpenCLIP's names of a layer's parts and transformers' names of them; queries, keys and values are stacked there."""


@dataclass(frozen=True)
class TextPart:
    """Where a checkpoint holds a text encoder."""

    component: str
    """The component's name in diffusers."""
    prefix: str
    open_clip: bool


TEXT_PARTS: dict[Family, list[TextPart]] = {
    "sd1": [TextPart("text_encoder", "cond_stage_model.transformer.text_model.", False)],
    "sd2": [TextPart("text_encoder", "cond_stage_model.model.", True)],
    "sdxl": [
        TextPart("text_encoder", "conditioner.embedders.0.transformer.text_model.", False),
        TextPart("text_encoder_2", "conditioner.embedders.1.model.", True),
    ],
}


def text_weights(weights: Weights, part: TextPart, *, unused_layers: int) -> tuple[Config, dict[str, torch.Tensor]]:
    """The config of a text encoder and its weights under transformers' keys, with ``text_model.`` before them.

    Parameters:
        unused_layers: layers at the end to leave out; SD2 stops before its last one.

    Raises: :class:`HostError` if something is missing.
    """
    own = {key[len(part.prefix) :]: value for key, value in weights.items() if key.startswith(part.prefix)}
    try:
        return _from_open_clip(own, unused_layers) if part.open_clip else _from_clip(own)
    except (KeyError, IndexError, ValueError) as error:
        raise HostError(
            f"The checkpoint's text encoder is incomplete ({part.prefix}* lacks {error}): download it again."
        ) from error


def load_text_encoder(kind: Any, config: Config, weights: Weights, dtype: torch.dtype) -> torch.nn.Module:
    """A ``CLIPTextModel`` or ``CLIPTextModelWithProjection`` with exactly these weights.

    Raises: :class:`HostError` if they are not all there or of other sizes.
    """
    import torch

    with torch.device("meta"):
        model: Any = kind(kind.config_class(**config))
    if not hasattr(model, "text_model"):  # transformers from 5.6 on has no wrapper around CLIPTextModel
        weights = {key.removeprefix("text_model."): value for key, value in weights.items()}
    # A file may hold more than is used: SD2's has a projection, which only SDXL asks for.
    weights = {
        key: value.to(dtype) for key, value in weights.items() if key != _PROJECTION or key in model.state_dict()
    }
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise HostError(
            "The checkpoint's text encoder is incomplete or of an unknown kind: download it again."
        ) from error
    for name, buffer in list(model.named_buffers()):
        owner, _, key = name.rpartition(".")
        model.get_submodule(owner).register_buffer(key, torch.arange(buffer.shape[-1])[None], persistent=False)
    module: torch.nn.Module = model.eval()
    return module


def _from_clip(own: dict[str, torch.Tensor]) -> tuple[Config, dict[str, torch.Tensor]]:
    table = own["embeddings.token_embedding.weight"]
    layers = 1 + max(int(key.split(".")[2]) for key in own if key.startswith("encoder.layers."))
    config = text_config("quick_gelu", table.shape[1], layers)
    config |= {"vocab_size": table.shape[0], "intermediate_size": own["encoder.layers.0.mlp.fc1.weight"].shape[0]}
    found = {f"text_model.{key}": value for key, value in own.items() if not key.endswith("position_ids")}
    return config, found


def _from_open_clip(own: dict[str, torch.Tensor], unused: int) -> tuple[Config, dict[str, torch.Tensor]]:
    table, projection = own["token_embedding.weight"], own.get("text_projection")
    layers = 1 + max(int(key.split(".")[2]) for key in own if key.startswith("transformer.resblocks.")) - unused
    width = table.shape[1]
    config = text_config("gelu", width, layers, projection=None if projection is None else projection.shape[1])
    config |= {"vocab_size": table.shape[0]}
    config |= {"intermediate_size": own["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]}
    found = {
        "text_model.embeddings.token_embedding.weight": table,
        "text_model.embeddings.position_embedding.weight": own["positional_embedding"],
        "text_model.final_layer_norm.weight": own["ln_final.weight"],
        "text_model.final_layer_norm.bias": own["ln_final.bias"],
    }
    if projection is not None:
        found[_PROJECTION] = projection.T.contiguous()
    for layer in range(layers):
        there, here = f"transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            stacked = own[f"{there}.attn.in_proj_{kind}"]
            for name, piece in zip(("q_proj", "k_proj", "v_proj"), stacked.chunk(3), strict=True):
                found[f"{here}.self_attn.{name}.{kind}"] = piece.contiguous()
            for old, new in OPEN_CLIP_PARTS.items():
                found[f"{here}.{new}.{kind}"] = own[f"{there}.{old}.{kind}"]
    return config, found


UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
_FIRST_LAYER = UNET_PREFIX + "input_blocks.0.0.weight"
_ADVICE = "choose a checkpoint of Stable Diffusion 1.x, 2.x or XL"


def load_single_file(path: Path, dtype: torch.dtype, prediction: Prediction | None = None) -> Any:
    """A pipeline from one ``.safetensors`` file, with the ``.yaml`` beside it where there is one.

    Parameters:
        prediction: what the denoiser predicts; found out if ``None``: from the ``.yaml``, from marks that newer files
            carry, and for SD2, whose two kinds look alike, by asking the network.

    Raises: :class:`HostError` for a file that is no such checkpoint.
    """
    import diffusers

    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise HostError(
            f"{path.name} is a pickle, which can run code when it is loaded: convert it to .safetensors, or download it "
            "in that format."
        )
    weights, marks = _read(path)
    family = detect_family(path, weights)
    configs = component_configs(family)
    texts = {}
    for part in TEXT_PARTS[family]:
        config, of_part = text_weights(weights, part, unused_layers=int(family == "sd2"))
        configs[part.component] = config
        texts[part.component] = of_part
    place = path.with_suffix(".yaml")
    recipe = read_yaml(place) if place.is_file() else None
    if recipe is not None:
        configs = apply_yaml(place, recipe, family, configs)
    _check_sizes(path, weights, configs, recipe is not None)
    parts = _networks(path, weights, configs, dtype)
    for component, of_part in texts.items():
        kind = _text_class(component)
        parts[component] = load_text_encoder(kind, configs[component], of_part, dtype)
    scheduler = configs["scheduler"]
    found: Prediction | None = prediction or _marked_prediction(marks)
    if found is None and recipe is None and family == "sd2":
        found = probe_prediction(parts["unet"])
    if found is not None:
        scheduler["prediction_type"] = found
    if family == "sd2" and configured_resolution(recipe) is None:
        side = family_resolution(family, lambda: bool(scheduler["prediction_type"] == "v_prediction"))
        for component, size in zip(("vae", "unet"), sample_sizes(configs["vae"], side), strict=True):
            parts[component].register_to_config(sample_size=size)
    if "ztsnr" in marks:
        scheduler["rescale_betas_zero_snr"] = True
    parts["scheduler"] = diffusers.DDIMScheduler.from_config(scheduler)
    parts["tokenizer"] = clip_tokenizer("open_clip" if family == "sd2" else "clip")
    if family == "sdxl":
        parts["tokenizer_2"] = clip_tokenizer("open_clip")
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return getattr(diffusers, PIPELINE_CLASSES[family])(**parts)


def detect_family(path: Path, weights: dict[str, torch.Tensor]) -> Family:
    """The family of a checkpoint by the text encoders that lie in it.

    Raises: :class:`HostError`, saying what the file is instead where its keys tell.
    """
    if _FIRST_LAYER not in weights:
        lora = any("lora" in key for key in weights)
        small = len(weights) < 10
        what = "a LoRA" if lora else "an embedding" if small else "no Stable Diffusion checkpoint, or a part of one"
        raise HostError(f"{path.name} is {what}: {_ADVICE}.")
    channels = weights[_FIRST_LAYER].shape[1]
    if channels != 4:
        kind = {9: "an inpainting", 5: "a depth-to-image", 8: "an InstructPix2Pix"}.get(channels, "a special")
        raise HostError(f"{path.name} is {kind} model, its UNet takes {channels} channels instead of 4: {_ADVICE}.")
    if not any(key.startswith(VAE_PREFIX) for key in weights):
        raise HostError(f"{path.name} holds no VAE: {_ADVICE} that is complete.")
    families: tuple[Family, ...] = ("sdxl", "sd2", "sd1")
    for family in families:
        if all(any(key.startswith(part.prefix) for key in weights) for part in TEXT_PARTS[family]):
            return family
    if any(key.startswith("conditioner.embedders.0.model.") for key in weights):
        raise HostError(f"{path.name} is SDXL's refiner: {_ADVICE}.")
    raise HostError(f"{path.name} holds no text encoder: {_ADVICE} that is complete.")


def probe_prediction(unet: Any) -> Prediction:
    """Ask a denoiser what it predicts, by a nearly pure noise that is constant.

    At the last timestep a predictor of noise gives back about what it gets; a predictor of velocity, minus the clean
    latent, gives something far below.
    """
    import torch

    # The CPU computes half precision with newer versions of torch only.
    with torch.no_grad(), upcast([unet], torch.float32):
        noise = torch.full((1, 4, 8, 8), 0.5, dtype=unet.dtype, device=unet.device)
        context = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, dtype=unet.dtype, device=unet.device)
        step = torch.tensor([999], device=unet.device)
        difference = (unet(noise, step, encoder_hidden_states=context, return_dict=False)[0] - noise).float().mean()
    return "v_prediction" if float(difference) < -1 else "epsilon"


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of the file, and its marks: the header's metadata and keys that are there only to be there."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            marks = {str(key): str(value) for key, value in (file.metadata() or {}).items()}
            weights = {}
            for key in file.keys():  # noqa: SIM118 - not a mapping
                if key in ("v_pred", "ztsnr"):
                    marks[key] = ""
                elif not key.startswith("model_ema."):
                    weights[key] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError) as error:
        raise HostError(f"{path.name} is damaged or not a .safetensors file: download it again.") from error
    # Some early conversions leave out one level of names.
    short, long = "cond_stage_model.transformer.", "cond_stage_model.transformer.text_model."
    weights = {
        long + key[len(short) :] if key.startswith(short) and not key.startswith(long) else key: value
        for key, value in weights.items()
    }
    return weights, marks


def _marked_prediction(marks: dict[str, str]) -> Prediction | None:
    declared = marks.get("modelspec.predict_key") or marks.get("modelspec.prediction_type")
    if "v_pred" in marks or declared in ("v", "v_prediction"):
        return "v_prediction"
    return "epsilon" if declared == "epsilon" else None


def _check_sizes(path: Path, weights: dict[str, torch.Tensor], configs: dict[str, Config], has_recipe: bool) -> None:
    here = weights[_FIRST_LAYER].shape[0]
    expected = configs["unet"]["block_out_channels"][0]
    if here != expected:
        remedy = "repair the .yaml beside it" if has_recipe else f"put its config beside it as {path.stem}.yaml"
        raise HostError(f"The UNet of {path.name} starts with {here} channels instead of {expected}: {remedy}.")


def _networks(path: Path, weights: dict[str, torch.Tensor], configs: dict[str, Config], dtype: torch.dtype) -> Config:
    """UNet and VAE, by diffusers' own conversion of keys."""
    import diffusers

    kinds = {"unet": (diffusers.UNet2DConditionModel, UNET_PREFIX), "vae": (diffusers.AutoencoderKL, VAE_PREFIX)}
    parts: Config = {}
    with tempfile.TemporaryDirectory(prefix="celeb-basis-") as name:
        for component, (kind, prefix) in kinds.items():
            folder = Path(name, component)
            folder.mkdir()
            content = {"_class_name": kind.__name__, **configs[component]}
            (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
            own = {key: value for key, value in weights.items() if key.startswith(prefix)}
            try:
                model = kind.from_single_file(
                    own, config=name, subfolder=component, torch_dtype=dtype, local_files_only=True
                )
                needed = sum(parameter.numel() for parameter in model.parameters())
                whole = needed <= sum(value.numel() for value in own.values())
                whole = whole and not any(parameter.is_meta for parameter in model.parameters())
            except Exception as error:  # its converter meets what is missing in many ways
                raise _incomplete(path, component) from error
            if not whole:
                raise _incomplete(path, component)
            parts[component] = model
    return parts


def _incomplete(path: Path, component: str) -> HostError:
    return HostError(
        f"The {component.upper()} of {path.name} is incomplete or of another make: download it again, or put its config "
        f"beside it as {path.stem}.yaml."
    )


def _text_class(component: str) -> Any:
    import transformers

    return transformers.CLIPTextModel if component == "text_encoder" else transformers.CLIPTextModelWithProjection
