"""Peak memory of learning beside that of bare steps, each in a process of its own."""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.workbench import ROOT, Workbench

WORDS = "memory"
SLOW = True

_LIMIT = 300.0
_STEPS = 3
_MB = 1e6


def measure(bench: Workbench) -> Iterator[Figure]:
    """Ours is a whole run: face network, basis, views encoded by the VAE, steps. Both hold the same loaded checkpoint."""
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
    """Prepare and learn a few steps, as the command line does."""
    from celeb_basis.settings import TrainingSettings
    from celeb_basis.training.trainer import Trainer

    settings = TrainingSettings(batch_size=1, precision="fp32", early_stop=False)
    trainer = Trainer(bench.host, [bench.basis], bench.pool(side, views=2), settings)
    for _ in itertools.islice(trainer.run(), _STEPS):
        pass


def run_bare(bench: Workbench, side: int) -> None:
    """As many bare steps, in the same loaded and frozen checkpoint."""
    from benchmarks.bare import BareStep, random_batch

    pipeline = bench.pipeline
    for module in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        module.requires_grad_(False)
    step = BareStep(pipeline)
    batch = random_batch(step, side, pipeline.text_encoder.config.hidden_size)
    for _ in range(_STEPS):
        batch.vectors.grad = None
        step(batch)


def peak_bytes() -> int:
    """The most memory this process has held at once."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its figure starts with that of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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


if __name__ == "__main__":
    main()
