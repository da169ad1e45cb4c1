"""``python -m benchmarks.evidence``: run the evidence that is missing, and print the results. It can be killed and resumed.

``--quick`` (or ``QUICK=1``) runs a small version. ``--write`` writes the page from finished results without running anything.
``--model FILE --photos FOLDER`` makes the same table on any Stable Diffusion checkpoint, with photos of people.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.evidence.page import FINDINGS, REAL_WEIGHTS, Described, hypotheses, table, write_page
from benchmarks.evidence.plan import (
    ABLATIONS,
    FULL,
    MAIN,
    OURS,
    PAIRED,
    QUICK,
    REAL,
    Plan,
    limited,
)
from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.results import Results
from benchmarks.evidence.runner import matching
from benchmarks.evidence.session import run_shown
from benchmarks.evidence.summary import paired_differences, snapshot_differences, summarize
from benchmarks.evidence.testbed import EvidenceTestbed
from benchmarks.evidence.tuning import read_tuned, save_tuned, tuning_plan, with_tuned
from celeb_basis.errors import CelebBasisError
from celeb_basis.settings import PRESETS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent
"""Results of the full plan are part of the project: they take days. All others go to :data:`CACHE`."""
CACHE = ROOT / ".assets" / "evidence"
TUNED_ON = 4
"""Strangers of the miniature that the baselines are tuned on: those after the evaluated ones."""
_PARTS = {"main": MAIN, "ablations": (*ABLATIONS, *OURS)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print.

    Returns:
        0, or 1 if something could not be run, 2 for a command line that cannot be understood, 130 if it was interrupted.
    """
    options = _options(arguments)
    plan = _plan(options)
    if options.list:
        sys.stdout.writelines(f"{one.name}\n" for one in plan.methods)
        return 0
    if not plan.methods:
        sys.stderr.write("There is no such method: --list names them all.\n")
        return 2
    if options.photos is None and options.references is not None:
        sys.stderr.write("--references holds other pictures of the people in --photos: give both.\n")
        return 2
    if options.photos is not None and options.model is None:
        sys.stderr.write("Photos of people need a checkpoint to learn them on: give --model as well.\n")
        return 2
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if options.photos is not None:
            return _on_real_weights(plan, options, given)
        folder = (options.results or CACHE) / "quick" if options.quick else options.results or RESULTS
        results = Results(folder)
        if options.write:
            return _write(plan, results, options)
        return _on_a_miniature(plan, results, options, given)
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. What is finished is saved: give the same command again to go on.\n")
        return 130


def _plan(options: argparse.Namespace) -> Plan:
    plan = REAL if options.photos is not None else QUICK if options.quick else FULL
    if options.part:
        names = {one.name for part in options.part for one in _PARTS[part]}
        plan = limited(replace(plan, methods=FULL.methods), sorted(names))
    if options.only:
        plan = limited(replace(plan, methods=FULL.methods), options.only)
    return replace(
        plan,
        strangers=options.strangers or plan.strangers,
        seeds=tuple(range(options.seeds)) if options.seeds else plan.seeds,
        steps=options.steps or plan.steps,
        tracked=plan.tracked if options.tracked is None else options.tracked,
    )


def _testbed(options: argparse.Namespace, strangers: int, skipped: int = 0) -> EvidenceTestbed:
    """The shipped miniature, or another one of its kind."""
    # Only here: writing the page needs neither the miniature nor the judges' packages.
    from benchmarks.evidence.miniature import BANK, miniature_testbed

    bank = options.bank or BANK
    return miniature_testbed(options.model, strangers=strangers, report=Reporter(), skipped=skipped, bank=bank)


