"""Importing the package: fast, and nothing heavy."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.timing import seconds
from benchmarks.workbench import ROOT, Workbench

WORDS = "import"
SLOW = False

_TIMES = 9
_REPORT = (
    "import sys, time; t = time.perf_counter(); import celeb_basis; print(time.perf_counter() - t); print(*sys.modules)"
)


def measure(bench: Workbench) -> Iterator[Figure]:  # noqa: ARG001
    """A whole Python that does nothing else, from its start to its end, and what it has loaded by then."""
    _run("import celeb_basis")
    times = [seconds(lambda: _run("import celeb_basis")) for _ in range(_TIMES)]
    statement, modules = _run(_REPORT).splitlines()
    yield Figure(
        "import celeb_basis, with Python's own start and end",
        1000 * statistics.median(times),
        100.0,
        "ms",
        f"the import statement alone {1000 * float(statement):.1f} ms",
    )
    loaded = modules.split()
    yield Figure(
        "torch loaded by import celeb_basis", float("torch" in loaded), 0.0, "yes/no", f"{len(loaded)} modules"
    )


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout
