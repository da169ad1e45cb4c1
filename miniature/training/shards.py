"""Shards of a pool on the disk: their files, and what they show."""

from __future__ import annotations

from pathlib import Path

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