def _on_a_miniature(plan: Plan, results: Results, options: argparse.Namespace, given: Sequence[str]) -> int:
    workers = options.workers or os.cpu_count() or 1
    if options.tune:
        testbed = _testbed(options, options.strangers or TUNED_ON, FULL.strangers)
        return _tune(testbed, plan, results.folder, results.folder, options, given, workers)
    gallery = plan.strangers if options.quick else max(plan.strangers, FULL.strangers)
    testbed = _testbed(options, gallery)
    if options.quick:
        testbed = replace(testbed, prompts=testbed.prompts[::2], pair_prompts=testbed.pair_prompts[:1])
    plan = _tuned(plan, results.folder, testbed)
    failed = run_shown(testbed, plan, results, CACHE, workers=workers, share=options.share, given=given)
    if options.share is None:
        rows = summarize(matching(results, plan, testbed.key), [one.name for one in FULL.methods])
        lines = hypotheses(rows, [one.name for one in plan.methods], shortened=plan.steps > 0)
        sys.stdout.write(table(rows) + "\n\n" + "\n".join(lines) + "\n")
    return int(failed)


def _tuned(plan: Plan, folder: Path, testbed: EvidenceTestbed) -> Plan:
    """The plan with the baselines that were tuned; reports those that are left out because they were not."""
    found = with_tuned(plan, read_tuned(folder, testbed.strangers))
    known = {one.name for one in found.methods}
    if missing := [one.name for one in plan.methods if one.name not in known]:
        testbed.report.say(f"left out until they are tuned on other people with --tune: {'; '.join(missing)}")
    return found


def _tune(
    testbed: EvidenceTestbed,
    plan: Plan,
    folder: Path,
    results: Path,
    options: argparse.Namespace,
    given: Sequence[str],
    workers: int,
) -> int:
    """Measure the baselines' candidates, and write those that are chosen into ``folder``."""
    tuning = replace(tuning_plan(plan), strangers=len(testbed.strangers))
    found = Results(results / "tuning")
    failed = run_shown(testbed, tuning, found, CACHE, workers=workers, share=options.share, given=given)
    if options.share is None:
        rows = summarize(matching(found, tuning, testbed.key), [one.name for one in tuning.methods])
        sys.stdout.write(table(rows) + "\n\n")
        for name, one in save_tuned(folder, found, tuning, testbed).items():
            sys.stdout.write(f"{name}: {one.candidate}, {one.steps} steps (score {one.score:.4f})\n")
    return int(failed)


def _on_real_weights(plan: Plan, options: argparse.Namespace, given: Sequence[str]) -> int:
    from benchmarks.evidence.real_weights import RealWeights, load_real_weights
    from celeb_basis.miniature import MODEL, NAME

    shipped = str(options.model) == NAME and not options.model.is_file()
    wanted = RealWeights(
        model=MODEL if shipped else options.model,
        photos=options.photos,
        references=options.references,
        names=options.names,
        faces=options.faces,
        judge=options.judge,
        clip=options.clip,
        device=options.device,
        dtype=options.dtype,
        prompts=options.prompts,
        sampling_steps=options.sampling_steps,
        guidance=options.guidance,
    )
    loaded = load_real_weights(wanted, Reporter())
    testbed, cache, workers = loaded.testbed, options.results or CACHE, options.workers or 1
    results = Results(cache / loaded.folder)
    tuned = cache / f"tuned-{testbed.model.info.sha256[:12]}"
    if options.tune:
        return _tune(testbed, plan, tuned, results.folder, options, given, workers)
    planned = [one.name for one in plan.methods]
    plan = _tuned(plan, tuned, testbed)
    failed = run_shown(testbed, plan, results, cache, workers=workers, share=options.share, given=given)
    if options.share is not None:
        return int(failed)
    finished = matching(results, plan, testbed.key)
    rows = summarize(finished, [one.name for one in FULL.methods])
    page = results.folder / "evidence.md"
    described = Described(
        testbed=testbed.key,
        commands=[f"python -m benchmarks.evidence {shlex.join(given)}"],
        judge=loaded.judge,
        second_judge=loaded.second_judge,
        third_judge=loaded.third_judge,
        prompt=loaded.prompt,
        notes=loaded.notes,
    )
    differences = paired_differences(finished, PAIRED)
    write_page(page, rows, described, planned=planned, steps=plan.steps, paired=differences)
    answered = hypotheses(rows, [one.name for one in plan.methods], shortened=plan.steps > 0)
    sys.stdout.write(table(rows) + "\n\n" + "\n".join(answered) + f"\n\n{page}\n")
    return int(failed)


