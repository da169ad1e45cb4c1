"""``python -m benchmarks.evidence``: run what is missing of the evidence, and say where it stands. Can be killed any time.

``--quick`` (or ``QUICK=1``) is a small version; ``--write`` writes the page from what is finished, without running anything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.evidence import plan as plans
from benchmarks.evidence.page import claims, table, write_page
from benchmarks.evidence.paired import differences
from benchmarks.evidence.plan import FULL, QUICK
from benchmarks.evidence.results import Results
from benchmarks.evidence.running import limited, matching, run
from benchmarks.evidence.summary import summarise
from celeb_basis.errors import CelebBasisError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")
"""Finished cells are kept with the project: they take days."""
CACHE = ROOT / ".assets" / "evidence"
_PARTS = {"main": plans.MAIN, "ablations": plans.ABLATIONS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print; 0, or 1 if something could not be run."""
    options = _options(arguments)
    plan = QUICK if options.quick else FULL
    if options.part:
        kept = {one.name for part in options.part for one in _PARTS[part]}
        plan = limited(replace(plan, contestants=FULL.contestants), sorted(kept))
    if options.only:
        plan = limited(replace(plan, contestants=FULL.contestants), options.only)
    plan = replace(
        plan,
        strangers=options.strangers or plan.strangers,
        seeds=tuple(range(options.seeds)) if options.seeds else plan.seeds,
        steps=options.steps or plan.steps,
    )
    if options.list:
        sys.stdout.writelines(f"{one.name}\n" for one in plan.contestants)
        return 0
    if not plan.contestants:
        sys.stderr.write("There is no such contestant: --list names them all.\n")
        return 2
    results = Results(options.results / ("quick" if options.quick else "full"))
    try:
        if options.write:
            return _written(plan, results, options)
        return _run(plan, results, options, sys.argv[1:] if arguments is None else arguments)
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _run(plan: plans.Plan, results: Results, options: argparse.Namespace, told: Sequence[str]) -> int:
    from benchmarks.evidence.bench import Bench
    from benchmarks.evidence.miniature import miniature_world

    world = miniature_world(options.model, strangers=max(plan.strangers, FULL.strangers))
    if options.share is None and options.workers > 1:
        bench = Bench(world, CACHE, name_pictures=plan.name_pictures)
        for one in plan.contestants:
            one.prepare(bench)
        failed = _by_workers(options.workers, told)
    else:
        failed = False
        for done in run(world, plan, results, cache=CACHE, share=options.share or (0, 1)):
            failed = failed or done.how not in ("new", "kept")
            if done.how != "kept":
                who = " & ".join(done.cell.group)
                line = f"{done.number}/{done.total} {done.cell.contestant}, {who}, seed {done.cell.seed}: {done.how}"
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
    if options.share is None:
        rows = summarise(matching(results, plan, world.key), [one.name for one in FULL.contestants])
        sys.stdout.write(table(rows) + "\n\n" + "\n".join(claims(rows)) + "\n")
    return int(failed)


def _by_workers(count: int, told: Sequence[str]) -> bool:
    """Run the shares of ``count`` processes side by side; whether one of them failed."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", "benchmarks.evidence", *told]
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


def _written(plan: plans.Plan, results: Results, options: argparse.Namespace) -> int:
    finished = matching(results, plan)
    rows = summarise(finished, [one.name for one in FULL.contestants])
    if not rows:
        sys.stderr.write(f"There is no finished result in {results.folder}: run without --write first.\n")
        return 1
    worlds = {cell["measured"]["world"] for cell, _ in finished}
    if len(worlds) > 1:
        sys.stderr.write(
            f"{results.folder} holds results of {len(worlds)} models: keep one folder a model (--results).\n"
        )
        return 1
    quick = " QUICK=1" if options.quick else ""
    flag = " --quick" if options.quick else ""
    left = list(Results(results.folder.with_name("left")).all())
    write_page(
        options.page,
        rows,
        world=worlds.pop(),
        commands=[f"make evidence{quick}", f"python -m benchmarks.evidence --write{flag}"],
        judge="dlib's network (1 - distance)",
        second="the recognition network that learning used (cosine)",
        paired=differences(finished, plans.PAIRED),
        left=summarise(left, plans.LEFT),
        left_paired=differences([*finished, *left], plans.PAIRED_LEFT),
    )
    sys.stdout.write(f"{options.page}\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("--model", type=Path, help="diffusers folder of the miniature; by default the one that ships")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of finished cells")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--share", type=_share, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"))
    parser.add_argument("--part", action="append", choices=sorted(_PARTS), help="a part of the plan alone")
    parser.add_argument("--only", action="append", metavar="NAME", help="a contestant alone")
    parser.add_argument("--strangers", type=int, help="how many strangers")
    parser.add_argument("--seeds", type=int, help="how many seeds")
    parser.add_argument("--steps", type=int, help="the most steps a person: to try the machinery")
    parser.add_argument("--list", action="store_true", help="name the contestants and stop")
    parser.add_argument("--write", action="store_true", help="write the page from what is finished")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "evidence.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
