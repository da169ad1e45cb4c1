"""Configs of Stable Diffusion 1.5, 2.x and XL for diffusers, component by component, and CLIP's tokenizer.

A checkpoint in one file holds neither; diffusers would ask the model hub for them.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any, Literal, TypeAlias

from celeb_basis.diffusion_model import configured_resolution
from celeb_basis.errors import HostError, MissingPackageError
from celeb_basis.files import write_json
from celeb_basis.reading import UnreadableError, read_yaml

Family = Literal["sd1", "sd2", "sdxl"]
Config: TypeAlias = "dict[str, Any]"

PIPELINE_CLASSES: dict[Family, str] = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
}
_COMPONENT_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
}


def component_configs(family: Family) -> dict[str, Config]:
    """The public configs of ``unet``, ``vae``, ``scheduler``, ``text_encoder`` and, for SDXL, ``text_encoder_2``."""
    configs = {
        "unet": _UNETS[family](),
        "vae": _vae(0.13025 if family == "sdxl" else 0.18215, 1024 if family == "sdxl" else 512),
        "scheduler": _scheduler("v_prediction" if family == "sd2" else "epsilon"),
        "text_encoder": text_config("gelu", 1024, 23) if family == "sd2" else text_config("quick_gelu", 768, 12),
    }
    if family == "sdxl":
        configs["text_encoder_2"] = text_config("gelu", 1280, 32, projection=1280)
    return configs


def write_configs(folder: Path, family: Family, configs: dict[str, Config]) -> None:
    """Write configs as a folder of diffusers without weights or tokenizers, as ``from_single_file`` takes it.

    Raises:
        FileError: The folder cannot be written.
    """
    classes = {name: list(_COMPONENT_CLASSES[name]) for name in configs}
    write_json(folder / "model_index.json", {"_class_name": PIPELINE_CLASSES[family], **classes})
    for name, config in configs.items():
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        write_json(folder / name / file, config)


def sample_sizes(vae: Config, side: int) -> tuple[int, int]:
    """``sample_size`` of a VAE with this config and of its UNet, for square images of ``side`` pixels."""
    return side, side // 2 ** (len(vae["block_out_channels"]) - 1)


def text_config(activation: str, width: int, layers: int, *, projection: int | None = None) -> Config:
    """The config of a CLIP text transformer, whose heads are 64 wide and whose hidden layer is four times as wide.

    The end-of-text id is the tokenizer's own, so that pooling finds the right position; public configs hold a wrong one.
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


# The ``.yaml`` beside a checkpoint


def read_config(path: Path) -> Config:
    """Read the ``.yaml`` beside a checkpoint of unusual make, from where the WebUI takes it too.

    Such files are the training configs of the original code: ``ldm`` for SD1 and SD2, ``sgm`` for SDXL.

    Raises:
        HostError: The file is not such a config.
        FileError: The file cannot be read.
    """
    try:
        content = read_yaml(path)
    except UnreadableError as error:
        raise HostError(f"{path} cannot be used. {error}") from error
    except ValueError as error:
        raise HostError(f"{path} is not readable as YAML: repair it or take it away.") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise HostError(f"{path} is not the config of a checkpoint: repair it or take it away.")
    return content


def apply_yaml(path: Path, content: Config, family: Family, configs: dict[str, Config]) -> dict[str, Config]:
    """Return ``configs`` with everything that the ``.yaml`` sets. SD2's ``image_size`` says nothing about its images.

    Args:
        path: The file, for messages.
        content: What it holds.
        family: The checkpoint's.
        configs: The family's public configs.

    Raises:
        HostError: The file lacks what every such config has.
    """
    try:
        params = content["model"]["params"]
        network = params["network_config" if "network_config" in params else "unet_config"]["params"]
        first_stage = params["first_stage_config"]["params"]["ddconfig"]
        unet = {**configs["unet"], **_unet_from_yaml(network, family, configs)}
        vae = {**configs["vae"], **_vae_from_yaml(first_stage)}
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
    scheduler["prediction_type"] = _prediction_from_yaml(params)
    resolution = configured_resolution(content)
    if not resolution and family != "sd2" and isinstance(params.get("image_size"), int):
        resolution = params["image_size"] * 8
    if resolution:
        vae["sample_size"], unet["sample_size"] = sample_sizes(vae, resolution)
    return {**configs, "unet": unet, "vae": vae, "scheduler": scheduler}


