"""What the denoiser leaves of encoded pictures: the decoder learns from it what it will have to draw.

A denoiser never ends exactly at latents that the encoder would give, and the decoder has seen no others. Here noise is
added to the latents of pictures, as much as before one of the last steps of sampling, and the denoiser removes it by
their captions: what is left shows the same, pixel by pixel, with the denoiser's own mistakes.

``python -m miniature.trainer.denoised POOL`` does that for the shards of a pool, and ``autoencoder --decoder --denoised``
trains on it.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from concurrent.futures import as_completed
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from celeb_basis.files import atomic_path
from miniature.trainer.autoencoder import DENOISED, load_autoencoder
from miniature.trainer.denoiser import SIZES, unet_config
from miniature.trainer.text_model import Tokens, load_text
from miniature.training.checkpoints import load_state
from miniature.training.diffusion import Denoiser, alphas_bar, noised, sample, step_time
from miniature.training.hardware import drawing_processes, half_precision, ready_for_half
from miniature.training.latent_scale import LatentScale
from miniature.training.places import work_folder
from miniature.training.pool import encode
from miniature.training.shards import shard_number, shard_paths
from miniature.training.unet import new_unet
from miniature.world.pool import read_shard

STEPS, GUIDANCE, BATCH = 20, 3.0, 32
"""As the gate draws."""
LAST = (2, 3, 4, 5)
"""How many of the last steps are done: so few that nothing moves, and details are the denoiser's own."""

_log = logging.getLogger(__name__)


@torch.no_grad()
def left_of(latents: Tensor, states: Tensor, empty: Tensor, denoise: Denoiser, last: int, seed: int) -> Tensor:
    """Add noise to latents and remove it again, by the last steps of sampling.

    Args:
        latents: ``(N, 4, h, w)``, standardized.
        states: ``(N, L, D)`` of a caption each.
        empty: ``(1, L, D)`` of the empty one.
        denoise: Predicts velocities.
        last: How many steps.
        seed: Of the noise.

    Returns:
        ``(N, 4, h, w)``.
    """
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents.device)
    share = alphas_bar().to(latents.device)[step_time(last - 1, STEPS)].expand(len(latents))
    noisy, _ = noised(latents, noise, share)
    return sample(denoise, states, empty, noisy, steps=STEPS, guidance=GUIDANCE, last=last)


def denoise_pool(pool: Path, folder: Path, size: str, *, device: str = "cpu", processes: int = 1) -> int:
    """Do it for the shards of ``pool`` that have not been done, into ``folder/denoised``; returns how many.

    Raises:
        FileNotFoundError: ``folder`` lacks a state of the encoder, the text encoder or the denoiser.
    """
    begun = time.monotonic()
    (folder / DENOISED).mkdir(parents=True, exist_ok=True)
    missing = [path for path in shard_paths(pool) if not (folder / DENOISED / path.name).exists()]
    if device != "cpu" or processes == 1:
        for path in missing:
            _log.info("%s after %.0f s", _denoise_shard(path, folder, size, device), time.monotonic() - begun)
    elif missing:
        with drawing_processes(processes) as beside:
            for done in as_completed([beside.submit(_denoise_shard, path, folder, size) for path in missing]):
                _log.info("%s after %.0f s", done.result(), time.monotonic() - begun)
    return len(missing)


def _denoise_shard(path: Path, folder: Path, size: str, device: str = "cpu") -> str:
    shard, number = read_shard(path), shard_number(path)
    model, text, denoise, scale = _networks(folder, size, device)
    with half_precision(device):
        latents = scale.standardized(encode(model, shard.pictures, batch=8 if device == "cpu" else 128, device=device))
    generator = torch.Generator().manual_seed(number)
    which = torch.randint(shard.captions.shape[1], (len(latents),), generator=generator)
    ids = torch.from_numpy(shard.captions)[torch.arange(len(latents)), which].long()
    order, found = torch.randperm(len(latents), generator=generator), torch.empty_like(latents)
    empty = _states(text, Tokens()([""]), device)
    for part, rows in enumerate(torch.split(order, BATCH)):
        moved = left_of(
            latents[rows].to(device),
            _states(text, ids[rows], device),
            empty,
            denoise,
            LAST[part % len(LAST)],
            1000 * number + part,
        )
        found[rows] = moved.cpu()
    with atomic_path(folder / DENOISED / path.name) as temporary:
        save_file({"latents": scale.raw(found).half().contiguous()}, str(temporary))
    return path.name


@torch.no_grad()
def _states(text: Callable[[Tensor], Tensor], ids: Tensor, device: str) -> Tensor:
    return text(ids.to(device))


@cache
def _networks(folder: Path, size: str, device: str) -> tuple[Any, Any, Denoiser, LatentScale]:
    """Encoder, text encoder, averaged denoiser, and the latents' scale."""
    encoder = ready_for_half(load_autoencoder(folder / "encoder.safetensors"), device).to(device)
    unet = new_unet(unet_config(size))
    load_state(folder / "denoiser-state.safetensors", {"unet_ema": unet})
    unet = ready_for_half(unet.eval(), device).to(device, memory_format=torch.channels_last)

    def denoise(noisy: Tensor, times: Tensor, states: Tensor) -> Tensor:
        with half_precision(device):
            velocity: Tensor = unet(noisy.contiguous(memory_format=torch.channels_last), times, states).sample
        return velocity.float()

    text = load_text(folder / "text.safetensors").to(device)
    return encoder, text, denoise, LatentScale.read(folder / "latent-scale.json")


def main() -> None:
    """Parse the command line and denoise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path, help="folder of miniature.world.pool")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--processes", type=int, default=1, help="side by side on a CPU, one core each (%(default)s)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options = {"device": arguments.device, "processes": arguments.processes}
    denoise_pool(arguments.pool, work_folder(), arguments.size, **options)


if __name__ == "__main__":
    main()
