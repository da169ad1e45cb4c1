"""``python -m benchmarks.gpu.small_card sd1 --gigabytes 4``: learning where torch may take only so much of a card.

Prints what was done as JSON. It runs in a process of its own, because the limit and what is reserved hold for a process.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.card import Card
from celeb_basis.cli.demo import STRANGERS
from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.events import follow
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import MINIATURE, find_pack
from celeb_basis.hosts.diffusers import DiffusersHost
from celeb_basis.names.lists import shipped_names
from celeb_basis.settings import PRESETS
from celeb_basis.training.memory import estimate
from celeb_basis.training.run import PhotoInput, TrainingSession, TrainingTask
from celeb_basis.training.trainer import Trainer
from miniature.small_models.pipelines import make_pipeline

_STEPS, _VIEWS, _SAMPLING_STEPS = 6, 4, 4


def learn_within(card: Card, family: Any, limit: float) -> dict[str, Any]:
    """Learn a few steps of the preset *balanced*, with a preview in the middle.

    Args:
        card: The device. In a rehearsal nothing is limited.
        family: Which architecture.
        limit: Bytes that torch's allocator may take.

    Raises:
        OutOfMemoryError: If it does not fit.
    """
    if not card.rehearse:
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / 1e9 / card.gigabytes))
    small: dict[str, Any] = {"width": 64, "second_width": 64} if card.rehearse else {"full_size": True}
    pipeline = make_pipeline(family, dtype=card.dtype, **small).to(card.device)
    host = DiffusersHost(pipeline, name=f"random-{family}", sha256="0" * 64)
    settings = PRESETS["balanced"].changed({"steps": _STEPS, "views": _VIEWS, "early_stop": False})

    def preview(trainer: Trainer) -> None:
        if trainer.step == _STEPS // 2:
            (coefficients,) = trainer.results().values()
            vectors = [basis.expand(one) for basis, one in zip(trainer.bases, coefficients, strict=True)]
            request = GenerationRequest("a photo of <a>", placeholder_tokens={"<a>": vectors}, steps=_SAMPLING_STEPS)
            list(host.generate(request))

    card.reset_peak()
    faces = InsightFaceNetwork(find_pack(MINIATURE).folder)
    session = TrainingSession(host, shipped_names(), faces, on_step=preview)
    need = estimate(host, settings)
    task = TrainingTask((PhotoInput("a", (Path(STRANGERS[0]),)),), settings)
    result = follow(session.learn(task, threading.Event()), lambda _event: None)
    return {
        "steps": result.steps,
        "size": host.info.resolution,
        "checkpointing": need.checkpointing,
        "peak": card.peak(),
        "estimate": need.needed,
    }


def main() -> int:
    """Parse the command line and learn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=("sd1", "sd2", "sdxl"))
    parser.add_argument("--gigabytes", type=float, required=True, help="10^9 bytes")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on the processor, without a limit")
    options = parser.parse_args()
    done = learn_within(Card(rehearse=options.rehearse), options.family, options.gigabytes * 1e9)
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