def _write(plan: Plan, results: Results, options: argparse.Namespace) -> int:
    planned = [one.name for one in plan.methods]
    plan = with_tuned(plan, read_tuned(results.folder))
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
    described = Described(
        testbed=testbeds.pop(),
        commands=[
            f"make evidence{' QUICK=1' if options.quick else ''}",
            f"python -m benchmarks.evidence --write{' --quick' if options.quick else ''}",
        ],
        judge="dlib's network (1 - distance)",
        second_judge="the recognition network that learning used (cosine)",
        third_judge="MobileFaceNet (cosine)",
        findings=FINDINGS.read_text(encoding="utf-8"),
        more=REAL_WEIGHTS.read_text(encoding="utf-8"),
    )
    write_page(
        options.page,
        rows,
        described,
        planned=planned,
        steps=plan.steps,
        paired=paired_differences(finished, PAIRED),
        snapshots=snapshot_differences(finished, PRESETS),
    )
    sys.stdout.write(f"{options.page}\n")
    return 0


def _share(text: str) -> tuple[int, int]:
    number, count = text.split("/")
    return int(number), int(count)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument(
        "--model", type=Path, help="with --photos: any checkpoint; else a diffusers folder of the miniature"
    )
    parser.add_argument("--results", type=Path, help="folder of results.jsonl and recipes.json")
    parser.add_argument("--workers", type=int, help="number of processes; 1 with --photos, else one per processor")
    parser.add_argument("--share", type=_share, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"))
    parser.add_argument("--part", action="append", choices=sorted(_PARTS), help="run only this part of the plan")
    parser.add_argument("--only", action="append", metavar="NAME", help="run only this method")
    parser.add_argument("--strangers", type=int, help="number of strangers")
    parser.add_argument("--seeds", type=int, help="number of seeds")
    parser.add_argument("--tracked", type=int, help="strangers whose runs are measured on their way too, for curves")
    parser.add_argument("--steps", type=int, help="the most steps per person, to try the program itself")
    parser.add_argument(
        "--tune", action="store_true", help="choose the baselines' settings, on people who must not be evaluated"
    )
    parser.add_argument("--list", action="store_true", help="list the methods and exit")
    parser.add_argument("--write", action="store_true", help="write the page from finished results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "evidence.md")
    parser.add_argument(
        "--bank", type=Path, metavar="FOLDER", help="where the miniature's strangers are, or will be drawn"
    )
    real = parser.add_argument_group("any checkpoint, with photos of people")
    real.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="a folder of photos (or one picture) for each person"
    )
    real.add_argument("--references", type=Path, metavar="FOLDER", help="other pictures of each, under the same names")
    real.add_argument("--names", type=Path, metavar="FILE", help="list of celebrity names, one per line")
    real.add_argument("--faces", default="buffalo_l", metavar="PACK", help="face pack that learning uses (%(default)s)")
    real.add_argument("--judge", metavar="PACK", help="dlib, or another face pack, as the judge")
    real.add_argument("--clip", metavar="SPEC", help="folder of a CLIP, or open_clip:ARCHITECTURE:WEIGHTS, for Prompt")
    real.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    real.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="of the weights")
    real.add_argument("--prompts", type=_positive, default=10, help="number of prompts with one person (%(default)s)")
    real.add_argument("--sampling-steps", type=_positive, default=30, help="denoising steps of an image (%(default)s)")
    real.add_argument("--guidance", type=float, default=7.5, help="classifier-free guidance (%(default)s)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give a number of at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
