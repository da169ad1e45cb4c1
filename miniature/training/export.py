"""Export of the trained weights as a diffusers folder in float16, and as one LDM file with its ``.yaml``.

``python -m miniature.training.export [FOLDER] [--single FILE]``. FOLDER is by default that of the shipped weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from celeb_basis.files import write_text
from celeb_basis.hosts.diffusers.configs import Config
from celeb_basis.miniature import MODEL, NAMES
from miniature.small_models.ldm_layout import save_single_file
from miniature.small_models.pipelines import save_pipeline
from miniature.trainer.text_model import Tokens, WorldText
from miniature.training.autoencoder import load_autoencoder
from miniature.training.autoencoder_start import folded
from miniature.training.captions import used_tokens
from miniature.training.checkpoints import load_state
from miniature.training.diffusion import SCHEDULER
from miniature.training.latent_scale import LatentScale
from miniature.training.people import read_people
from miniature.training.places import work_folder
from miniature.training.unet import new_unet


def trained_pipeline(folder: Path) -> Any:
    """A ``StableDiffusionPipeline`` in float32 from the states in ``folder``: averaged weights, standardized latents."""
    import diffusers

    tokens = Tokens()
    text = WorldText(used_tokens(tokens, read_people().names))
    unet = new_unet()
    load_state(folder / "denoiser-state.safetensors", {"unet_ema": unet})
    load_state(folder / "text.safetensors", {"model": text})
    scale = LatentScale.read(folder / "latent-scale.json")
    scheduler: Config = dict(SCHEDULER)
    return diffusers.StableDiffusionPipeline(
        vae=scale.built_in(folded(trained_autoencoder(folder))).eval(),
        text_encoder=text.whole(),
        tokenizer=tokens.tokenizer,
        unet=unet.eval(),
        scheduler=diffusers.DDIMScheduler.from_config(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def trained_autoencoder(folder: Path) -> Any:
    """The encoder with which the pool was encoded, and the decoder with its later training."""
    decoder = folder / "decoder.safetensors"
    return load_autoencoder(decoder if decoder.exists() else folder / "encoder.safetensors")


def compact(path: Path) -> None:
    """Rewrite a JSON file without spaces, because the vocabulary would otherwise take a quarter of a million lines."""
    content = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def declare_float32(config: Path) -> None:
    """Let transformers load the text encoder in float32, as diffusers loads the rest when it is given no precision."""
    content = json.loads(config.read_text(encoding="utf-8"))
    write_text(config, json.dumps({**content, "dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=MODEL)
    parser.add_argument("--single", type=Path, help="the LDM file to write, with its .yaml beside it")
    arguments = parser.parse_args()
    pipeline = trained_pipeline(work_folder()).to(torch.float16)
    save_pipeline(pipeline, arguments.folder)
    declare_float32(arguments.folder / "text_encoder" / "config.json")
    compact(arguments.folder / "tokenizer" / "tokenizer.json")
    write_text(arguments.folder / NAMES.name, "\n".join(read_people().names) + "\n")
    if arguments.single:
        save_single_file(pipeline, arguments.single)


if __name__ == "__main__":
    main()
