"""Running a plan in one or several processes, with lines that say what is done and how long the rest takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence.plan import Plan
from benchmarks.evidence.precompute import Precomputed
from benchmarks.evidence.reporting import duration
from benchmarks.evidence.results import Results
from benchmarks.evidence.runner import Progress, run
from benchmarks.evidence.testbed import EvidenceTestbed
from celeb_basis.errors import CelebBasisError

ROOT = Path(__file__).resolve().parents[2]


def run_shown(
    testbed: EvidenceTestbed,
    plan: Plan,
    results: Results,
    cache: Path,
    *,
    workers: int,
    share: tuple[int, int] | None,
    given: Sequence[str],
) -> bool:
    """Run what is missing of a plan, and report every cell.

    Args:
        testbed: What methods are measured on.
        plan: What is run.
        results: Where finished cells are read from and saved to.
        cache: Folder of files that can be computed again.
        workers: Number of processes.
        share: The share of a worker, which runs alone; ``None`` in the process that starts the workers.
        given: The command line, which workers are given as well.

    Returns:
        Whether something could not be run.
    """
    report = testbed.report
    if share is None:
        shared = Precomputed(testbed, cache)
        for method in plan.methods:
            try:
                method.prepare(shared)
            except CelebBasisError as error:  # the method's own runs say so, and are skipped
                report.say(f"{method.name}: {error}")
        if workers > 1:
            report.say(f"{workers} processes run what is missing")
            return _run_workers(workers, given)
    failed = False
    began, measured = time.monotonic(), 0
    for progress in run(testbed, plan, results, cache=cache, share=share or (0, 1)):
        failed = failed or progress.status not in ("new", "known")
        if progress.status == "new":
            measured += 1
            each = (time.monotonic() - began) / measured
            rest = f"; at most {duration(each * (progress.total - progress.number))} left"
            report.say(f"{_sentence(progress)}{rest}")
        elif progress.status != "known":
            report.say(_sentence(progress))
    return failed


def _sentence(progress: Progress) -> str:
    cell = progress.cell
    run_name = f"{cell.method}, {' & '.join(cell.group)}, seed {cell.seed}"
    outcome = "measured" if progress.status == "new" else progress.status
    return f"{progress.number}/{progress.total} {run_name}: {outcome}"


def _run_workers(count: int, given: Sequence[str]) -> bool:
    """Run the shares of ``count`` processes side by side; returns whether one of them failed."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", "benchmarks.evidence", *given]
    workers = [
        subprocess.Popen([*command, "--share", f"{number}/{count}"], cwd=ROOT, env=environment)
        for number in range(count)
    ]
    try:
        codes = [worker.wait() for worker in workers]
        return any(codes)
    finally:
        for worker in workers:
            worker.terminate()
