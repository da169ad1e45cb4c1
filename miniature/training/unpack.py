"""Conversion of the shipped weights back to training states, to continue training from them.

``python -m miniature.training.unpack FOLDER``. The optimizers start again, and the weights were rounded to float16.
Nothing else is lost.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from celeb_basis.miniature import MODEL
from miniature.trainer.text_model import Tokens, WorldText
from miniature.training.autoencoder import new_autoencoder
from miniature.training.autoencoder_start import unfold
from miniature.training.captions import used_tokens
from miniature.training.checkpoints import save_state
from miniature.training.latent_scale import SCALING_FACTOR, LatentScale
from miniature.training.people import read_people
from miniature.training.places import work_folder
from miniature.training.unet import new_unet


def unpack(pipeline: Any, folder: Path, step: int) -> None:
    """Write the autoencoder, ``text`` and ``denoiser-state`` (at ``step``) and the latents' scale to ``folder``."""
    vae = new_autoencoder()
    vae.load_state_dict(pipeline.vae.state_dict())
    unfold(vae)
    _standardized(vae)
    for name in ("autoencoder-state", "encoder", "decoder"):
        save_state(folder / f"{name}.safetensors", {"model": vae}, (), {"step": step})
    channels = int(vae.config.latent_channels)
    LatentScale((0.0,) * channels, (1.0,) * channels).write(folder / "latent-scale.json")
    text = WorldText(used_tokens(Tokens(), read_people().names))
    text.take(pipeline.text_encoder)
    save_state(folder / "text.safetensors", {"model": text}, (), {"step": step})
    unet = new_unet()
    unet.load_state_dict(pipeline.unet.state_dict())
    facts = {"step": step, "seconds": 0.0}
    save_state(folder / "denoiser-state.safetensors", {"unet": unet, "unet_ema": unet}, (), facts)


@torch.no_grad()
def _standardized(vae: Any) -> None:
    """Undo :data:`SCALING_FACTOR`, so that latents have deviation 1."""
    channels = int(vae.config.latent_channels)
    vae.quant_conv.weight[:channels] *= SCALING_FACTOR
    vae.quant_conv.bias[:channels] *= SCALING_FACTOR
    vae.quant_conv.bias[channels:] += 2 * math.log(SCALING_FACTOR)
    vae.post_quant_conv.weight /= SCALING_FACTOR


def main() -> None:
    """Parse the command line and write into the folder of the training."""
    import diffusers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=MODEL)
    parser.add_argument("--step", type=int, default=1000, help="how far the weights are, past the rates' warming up")
    arguments = parser.parse_args()
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(arguments.folder), torch_dtype=torch.float32)
    work_folder().mkdir(parents=True, exist_ok=True)
    unpack(pipeline, work_folder(), arguments.step)


if __name__ == "__main__":
    main()
