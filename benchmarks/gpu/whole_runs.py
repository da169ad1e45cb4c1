"""Whole runs in processes of their own: presets from nothing to the file, and learning on a card with little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.card import Card
from benchmarks.gpu.row import Measurement, memory_text, time_text
from celeb_basis.cli.demo import STRANGERS
from celeb_basis.faces.packs import MINIATURE
from celeb_basis.hosts.diffusers.configs import Family
from miniature.small_models.pipelines import make_pipeline, save_pipeline

NAMES: dict[Family, str] = {"sd1": "SD1.5", "sd2": "SD2.1", "sdxl": "SDXL"}
CAPS: dict[Family, float] = {"sd1": 4.0, "sdxl": 10.0}
"""Gigabytes (10^9 bytes) of a small card on which an architecture has to be learned."""


def measure_presets(card: Card, family: Family, presets: Sequence[str]) -> Iterator[Measurement]:
    """The command line, from the start of its process to the person's file, with a checkpoint on the disk."""
    with tempfile.TemporaryDirectory(prefix="celeb-basis-bench-") as temporary:
        folder = Path(temporary)
        small: dict[str, Any] = {"width": 64, "second_width": 64} if card.rehearse else {"full_size": True}
        pipeline = make_pipeline(family, device=card.device, dtype=card.dtype, **small)
        side = pipeline.unet.config.sample_size * 8
        save_pipeline(pipeline.to("cpu"), folder / "checkpoint")
        del pipeline
        card.reset_peak()
        for name in presets:
            yield _whole_run(card, f"{NAMES[family]}, {side}", name, folder)


def _whole_run(card: Card, model: str, preset: str, folder: Path) -> Measurement:
    command = ["celeb_basis", "learn", str(STRANGERS[0]), "--name", f"bench-{preset}"]
    command += ["--model", str(folder / "checkpoint"), "--device", card.device, "--dtype", "auto", "--faces", MINIATURE]
    command += ["--preset", preset, "--library", str(folder / "library"), "--json"]
    guessed = preset in ("quick", "best")
    if guessed:  # generating the celebrities is once per checkpoint, and a figure of its own
        command += ["--start", "mean"]
    if card.rehearse:
        command += ["--steps", "2", "--views", "2"]
    what = f"preset {preset}, from the start of the process to the file"
    answer, taken, reason = _answer(command, folder)
    if answer is None:
        return Measurement(model, what, "failed", reason)
    (person,) = answer["people"]
    detail = f"{person['steps']} steps took {time_text(person['seconds'])}"
    return Measurement(model, what, time_text(taken), detail + ("; without the celebrities' faces" if guessed else ""))


def measure_capped(card: Card, family: Family) -> Iterator[Measurement]:
    """Learning with views and a preview where torch's allocator may take no more than a small card has."""
    if (cap := CAPS.get(family)) is None:
        return
    with tempfile.TemporaryDirectory(prefix="celeb-basis-bench-") as temporary:
        command = ["benchmarks.gpu.small_card", family, "--gigabytes", f"{cap:g}"]
        command += ["--rehearse"] if card.rehearse else []
        answer, _, reason = _answer(command, Path(temporary))
    model, what = NAMES[family], f"learning within {cap:g} GB, views and a preview included"
    if answer is None:
        yield Measurement(model, what, "failed", reason)
        return
    detail = f"{answer['steps']} steps at {answer['size']} pixels with the preset balanced, gradient checkpointing "
    detail += f"{'on' if answer['checkpointing'] else 'off'}; at the peak {memory_text(answer['peak'])}"
    yield Measurement(model, what, "yes", detail)


def _answer(command: Sequence[str], folder: Path) -> tuple[Mapping[str, Any] | None, float, str]:
    """What ``python -m`` prints as JSON, the seconds that it took, and the last line of its errors if it failed."""
    environment = {**os.environ, "CELEB_BASIS_CACHE": str(folder / "cache")}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *command], check=False, capture_output=True, text=True, env=environment
    )
    taken = time.perf_counter() - started
    if done.returncode:
        return None, taken, (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
    return json.loads(done.stdout), taken, ""
