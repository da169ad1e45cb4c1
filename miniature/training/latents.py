"""The pool as latents, with which the denoiser is trained.

``python -m miniature.training.latents POOL`` encodes shards that are not encoded yet, with the finished encoder.
"""

from __future__ import annotations

import argparse
import logging
import time
from concurrent.futures import as_completed
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celeb_basis.faces.network import Floats
from miniature.training.autoencoder import load_autoencoder
from miniature.training.hardware import drawing_processes, half_precision, ready_for_half
from miniature.training.latent_scale import LatentScale
from miniature.training.pictures import encode
from miniature.training.places import work_folder
from miniature.training.shards import Shard, shard_number, shard_paths, write_shard
from miniature.world.pool import read_shard, reduced
from miniature.world.scenes import SIDE

_ACROSS, _DOWN = (0.25, 0.75), (0.36, 0.98)
"""Shares of a head's box that its face lies between."""

_SCALE = "latent-scale.json"

_log = logging.getLogger(__name__)


def encode_pool(pool: Path, folder: Path, *, side: int = SIDE, device: str = "cpu", processes: int = 1) -> int:
    """Encode new shards of ``pool`` into ``folder/pool``, and measure the latents' scale on the first one.

    Args:
        pool: The pictures.
        folder: Of the training, with ``encoder.safetensors``.
        side: To which pictures are reduced first, a multiple of 8.
        device: Where to encode.
        processes: That encode side by side on a CPU, one core each.

    Returns:
        How many shards were encoded.

    Raises:
        ValueError: ``pool`` is the folder of the latents.
    """
    target, begun = folder / "pool", time.monotonic()
    if target.resolve() == pool.resolve():
        raise ValueError(f"{pool} is where the latents go: keep the pictures in another folder.")
    target.mkdir(parents=True, exist_ok=True)
    missing = [path for path in shard_paths(pool) if not (target / path.name).exists()]
    alone = len(missing)
    if device == "cpu" and processes > 1:
        alone = 0 if (folder / _SCALE).exists() else 1
    for path in missing[:alone]:
        _encode(path, folder, side, device)
        _log.info("%s after %.0f s", path.name, time.monotonic() - begun)
    if missing[alone:]:
        with drawing_processes(processes) as beside:
            for done in as_completed([beside.submit(_encode, path, folder, side) for path in missing[alone:]]):
                _log.info("%s after %.0f s", done.result(), time.monotonic() - begun)
    return len(missing)


def _encode(path: Path, folder: Path, side: int, device: str = "cpu") -> str:
    shard, batch, scale = read_shard(path), 8 if device == "cpu" else 128, folder / _SCALE
    with half_precision(device):
        latents = encode(_encoder(folder, device), reduced(shard.pictures, side), batch=batch, device=device)
    if not scale.exists():
        LatentScale.measured(latents).write(scale)
    faces = face_masks((shard.boxes / SIDE).astype(np.float32), latents.shape[-1])
    write_shard(folder / "pool", shard_number(path), Shard(latents, torch.from_numpy(shard.captions), faces))
    return path.name


@cache
def _encoder(folder: Path, device: str) -> Any:
    model = load_autoencoder(folder / "encoder.safetensors")
    return ready_for_half(model, device).to(device)


def face_masks(boxes: Floats, side: int) -> Tensor:
    """Which latents show a face: the inner part of a head, without most of the hair.

    Args:
        boxes: ``(N, 2, 3)`` left, top and width of the heads as shares of the picture; width 0 where there is none.
        side: Of the latents.

    Returns:
        ``(N, side, side)`` bool.
    """
    middle = (np.arange(side) + 0.5) / side
    left, top, width = (boxes[:, :, value, None] for value in range(3))
    columns, rows = (
        (middle >= first + low * width) & (middle < first + high * width)
        for first, (low, high) in ((left, _ACROSS), (top, _DOWN))
    )
    return torch.from_numpy((rows[..., :, None] & columns[..., None, :]).any(1))


def main() -> None:
    """Parse the command line and encode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path, help="folder of miniature.world.pool")
    parser.add_argument("--side", type=int, default=SIDE, help="smaller pictures, for a proof on a CPU (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="side by side on a CPU, one core each (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cuda to encode on a GPU")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options = {"side": arguments.side, "device": arguments.device, "processes": arguments.processes}
    encode_pool(arguments.pool, work_folder(), **options)


if __name__ == "__main__":
    main()
