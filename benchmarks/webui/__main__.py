"""``python -m benchmarks.webui``: a line a figure, as ``python -m benchmarks`` prints them."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import webui_tokens
from benchmarks.figures import Figure, exit_code
from benchmarks.webui.running import answer_of
from benchmarks.workbench import Workbench


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, printing each figure as it comes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webui", description=__doc__)
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", help="an SD1.5 in a .safetensors file; one of random weights (4 GB) is made"
    )
    parser.add_argument("--side", type=int, default=256, help="side of the training pictures in pixels")
    parser.add_argument("--steps", type=int, default=4, help="steps of each kind in each of two rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures, with details, to FILE")
    options = parser.parse_args(arguments)
    if not os.environ.get("CELEB_BASIS_WEBUI"):
        parser.error("set CELEB_BASIS_WEBUI to the folder of a WebUI, and CELEB_BASIS_WEBUI_PYTHON to its Python")
    with tempfile.TemporaryDirectory() as folder:
        if options.checkpoint is None:
            options.checkpoint = _random_weights(Path(folder))
        figures = _printed(_figures(options))
    if options.json:
        from celeb_basis.files import write_json

        write_json(options.json, {"figures": [figure.as_dict() for figure in figures]})
    return exit_code(figures)


def _random_weights(folder: Path) -> Path:
    """SD1.5's full-size architecture in the layout of the WebUI, which knows it by its keys."""
    from miniature.small_models.ldm_layout import save_single_file
    from miniature.small_models.pipelines import make_pipeline

    file = folder / "random-sd15.safetensors"
    save_single_file(make_pipeline("sd1", full_size=True), file)
    file.with_suffix(".yaml").unlink()
    return file


def _printed(measured: Iterator[Figure]) -> list[Figure]:
    figures = []
    for figure in measured:
        sys.stdout.write(f"{figure.line()}\n")
        sys.stdout.flush()
        if figure.detail:
            sys.stderr.write(f"  ({figure.detail})\n")
        figures.append(figure)
    return figures


def _figures(options: argparse.Namespace) -> Iterator[Figure]:
    yield from webui_tokens.measure(Workbench(), options.checkpoint)
    started = answer_of("support.webui_start_share", "--checkpoint", str(options.checkpoint.absolute()))
    steps = (f"{step} {spent['clock']:.3f} s" for step, spent in started["spent"].items())
    yield Figure(
        "added to the WebUI's start by the extension, processor time",
        started["processor"],
        0.3,
        "s",
        f"by the clock {started['clock']:.3f} s: {', '.join(steps)}",
    )
    where = f"{options.side}x{options.side}, batch 1, in the WebUI"
    taken = _inside(options, "steps")
    medians = {kind: statistics.median(taken[kind]) for kind in ("ours", "bare", "host")}
    detail = ", ".join(f"{kind} {seconds:.3f} s" for kind, seconds in medians.items())
    # Ours and the bare step took turns: each pair's own ratio is freer of what else the machine did.
    pairs = [ours / bare for ours, bare in zip(taken["ours"], taken["bare"], strict=True)]
    same = math.isclose(*taken["losses"], rel_tol=1e-3)
    yield Figure(
        f"our step / bare forward and backward, {where}",
        statistics.median(pairs) if same else math.nan,
        1.03,
        "ratio",
        f"{detail}, of processor time {taken['processor']:.3f}, the same loss {taken['losses']}",
    )
    yield Figure(
        f"our step / a step of the host's own textual inversion, {where}",
        medians["ours"] / medians["host"],
        0.5,
        "ratio",
        detail,
    )
    peaks = {kind: _inside(options, f"memory-{kind}") for kind in ("ours", "host")}
    yield Figure(
        f"peak memory of our learning / that of the host's own textual inversion, {where}",
        peaks["ours"] / peaks["host"],
        1.0,
        "ratio",
        ", ".join(f"{kind} {peak / 1e6:.0f} MB" for kind, peak in peaks.items()),
    )


def _inside(options: argparse.Namespace, what: str) -> Any:
    file, sizes = str(options.checkpoint.absolute()), ("--side", str(options.side), "--steps", str(options.steps))
    return answer_of("benchmarks.webui.inside", what, "--file", file, *sizes)


if __name__ == "__main__":
    sys.exit(main())
