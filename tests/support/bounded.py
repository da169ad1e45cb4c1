"""A folder of hostile files that a process of its own reads, with an account of its memory."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]

SECONDS_OF_CPU = 5
"""Most seconds of the processor for reading one file in one way, as the kernel counts them for the process."""

MEGABYTES = 400
"""Most megabytes by which reading one file in one way may make a process grow."""


def seconds_of_cpu() -> float:
    """Seconds of the processor that this process has taken."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def limit_cpu(seconds: float) -> None:
    """Have the kernel end this process after more than ``seconds`` further seconds of the processor."""
    limit = math.ceil(seconds_of_cpu() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def memory_now() -> int:
    """Kilobytes of this process, from which :func:`peak_since` counts."""
    Path("/proc/self/clear_refs").write_text("5")
    return _kilobytes("VmRSS")


def peak_since(before: int) -> int:
    """Megabytes by which this process has grown at most since :func:`memory_now`."""
    return (_kilobytes("VmHWM") - before) // 1024


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def write_corpus(corpus: Iterable[tuple[str, bytes]], folder: Path) -> list[str]:
    """Write files into a folder, numbered, and return their names in order."""
    for number, (name, data) in enumerate(corpus):
        (folder / f"{number:03d}-{name}").write_bytes(data)
    return sorted(path.name for path in folder.iterdir())


def rows_of(module: str, folder: Path, names: list[str], *, cwd: Path, python: str = sys.executable) -> list[list[Any]]:
    """Run ``module`` on ``folder`` in a process of its own: a row of JSON for each file, in order.

    Args:
        module: It prints the rows, which begin with a file's name.
        folder: Where the files are.
        names: Their names.
        cwd: Where it runs.
        python: With which Python.
    """
    done = subprocess.run(
        [python, "-m", module, str(folder)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{names[len(rows)]} ended the process ({done.returncode}): {done.stderr[-500:]}"
    assert [row[0] for row in rows] == names
    return rows
