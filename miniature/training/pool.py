"""The training set of the denoiser: latents with several captions each, in shards on the disk.

``python -m miniature.training.pool --shards 20`` adds shards. A running training loads new ones.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from celeb_basis.faces.network import Pixels
from celeb_basis.files import atomic_path
from miniature.trainer.text_model import Tokens
from miniature.training.captions import caption
from miniature.training.faces import SPREAD, FaceGenerator, candidate_numbers
from miniature.training.hardware import drawing_processes
from miniature.training.latent_scale import LatentScale
from miniature.training.people import MOVE, People, moved, read_people
from miniature.training.places import work_folder
from miniature.training.render import render
from miniature.training.scenes import ACCESSORIES, Scene, draw_scene
from miniature.training.shards import shard_name, shard_paths

_log = logging.getLogger(__name__)

SHARD = 2048
CAPTIONS = 8
"""Number of captions of each picture."""
UNNAMED = 0.08
"""Share of people who have no name and appear only once."""

UNKNOWN = -1
"""A person without a name in a scene."""


@dataclass(frozen=True)
class Shard:
    """A part of the pool."""

    latents: Tensor
    """``(N, 4, 16, 16)`` float16 means of the autoencoder, not scaled."""
    captions: Tensor
    """``(N, CAPTIONS, 77)`` int32 token ids."""
    faces: Tensor | None = None
    """``(N, h, w)`` bool: which latents show a face; None where that is unknown."""


def draw_pictures(
    people: People, count: int, seed: int, *, dressed: float = 0.0, batch: int = 64
) -> Iterator[tuple[Scene, Pixels]]:
    """Draw scenes of named people (rows of ``people``) and some unnamed ones, with their pictures.

    Args:
        people: The people.
        count: Number of scenes.
        seed: Of the random choices.
        dressed: Share of single people who wear an accessory.
        batch: Number of faces generated at once.
    """
    generator = FaceGenerator()
    numbers = candidate_numbers(list(people.candidates[: len(people.names)]))
    rng = np.random.default_rng([20230603, seed])
    for start in range(0, count, batch):
        scenes = [_with_strangers(draw_scene(rng, len(numbers)), rng) for _ in range(min(batch, count - start))]
        if dressed:
            scenes = [_dressed(scene, rng) if rng.random() < dressed else scene for scene in scenes]
        wanted = [person for scene in scenes for person in scene.people]
        rows = np.zeros((len(wanted), numbers.shape[1]), np.float32)
        for place, person in enumerate(wanted):
            anyone = SPREAD * rng.standard_normal(numbers.shape[1])
            rows[place] = anyone if person == UNKNOWN else numbers[person]
        faces = iter(generator.draw(moved(rows, rng, MOVE)))
        for scene in scenes:
            yield scene, render(scene, [next(faces) for _ in scene.people], rng).picture


def draw_shard(number: int, size: int = SHARD) -> tuple[Pixels, np.ndarray]:
    """Draw shard ``number`` before it is encoded: pictures ``(N, 128, 128, 3)`` and captions as in :class:`Shard`."""
    people, tokens = _words()
    rng = np.random.default_rng([20230604, number])
    pictures, captions = [], []
    for scene, picture in draw_pictures(people, size, number):
        names = [None if person == UNKNOWN else people.names[person] for person in scene.people]
        pictures.append(picture)
        captions.append(tokens([caption(scene, names, rng) for _ in range(CAPTIONS)]).numpy())
    return np.stack(pictures), np.stack(captions).astype(np.int32)


@cache
def _words() -> tuple[People, Tokens]:
    return read_people(), Tokens()


def encode(model: Any, pictures: Pixels, *, batch: int = 16, device: str = "cpu") -> Tensor:
    """Encode ``(N, 128, 128, 3)`` pictures to ``(N, 4, 16, 16)`` means of the autoencoder."""
    means = []
    with torch.no_grad():
        for start in range(0, len(pictures), batch):
            x = torch.from_numpy(pictures[start : start + batch]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            means.append(model.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean.float().cpu())
    return torch.cat(means)


def write_shard(folder: Path, number: int, shard: Shard) -> Path:
    """Write shard ``number`` atomically."""
    path = folder / shard_name(number)
    with atomic_path(path) as temporary:
        faces = {} if shard.faces is None else {"faces": shard.faces}
        save_file({"latents": shard.latents.half().contiguous(), "captions": shard.captions, **faces}, str(temporary))
    return path


def read_shard(path: Path) -> Shard:
    """Read a shard that :func:`write_shard` wrote."""
    stored = load_file(str(path))
    return Shard(stored["latents"], stored["captions"], stored.get("faces"))


def drawn_ahead(numbers: range, processes: int, size: int = SHARD) -> Iterator[tuple[Pixels, np.ndarray]]:
    """Results of :func:`draw_shard`, computed by other processes a few shards ahead."""
    with drawing_processes(processes) as pool:
        waiting: deque[Future[tuple[Pixels, np.ndarray]]] = deque()
        for number in numbers:
            waiting.append(pool.submit(draw_shard, number, size))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _with_strangers(scene: Scene, rng: np.random.Generator) -> Scene:
    return replace(scene, people=tuple(UNKNOWN if rng.random() < UNNAMED else person for person in scene.people))


def _dressed(scene: Scene, rng: np.random.Generator) -> Scene:
    plain = len(scene.people) == 1 and scene.pasted is None
    return replace(scene, accessories=(str(rng.choice(ACCESSORIES)),)) if plain else scene


def main() -> None:
    """Parse the command line and add shards."""
    from miniature.training.autoencoder import load_autoencoder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=20, help="how many there shall be in all")
    parser.add_argument("--threads", type=int, default=1, help="for encoding")
    parser.add_argument("--processes", type=int, default=1, help="for drawing")
    parser.add_argument("--device", default="cpu", help="cuda to encode on a GPU")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    # An end by exception: the processes that draw end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder, encoder = work_folder() / "pool", work_folder() / "encoder.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = None
    begun, numbers = time.monotonic(), range(len(shard_paths(folder)), arguments.shards)
    for number, (pictures, captions) in zip(numbers, drawn_ahead(numbers, arguments.processes), strict=True):
        while not encoder.exists():
            time.sleep(1)
        model = model or load_autoencoder(encoder).to(arguments.device)
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.device != "cpu"):
            latents = encode(model, pictures, batch=16 if arguments.device == "cpu" else 256, device=arguments.device)
        path = write_shard(folder, number, Shard(latents, torch.from_numpy(captions)))
        if not (scale := work_folder() / "latent-scale.json").exists():
            LatentScale.measured(latents).write(scale)
        _log.info("%s after %.0f s", path.name, time.monotonic() - begun)


if __name__ == "__main__":
    main()
