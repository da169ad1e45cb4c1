"""Shards of a pool on the disk: their files, what they show, and what the denoiser is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from celeb_basis.files import atomic_path

HOLDING_FROM = 5_000
"""Number of the first shard that shows people who hold something only."""
PORTRAITS_FROM = 10_000
"""Number of the first shard that shows portraits from the front only."""
EXTRAS_FROM = 20_000
"""Number of the first shard that shows portraits of extras only."""


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.safetensors"


def shard_paths(folder: Path) -> list[Path]:
    """Complete shards of a pool, oldest first."""
    return sorted(folder.glob("shard-*.safetensors"))


def shard_number(path: Path) -> int:
    """The number of a shard, by its file."""
    return int(path.stem.partition("-")[2])


@dataclass(frozen=True)
class Shard:
    """A part of the pool."""

    latents: Tensor
    """``(N, 4, h, w)`` float16 means of the autoencoder, not scaled."""
    captions: Tensor
    """``(N, C, 77)`` int32 token ids."""
    faces: Tensor | None = None
    """``(N, h, w)`` bool: which latents show a face; None where that is unknown."""


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
