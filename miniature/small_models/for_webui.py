"""Writing a small SD1 for the WebUI, whose own configs describe the full sizes only.

``python -m miniature.small_models.for_webui WEBUI/models/Stable-diffusion`` writes the shipped miniature there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError, HostError, MissingPackageError
from celeb_basis.files import write_json, write_text
from celeb_basis.hosts.diffusers.configs import END, MAX_TOKENS, START, clip_vocabulary
from celeb_basis.hosts.diffusers.pipelines import family_of
from celeb_basis.miniature import NAME, NAMES, shipped_model
from miniature.small_models.ldm_layout import ldm_yaml, save_weights

if TYPE_CHECKING:
    from celeb_basis.hosts.diffusers.configs import Config


def save_for_webui(pipeline: Any, path: Path) -> list[Path]:
    """Write ``path`` (``.safetensors``), the ``.yaml`` beside it, and the folder of the text encoder that it names.

    The ``.yaml`` holds the absolute path of that folder, as the original code requires. Write the files again after
    moving them.

    Raises:
        HostError: The pipeline is not of the family SD1.
        FileError: A file cannot be written.
    """
    if family_of(pipeline) != "sd1":
        raise HostError("Only an SD1 of any size can be written for the WebUI: choose one.")
    text = path.with_name(f"{path.stem}-text-encoder").absolute()
    for name, content in _text_encoder_files(pipeline.text_encoder.config).items():
        write_text(text / name, content)
    save_weights(pipeline, path)
    import yaml  # type: ignore[import-untyped]

    config = webui_yaml(pipeline, text)
    write_text(path.with_suffix(".yaml"), yaml.safe_dump(config, sort_keys=False))
    write_json(text / "about.json", {"belongs_to": path.name})
    return [path, path.with_suffix(".yaml"), text]


def webui_yaml(pipeline: Any, text_encoder: Path) -> Config:
    """The full config from which the original code builds a model."""
    config = ldm_yaml(pipeline)
    params = config["model"]["params"]
    params |= {
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "channels": pipeline.unet.config.in_channels,
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "use_ema": False,
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": str(text_encoder)},
        },
    }
    params["first_stage_config"]["params"]["lossconfig"] = {"target": "torch.nn.Identity"}
    return config


def _text_encoder_files(config: Any) -> dict[str, str]:
    """Files that ``FrozenCLIPEmbedder`` reads beside the weights: the config of the encoder and its tokenizer."""
    vocabulary, merges = clip_vocabulary()
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "do_lower_case": True, **special}
    known = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    known += ["max_position_embeddings", "hidden_act", "layer_norm_eps", "projection_dim"]
    # The older transformers of the WebUI pools at the largest id when the end-of-text id is 2.
    encoder = {name: getattr(config, name) for name in known} | {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    return {
        "config.json": json.dumps({"model_type": "clip_text_model", "architectures": ["CLIPTextModel"], **encoder}),
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n",
        "tokenizer_config.json": json.dumps(tokenizer),
        "special_tokens_map.json": json.dumps(special),
    }


def put_miniature(folder: Path) -> list[Path]:
    """Write the miniature and the list of its names into a WebUI's folder of checkpoints.

    Raises:
        HostError: ``folder`` is not a folder, or the miniature is missing.
        MissingPackageError: diffusers is not installed.
    """
    if not folder.is_dir():
        raise HostError(f"{folder} is not a folder: name the WebUI's models/Stable-diffusion.")
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise MissingPackageError("diffusers is not installed: run pip install celeb-basis[diffusers].") from error
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        str(shipped_model()), torch_dtype=torch.float16, local_files_only=True
    )
    written = save_for_webui(pipeline, folder / f"{NAME}.safetensors")
    names = folder / f"{NAME}-names.txt"
    write_text(names, NAMES.read_text(encoding="utf-8"))
    return [*written, names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and write the files; returns 1 if that is not possible."""
    parser = argparse.ArgumentParser(description="Put the miniature model into a WebUI.")
    parser.add_argument("folder", type=Path, help="the WebUI's models/Stable-diffusion")
    try:
        written = put_miniature(parser.parse_args(arguments).folder)
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.writelines(f"{path}\n" for path in written)
    sys.stdout.write(f"Start the WebUI with --celeb-basis-names {written[-1]}: the miniature knows no other people.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