def _prediction_from_yaml(params: Config) -> str:
    scaling = str(params.get("denoiser_config", ""))  # in sgm, the name of a class
    return "v_prediction" if params.get("parameterization") == "v" or "VScaling" in scaling else "epsilon"


def _unet_from_yaml(network: Config, family: Family, configs: dict[str, Config]) -> Config:
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


def _vae_from_yaml(first_stage: Config) -> Config:
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


# CLIP's tokenizer

Flavor = Literal["clip", "open_clip"]
"""``clip`` (SD1, SDXL's first) pads with the end-of-text token, ``open_clip`` (SD2, SDXL's second) with ``!``, id 0."""

START = "<|startoftext|>"
END = "<|endoftext|>"
MAX_TOKENS = 77
VOCABULARY_SIZE = 49_408

_FILE_NAME = "bpe_simple_vocab_16e6.txt.gz"
_REMEDY = "install it again with: pip install --force-reinstall open_clip_torch"


def missing_package(name: str, oldest: str) -> MissingPackageError:
    """The error for a package that is not installed, with the command that installs it for this Python."""
    return MissingPackageError(f'{name} is not installed: run "{sys.executable}" -m pip install "{name}>={oldest}".')


def clip_tokenizer(flavor: Flavor = "clip") -> Any:
    """Make the ``transformers.CLIPTokenizer`` of a Stable Diffusion text encoder: 49,408 tokens, at most 77 a prompt.

    A checkpoint in one file holds no tokenizer, and every Stable Diffusion uses this one. It is made offline from the
    vocabulary file that ``open_clip_torch`` ships.

    Raises:
        MissingPackageError: ``open_clip_torch`` or ``transformers`` is not installed, or its vocabulary is damaged.
    """
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise missing_package("transformers", "4.44") from error
    vocabulary, merges = clip_vocabulary()
    padding = END if flavor == "clip" else "!"
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": padding,
    }
    # Through files, because that works with every transformers from 4.44 to 5.
    with tempfile.TemporaryDirectory(prefix="celeb-basis-") as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    tokenizer.name_or_path = ""
    return tokenizer


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """Read CLIP's byte-pair vocabulary, token to id, and its merges, best first.

    Raises:
        MissingPackageError: ``open_clip_torch`` is not installed, or its file is damaged.
    """
    path = _vocabulary_file()
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise MissingPackageError(f"CLIP's vocabulary in open_clip_torch is damaged: {_REMEDY}.") from error
    # The first line is a header; the file holds more merges than CLIP was trained with.
    merges = lines[1 : VOCABULARY_SIZE - 512 - 2 + 1]
    characters = _byte_characters()
    tokens = [*characters, *(char + "</w>" for char in characters), *("".join(merge.split()) for merge in merges)]
    tokens += [START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != VOCABULARY_SIZE:
        raise MissingPackageError(f"CLIP's vocabulary in open_clip_torch is damaged: {_REMEDY}.")
    return vocabulary, merges


def _vocabulary_file() -> Path:
    # find_spec does not import the package, which would need torchvision.
    spec = importlib.util.find_spec("open_clip")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / _FILE_NAME).is_file():
            return path
    raise MissingPackageError(
        "CLIP's vocabulary comes with open_clip_torch, which is not installed: run pip install open_clip_torch."
    )


def _byte_characters() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE, in the vocabulary's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(rest))]
