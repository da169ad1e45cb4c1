"""``python -m benchmarks.evidence``: run the evidence that is missing, and print the results. It can be killed and resumed.

``--quick`` (or ``QUICK=1``) runs a small version. ``--write`` writes the page from finished results without running anything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.evidence.page import hypotheses, table, write_page
from benchmarks.evidence.plan import ABLATIONS, FULL, MAIN, PAIRED, PAIRED_REJECTED, QUICK, REJECTED, Plan, limited
from benchmarks.evidence.results import Results
from benchmarks.evidence.runner import matching, run
from benchmarks.evidence.summary import paired_differences, summarize
from celeb_basis.errors import CelebBasisError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent
"""Results of the full plan are part of the project: they take days. Those of ``--quick`` go to :data:`CACHE`."""
CACHE = ROOT / ".assets" / "evidence"
_PARTS = {"main": MAIN, "ablations": ABLATIONS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print.

    Returns:
        0, or 1 if something could not be run, 2 for an unknown method.
    """
    options = _options(arguments)
    plan = QUICK if options.quick else FULL
    if options.part:
        names = {one.name for part in options.part for one in _PARTS[part]}
        plan = limited(replace(plan, methods=FULL.methods), sorted(names))
    if options.only:
        plan = limited(replace(plan, methods=FULL.methods), options.only)
    plan = replace(
        plan,
        strangers=options.strangers or plan.strangers,
        seeds=tuple(range(options.seeds)) if options.seeds else plan.seeds,
        steps=options.steps or plan.steps,
    )
    if options.list:
        sys.stdout.writelines(f"{one.name}\n" for one in plan.methods)
        return 0
    if not plan.methods:
        sys.stderr.write("There is no such method: --list names them all.\n")
        return 2
    results = Results((options.results or CACHE) / "quick" if options.quick else options.results or RESULTS)
    try:
        if options.write:
            return _write(plan, results, options)
        return _run(plan, results, options, sys.argv[1:] if arguments is None else arguments)
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _run(plan: Plan, results: Results, options: argparse.Namespace, arguments: Sequence[str]) -> int:
    # Only here: writing the page needs neither the miniature nor the judges' packages.
    from benchmarks.evidence.miniature import miniature_testbed
    from benchmarks.evidence.precompute import Precomputed

    testbed = miniature_testbed(options.model, strangers=max(plan.strangers, FULL.strangers))
    if options.share is None and options.workers > 1:
        shared = Precomputed(testbed, CACHE, images_per_name=plan.images_per_name)
        for method in plan.methods:
            method.prepare(shared)
        failed = _run_workers(options.workers, arguments)
    else:
        failed = False
        for progress in run(testbed, plan, results, cache=CACHE, share=options.share or (0, 1)):
            failed = failed or progress.status not in ("new", "known")
            if progress.status != "known":
                cell = progress.cell
                run_name = f"{cell.method}, {' & '.join(cell.group)}, seed {cell.seed}"
                sys.stderr.write(f"{progress.number}/{progress.total} {run_name}: {progress.status}\n")
                sys.stderr.flush()
    if options.share is None:
        rows = summarize(matching(results, plan, testbed.key), [one.name for one in FULL.methods])
        sys.stdout.write(table(rows) + "\n\n" + "\n".join(hypotheses(rows)) + "\n")
    return int(failed)


def _run_workers(count: int, arguments: Sequence[str]) -> bool:
    """Run the shares of ``count`` processes side by side; returns whether one of them failed."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", "benchmarks.evidence", *arguments]
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


def _share(text: str) -> tuple[int, int]:
    number, count = text.split("/")
    return int(number), int(count)


def _write(plan: Plan, results: Results, options: argparse.Namespace) -> int:
    finished = matching(results, plan)
    rows = summarize(finished, [one.name for one in FULL.methods])
    if not rows:
        sys.stderr.write(f"There is no finished result in {results.folder}: run without --write first.\n")
        return 1
    testbeds = {cell.protocol["testbed"] for cell, _ in finished}
    if len(testbeds) > 1:
        sys.stderr.write(
            f"{results.folder} holds results of {len(testbeds)} models: use one folder each (--results).\n"
        )
        return 1
    rejected = [(cell, measurements) for cell, measurements in results.all() if cell.method in REJECTED]
    write_page(
        options.page,
        rows,
        testbed=testbeds.pop(),
        commands=[
            f"make evidence{' QUICK=1' if options.quick else ''}",
            f"python -m benchmarks.evidence --write{' --quick' if options.quick else ''}",
        ],
        judge="dlib's network (1 - distance)",
        second_judge="the recognition network that learning used (cosine)",
        paired=paired_differences(finished, PAIRED),
        rejected=summarize(rejected, REJECTED),
        rejected_paired=paired_differences([*finished, *rejected], PAIRED_REJECTED),
    )
    sys.stdout.write(f"{options.page}\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("--model", type=Path, help="diffusers folder of the miniature; by default the one that ships")
    parser.add_argument("--results", type=Path, help="folder of results.jsonl and recipes.json")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--share", type=_share, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"))
    parser.add_argument("--part", action="append", choices=sorted(_PARTS), help="run only this part of the plan")
    parser.add_argument("--only", action="append", metavar="NAME", help="run only this method")
    parser.add_argument("--strangers", type=int, help="number of strangers")
    parser.add_argument("--seeds", type=int, help="number of seeds")
    parser.add_argument("--steps", type=int, help="the most steps per person, to try the program itself")
    parser.add_argument("--list", action="store_true", help="list the methods and exit")
    parser.add_argument("--write", action="store_true", help="write the page from finished results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "evidence.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
