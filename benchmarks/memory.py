"""Peak memory of learning compared with that of bare steps, each in a process of its own."""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.figures import Figure, peak_bytes
from benchmarks.learning_steps import BareStep, random_batch
from benchmarks.workbench import ROOT, Subject, Workbench
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.trainer import Trainer

_LIMIT = 300.0
_STEPS = 3
_MB = 1e6


def measure(bench: Workbench) -> Iterator[Figure]:
    """Ours is a whole run: face network, basis, views encoded by the VAE, steps. Both hold the same checkpoint."""
    for side in bench.sides(256, 512):
        peaks = {kind: _in_a_process(kind, side, bench.tiny) for kind in ("ours", "bare")}
        yield Figure(
            f"{bench.model}: peak memory of our learning beyond that of bare steps, {side}x{side}, batch 1, fp32",
            peaks["ours"] - peaks["bare"],
            _LIMIT,
            "MB",
            f"ours {peaks['ours']:.0f} MB, bare {peaks['bare']:.0f} MB",
        )


def _in_a_process(kind: str, side: int, tiny: bool) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", kind, str(side), *(["--tiny"] if tiny else [])]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def run_ours(bench: Workbench, side: int) -> None:
    """Prepare and run a few learning steps, as the command line does."""
    settings = TrainingSettings(batch_size=1, precision="fp32", early_stop=False)
    trainer = Trainer(bench.host, [bench.basis], bench.pool(side, views=2), settings)
    for _ in itertools.islice(trainer.run(), _STEPS):
        pass


def run_bare(bench: Workbench, side: int) -> None:
    """Run as many bare steps on the same frozen checkpoint."""
    pipeline = bench.pipeline
    for module in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        module.requires_grad_(False)
    step = BareStep(pipeline)
    batch = random_batch(step, side, pipeline.text_encoder.config.hidden_size)
    for _ in range(_STEPS):
        batch.vectors.grad = None
        step(batch)


def main() -> None:
    """Run one kind of steps and print the peak in megabytes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("ours", "bare"))
    parser.add_argument("side", type=int)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    run = run_ours if arguments.kind == "ours" else run_bare
    run(Workbench(tiny=arguments.tiny), arguments.side)
    sys.stdout.write(f"{peak_bytes() / _MB:.1f}\n")


SUBJECTS = (Subject("memory", slow=True, measure=measure),)

if __name__ == "__main__":
    main()
