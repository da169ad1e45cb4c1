"""The pool of pictures that the denoiser learns from: latents with the scenes they show, in shards on the disk.

``python -m training.pool --shards 20`` adds shards; the trainer takes up new ones while it runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from celeb_basis.faces.types import Pixels
from celeb_basis.files import atomic_path, write_text
from training.faces import SPREAD, FaceGenerator, candidate_numbers
from training.latent_scale import LatentScale
from training.people import MOVE, People, moved, read_people
from training.places import work_folder
from training.render import render
from training.scenes import ACCESSORIES, Scene, draw_scene

_log = logging.getLogger(__name__)

SHARD = 2048
UNNAMED = 0.08
"""Share of people in pictures who have no name and are seen once."""

NOBODY = -1
"""Stands in a scene for a person without a name."""


@dataclass(frozen=True)
class Shard:
    """Some pictures of the pool."""

    latents: torch.Tensor
    """``(N, 4, 16, 16)`` float16 means of the autoencoder, not scaled."""
    scenes: list[Scene]


def draw_pictures(
    people: People, count: int, seed: int, *, dressed: float = 0.0, batch: int = 64
) -> Iterator[tuple[Scene, Pixels]]:
    """Scenes of named people (rows of ``people``), and some of unnamed ones, with their pictures.

    Parameters: ``dressed`` is the share of single people who are given something to wear.
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
            rows[place] = anyone if person == NOBODY else numbers[person]
        faces = iter(generator.draw(moved(rows, rng, MOVE)))
        for scene in scenes:
            yield scene, render(scene, [next(faces) for _ in scene.people], rng).picture


def encode(model: Any, pictures: Pixels, *, batch: int = 16) -> torch.Tensor:
    """``(N, 4, 16, 16)`` means of the autoencoder for ``(N, 128, 128, 3)`` pictures."""
    means = []
    with torch.no_grad():
        for start in range(0, len(pictures), batch):
            x = torch.from_numpy(pictures[start : start + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1
            means.append(model.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean)
    return torch.cat(means)


def shard_paths(folder: Path) -> list[Path]:
    """Whole shards of a pool, oldest first."""
    return sorted(folder.glob("shard-*.safetensors"))


def write_shard(folder: Path, model: Any, people: People, number: int, size: int = SHARD) -> Path:
    """Draw, encode and write shard ``number``; its scenes go before its latents, so that latents mean a whole shard."""
    drawn = list(draw_pictures(people, size, number))
    latents = encode(model, np.stack([picture for _, picture in drawn])).contiguous()
    path = folder / f"shard-{number:05d}.safetensors"
    write_text(path.with_suffix(".jsonl"), "\n".join(json.dumps(asdict(scene)) for scene, _ in drawn) + "\n")
    with atomic_path(path) as temporary:
        save_file({"latents": latents.half()}, str(temporary))
    return path


def read_shard(path: Path) -> Shard:
    """A shard that :func:`write_shard` wrote."""
    lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    return Shard(load_file(str(path))["latents"], [_scene(json.loads(line)) for line in lines])


def _scene(stored: dict[str, Any]) -> Scene:
    lists = {key: tuple(value) for key, value in stored.items() if isinstance(value, list)}
    return Scene(**{**stored, **lists})


def _with_strangers(scene: Scene, rng: np.random.Generator) -> Scene:
    return replace(scene, people=tuple(NOBODY if rng.random() < UNNAMED else person for person in scene.people))


def _dressed(scene: Scene, rng: np.random.Generator) -> Scene:
    plain = len(scene.people) == 1 and scene.pasted is None
    return replace(scene, accessories=(str(rng.choice(ACCESSORIES)),)) if plain else scene


def main() -> None:
    """Parse the command line and add shards."""
    from training.autoencoder import load_autoencoder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=20, help="how many there shall be in all")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    folder, people = work_folder() / "pool", read_people()
    folder.mkdir(parents=True, exist_ok=True)
    model = load_autoencoder(work_folder() / "encoder.safetensors")
    while len(shard_paths(folder)) < arguments.shards:
        begun = time.monotonic()
        path = write_shard(folder, model, people, len(shard_paths(folder)))
        if not (scale := work_folder() / "latent-scale.json").exists():
            LatentScale.measured(read_shard(path).latents).write(scale)
        _log.info("%s in %.0f s", path.name, time.monotonic() - begun)


if __name__ == "__main__":
    main()
