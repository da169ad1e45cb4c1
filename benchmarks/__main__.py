"""``python -m benchmarks``: a line a figure; exit code 0 if every limit is kept, 1 if one is not, 2 for wrong use."""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from benchmarks.figures import Figure, exit_code
from benchmarks.workbench import CORES, Subject, Workbench

# Memory comes before the subjects that load a large model into this process.
_SUBJECTS = ("importing", "bases", "memory", "steps", "authors", "encoding")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, printing each figure as it comes."""
    subjects = [cast(Subject, import_module(f"benchmarks.{name}")) for name in _SUBJECTS]
    words = ", ".join(subject.WORDS for subject in subjects)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="also the slow figures: minutes, and 12 GB of memory")
    parser.add_argument("--only", metavar="WORD", help=f"one subject alone, slow or not: {words}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures, with details, to FILE")
    parser.add_argument("--pairs", metavar="N", type=int, help="pairs of steps to compare; more on a busy machine")
    parser.add_argument("--tiny", action="store_true", help="use a small model, to try the benchmarks themselves")
    options = parser.parse_args(arguments)
    chosen = [s for s in subjects if (options.only == s.WORDS if options.only else options.full or not s.SLOW)]
    if options.pairs is not None and options.pairs < 1:
        parser.error(f"--pairs is {options.pairs}: give at least 1")
    if not chosen:
        parser.error(f"there is no subject {options.only!r}: choose one of {words}")
    figures = []
    for figure in _measured(chosen, Workbench(tiny=options.tiny, pairs=options.pairs)):
        sys.stdout.write(f"{figure.line()}\n")
        sys.stdout.flush()
        if figure.detail:
            sys.stderr.write(f"  ({figure.detail})\n")
        figures.append(figure)
    if options.json:
        from celeb_basis.files import write_json

        write_json(options.json, {"machine": _machine(), "figures": [figure.as_dict() for figure in figures]})
    return exit_code(figures)


def _measured(subjects: Sequence[Subject], bench: Workbench) -> Iterator[Figure]:
    from celeb_basis.errors import CelebBasisError

    for subject in subjects:
        try:
            yield from subject.measure(bench)
        except CelebBasisError as error:
            # A figure that cannot be had is no figure that is kept.
            yield Figure(f"{subject.WORDS}: could not be measured", math.nan, math.nan, "ratio", str(error))


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
    # Read by OpenMP and by the tokenizers when they load.
    os.environ.setdefault("OMP_NUM_THREADS", str(CORES))
    os.environ.setdefault("RAYON_NUM_THREADS", str(CORES))
    sys.exit(main())
