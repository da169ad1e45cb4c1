"""The public architectures of Stable Diffusion 1.5, 2.x and XL as diffusers configs, component by component.

A checkpoint in one file brings no configs; diffusers would ask the model hub for these.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any, Literal, TypeAlias

from celeb_basis.errors import MissingPackageError

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


# FOLDED: CLIP's tokenizer, made offline from the vocabulary file that ``open_clip_torch`` ships.
# FOLDED:
# FOLDED: A checkpoint in one file holds no tokenizer, and every Stable Diffusion uses this one.

Flavour = Literal["clip", "open_clip"]
"""``clip`` (SD1, SDXL's first) pads with the end-of-text token, ``open_clip`` (SD2, SDXL's second) with ``!``, id 0."""

START = "<|startoftext|>"
END = "<|endoftext|>"
MAX_TOKENS = 77
VOCABULARY_SIZE = 49_408

_FILE_NAME = "bpe_simple_vocab_16e6.txt.gz"
_REMEDY = "install it again with: pip install --force-reinstall open_clip_torch"


def clip_tokenizer(flavour: Flavour = "clip") -> Any:
    """The ``transformers.CLIPTokenizer`` of a Stable Diffusion text encoder, with 49,408 tokens and room for 77.

    Raises: :class:`MissingPackageError` if ``open_clip_torch`` or ``transformers`` is not installed, or the
    vocabulary in it is damaged.
    """
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise MissingPackageError("transformers is not installed: run pip install celeb-basis[diffusers].") from error
    vocabulary, merges = clip_vocabulary()
    padding = END if flavour == "clip" else "!"
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": padding,
    }
    # Through files, because that is the one way in that every transformers from 4.44 to 5 has.
    with tempfile.TemporaryDirectory(prefix="celeb-basis-") as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    tokenizer.name_or_path = ""
    return tokenizer


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's byte-pair vocabulary (token to id, 49,408 of them) and its merges, best first.

    Raises: :class:`MissingPackageError` if ``open_clip_torch`` is not installed or its file is damaged.
    """
    path = _vocabulary_file()
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise MissingPackageError(f"CLIP's vocabulary in open_clip_torch is damaged: {_REMEDY}.") from error
    # The first line is a heading; the file holds more merges than CLIP was trained with.
    merges = lines[1 : VOCABULARY_SIZE - 512 - 2 + 1]
    characters = _byte_characters()
    tokens = [*characters, *(char + "</w>" for char in characters), *("".join(merge.split()) for merge in merges)]
    tokens += [START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != VOCABULARY_SIZE:
        raise MissingPackageError(f"CLIP's vocabulary in open_clip_torch is damaged: {_REMEDY}.")
    return vocabulary, merges


def _vocabulary_file() -> Path:
    # find_spec does not run the package, whose import asks for torchvision.
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
