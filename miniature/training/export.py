"""Export of what was trained as a diffusers folder in float16, and as one LDM file with its ``.yaml``.

``python -m miniature.training.export FOLDER [--size large] [--single FILE]``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from celeb_basis.files import write_text
from celeb_basis.hosts.diffusers.configs import Config
from celeb_basis.miniature import NAMES
from miniature.small_models.ldm_layout import save_single_file
from miniature.small_models.pipelines import save_pipeline
from miniature.training.autoencoder import trained_autoencoder
from miniature.training.autoencoder_start import folded
from miniature.training.checkpoints import load_state
from miniature.training.diffusion import SCHEDULER
from miniature.training.latent_scale import LatentScale
from miniature.training.places import work_folder
from miniature.training.text_model import Tokens, load_text
from miniature.training.unet import SIZES, new_unet, unet_config
from miniature.world.people import PEOPLE_FILE, read_people


def trained_pipeline(folder: Path, size: str, sample_size: int | None = None) -> Any:
    """A ``StableDiffusionPipeline`` in float32 from the states in ``folder``: averaged weights, standardized latents.

    Args:
        folder: Of the training.
        size: A key of :data:`miniature.training.unet.SIZES`.
        sample_size: Side of the latents; the world's by default.
    """
    import diffusers

    config = unet_config(size)
    unet = new_unet({**config, "sample_size": sample_size or config["sample_size"]})
    load_state(folder / "denoiser-state.safetensors", {"unet_ema": unet})
    scale = LatentScale.read(folder / "latent-scale.json")
    scheduler: Config = dict(SCHEDULER)
    return diffusers.StableDiffusionPipeline(
        vae=scale.built_in(folded(trained_autoencoder(folder))).eval(),
        text_encoder=load_text(folder / "text.safetensors").whole(),
        tokenizer=Tokens().tokenizer,
        unet=unet.eval(),
        scheduler=diffusers.DDIMScheduler.from_config(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--side", type=int, help="of the pictures in pixels, if it is not the world's")
    parser.add_argument("--people", type=Path, default=PEOPLE_FILE)
    parser.add_argument("--names", type=int, help="so many of the named people; all by default")
    parser.add_argument("--single", type=Path, help="the LDM file to write, with its .yaml beside it")
    arguments = parser.parse_args()
    sample_size = arguments.side // 8 if arguments.side else None
    pipeline = trained_pipeline(work_folder(), arguments.size, sample_size).to(torch.float16)
    save_pipeline(pipeline, arguments.folder)
    declare_float32(arguments.folder / "text_encoder" / "config.json")
    compact(arguments.folder / "tokenizer" / "tokenizer.json")
    names = read_people(arguments.people).names[: arguments.names]
    write_text(arguments.folder / NAMES.name, "\n".join(names) + "\n")
    if arguments.single:
        save_single_file(pipeline, arguments.single)


if __name__ == "__main__":
    main()
