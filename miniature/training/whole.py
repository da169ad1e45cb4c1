"""The whole training by one command, from the people to a diffusers folder.

``python -m miniature.training.whole MODEL --device cuda --processes 16 --minutes 9`` begins with the weights that are kept
with the project, does what is missing, and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from miniature.training.kept import KEPT, bring
from miniature.training.places import work_folder
from miniature.training.unet import SIZES
from miniature.world.people import PEOPLE_FILE
from miniature.world.scenes import SIDE

_log = logging.getLogger(__name__)

_MEMORY = ":".join(
    f"glibc.malloc.{option}" for option in ("hugetlb=1", "mmap_max=0", f"trim_threshold={10**11}", "arena_max=1")
)
"""Keep freed memory, in large pages: else a step on a CPU spends a tenth of its time on getting it again."""

_PORTRAITS = 0.6
"""Share of portraits from the front in what the denoiser sees: who is who is learned soonest of them."""


@dataclass(frozen=True)
class Settings:
    """How much, where, and of whom."""

    device: str = "cpu"
    processes: int = 1
    minutes: float = 60.0
    """Of the denoiser."""
    windows: float = 0.6
    """Share of them in which it sees windows around faces only, which are cheaper than whole pictures."""
    text_minutes: float = 16.0
    autoencoder_minutes: float = 60.0
    shards: int = 40
    holding: int = 8
    """Shards more of people who hold something, whom few scenes show."""
    portraits: int = 10
    """Shards more of portraits from the front, which the denoiser sees half of the time."""
    looks: int = 24
    unnamed: int = 100
    extras: int = 3600
    """People without a name of whom there are portraits only, and :attr:`extra_shards` shards of these."""
    extra_shards: int = 10
    size: str = "small"
    batch: int = 64
    side: int = SIDE
    people: Path = PEOPLE_FILE
    names: int | None = None
    more: tuple[str, ...] = ()
    """Further arguments of the denoiser."""


def steps(model: Path, work: Path, settings: Settings) -> Iterator[list[str]]:
    """The commands that are still to be run, as words after ``python -m``, each when those before it are done."""
    bank, pictures = work / "bank", work / "pictures"
    one = settings
    people = ["--people", str(one.people), *([] if one.names is None else ["--names", str(one.names)])]
    beside, device = ["--processes", str(one.processes)], ["--device", one.device]
    drawn = ["--looks", str(one.looks), "--unnamed", str(one.unnamed), "--extras", str(one.extras)]
    yield ["miniature.world.bank", str(bank), *people, *drawn, *beside]
    shards = ["--shards", str(one.shards), "--holding", str(one.holding), "--portraits", str(one.portraits)]
    shards += ["--extras", str(one.extra_shards)] if one.extras else []
    yield ["miniature.world.pool", str(pictures), "--bank", str(bank), *people, *shards, *beside]
    if not (work / "text.safetensors").exists():
        minutes = ["--minutes", str(one.text_minutes)]
        yield ["miniature.training.text_pretraining", "--pairs", str(pictures / "pairs"), *people, *minutes, *device]
    if not (work / "encoder.safetensors").exists():
        minutes = ["--minutes", str(one.autoencoder_minutes), "--side", str(one.side), "--finish"]
        yield ["miniature.training.autoencoder", str(pictures), *minutes, *device]
    yield ["miniature.training.latents", str(pictures), "--side", str(one.side), *device, *beside]
    size = ["--size", one.size]
    denoiser = ["miniature.training.denoiser", "--bank", str(bank), *people, *size, "--batch", str(one.batch)]
    denoiser += [*device, *beside, *(["--portraits", str(_PORTRAITS)] if one.portraits else [])]
    if one.windows:
        minutes = ["--minutes", str(one.minutes * one.windows), "--keep-rates"]
        # Two thirds of a picture's side, in steps of what the network halves twice.
        yield [*denoiser, *minutes, "--window", str(one.side * 2 // 3 // 32 * 4), *one.more]
    yield [*denoiser, "--minutes", str(one.minutes * (1 - one.windows)), *one.more]
    yield ["miniature.training.export", str(model), *size, *people, "--side", str(one.side)]


def train(model: Path, work: Path, settings: Settings) -> None:
    """Run all steps, and log how long each took.

    Raises:
        subprocess.CalledProcessError: A step failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    # A text encoder knows the people whom it was trained on, and what is kept is of the world's own.
    if KEPT.is_dir() and settings.people == PEOPLE_FILE:
        brought = bring(work, denoiser=settings.size == "small")
        _log.info("Kept before: %s", ", ".join(brought) or "nothing that is missing")
    for step in steps(model, work, settings):
        begun = time.monotonic()
        _log.info("%s", " ".join(step))
        environment = {"GLIBC_TUNABLES": _MEMORY, **os.environ, "CELEB_BASIS_TRAINING": str(work)}
        subprocess.run([sys.executable, "-m", *step], check=True, env=environment)
        _log.info("%s took %.0f s", step[0], time.monotonic() - begun)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    usual = Settings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the diffusers folder to write")
    parser.add_argument("--device", default=usual.device, help="cuda for a GPU")
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        help="that draw, and train on a CPU (%(default)s)",
    )
    parser.add_argument("--minutes", type=float, default=usual.minutes, help="of the denoiser (%(default)s)")
    parser.add_argument("--windows", type=float, default=usual.windows, help="share of them with windows (%(default)s)")
    parser.add_argument("--text-minutes", type=float, default=usual.text_minutes, help="(%(default)s)")
    parser.add_argument("--autoencoder-minutes", type=float, default=usual.autoencoder_minutes, help="(%(default)s)")
    parser.add_argument("--shards", type=int, default=usual.shards, help="of 1,024 pictures (%(default)s)")
    parser.add_argument(
        "--holding", type=int, default=usual.holding, help="shards more, of people who hold something (%(default)s)"
    )
    parser.add_argument(
        "--portraits", type=int, default=usual.portraits, help="shards more, of portraits only (%(default)s)"
    )
    parser.add_argument("--looks", type=int, default=usual.looks, help="pictures of a person (%(default)s)")
    parser.add_argument("--unnamed", type=int, default=usual.unnamed, help="people without a name (%(default)s)")
    parser.add_argument(
        "--extras", type=int, default=usual.extras, help="people of whom there are portraits only (%(default)s)"
    )
    parser.add_argument(
        "--extra-shards", type=int, default=usual.extra_shards, help="shards of their portraits (%(default)s)"
    )
    parser.add_argument("--size", choices=SIZES, default=usual.size, help="of the denoiser (%(default)s)")
    parser.add_argument("--batch", type=int, help="512 on a GPU by default, else 64")
    parser.add_argument("--side", type=int, default=usual.side, help="of the pictures (%(default)s)")
    parser.add_argument("--people", type=Path, default=usual.people)
    parser.add_argument("--names", type=int, help="so many of the named people; all by default")
    options, more = parser.parse_known_args(arguments)
    if not 0 <= options.windows < 1:
        parser.error("--windows is a share from 0 to less than 1: the denoiser has to end with whole pictures")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options.batch = options.batch or (usual.batch if options.device == "cpu" else 512)
    values = {name: value for name, value in vars(options).items() if name != "model"}
    train(options.model, work_folder(), Settings(**values, more=tuple(more)))


if __name__ == "__main__":
    main()
