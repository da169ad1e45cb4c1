"""``python -m benchmarks``: one line per figure; exit code 0 if all are within their limits, 1 if not, 2 for wrong use."""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, exit_code, print_figures

if TYPE_CHECKING:
    from benchmarks.workbench import Subject, Workbench

_CORES = 2
"""The limits hold for two cores."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, printing each figure when it is known."""
    from benchmarks import learning_steps, memory, startup
    from benchmarks.workbench import Workbench
    from celeb_basis.files import write_json

    # Memory comes before the subjects that load a large model into this process.
    subjects = [*startup.SUBJECTS, *memory.SUBJECTS, *learning_steps.SUBJECTS]
    names = ", ".join(subject.name for subject in subjects)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="also the slow figures: minutes, and 12 GB of memory")
    parser.add_argument("--only", metavar="WORD", help=f"only this subject, slow or not: {names}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures, with details, to FILE")
    parser.add_argument("--pairs", metavar="N", type=int, help="pairs of steps to compare; more on a busy machine")
    parser.add_argument("--tiny", action="store_true", help="use a small model, to try the benchmarks themselves")
    options = parser.parse_args(arguments)
    chosen = [s for s in subjects if (options.only == s.name if options.only else options.full or not s.slow)]
    if options.pairs is not None and options.pairs < 1:
        parser.error(f"--pairs is {options.pairs}: give at least 1")
    if not chosen:
        parser.error(f"there is no subject {options.only!r}: choose one of {names}")
    figures = print_figures(_measure(chosen, Workbench(tiny=options.tiny, pairs=options.pairs)))
    if options.json:
        write_json(options.json, {"machine": _machine(), "figures": [figure.as_dict() for figure in figures]})
    return exit_code(figures)


def _measure(subjects: Sequence[Subject], bench: Workbench) -> Iterator[Figure]:
    from celeb_basis.errors import CelebBasisError

    for subject in subjects:
        try:
            yield from subject.measure(bench)
        except CelebBasisError as error:
            # What cannot be measured is not within its limit.
            yield Figure(f"{subject.name}: could not be measured", math.nan, math.nan, "ratio", str(error))


def _machine() -> dict[str, object]:
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    # OpenMP and the tokenizers read these when they are loaded, which is why main() imports everything else itself.
    os.environ.setdefault("OMP_NUM_THREADS", str(_CORES))
    os.environ.setdefault("RAYON_NUM_THREADS", str(_CORES))
    sys.exit(main())
