"""The figures that are measured in a WebUI, each from the JSON that a module run by the WebUI's own Python prints."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure

ROOT = Path(__file__).resolve().parents[2]
_IDENTITIES = 10_000


def measure_learning(checkpoint: Path, side: int, steps: int) -> Iterator[Figure]:
    """The extension's cost at the WebUI's start, and our learning compared with bare steps and with the WebUI's trainer.

    Args:
        checkpoint: An SD1.5 in a safetensors file.
        side: Side of the training images in pixels.
        steps: Steps of each kind in each of two rounds.
    """
    file = str(checkpoint.absolute())

    def inside(task: str) -> Any:
        sizes = ("--side", str(side), "--steps", str(steps))
        return run_in_webui("benchmarks.webui.inside", task, "--file", file, *sizes)

    started = run_in_webui("support.webui_start_share", "--checkpoint", file)
    parts = (f"{step} {spent['clock']:.3f} s" for step, spent in started["spent"].items())
    yield Figure(
        "added to the WebUI's start by the extension, processor time",
        started["processor"],
        0.3,
        "s",
        f"by the clock {started['clock']:.3f} s: {', '.join(parts)}",
    )
    where = f"{side}x{side}, batch 1, in the WebUI"
    taken = inside("steps")
    medians = {kind: statistics.median(taken[kind]) for kind in ("ours", "bare", "host")}
    detail = ", ".join(f"{kind} {seconds:.3f} s" for kind, seconds in medians.items())
    # Our steps and the bare ones took turns: each pair's own ratio depends less on other load of the machine.
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
    peaks = {kind: inside(f"memory-{kind}") for kind in ("ours", "host")}
    yield Figure(
        f"peak memory of our learning / that of the host's own textual inversion, {where}",
        peaks["ours"] / peaks["host"],
        1.0,
        "ratio",
        ", ".join(f"{kind} {peak / 1e6:.0f} MB" for kind, peak in peaks.items()),
    )


def measure_tokens(checkpoint: Path | None = None) -> Iterator[Figure]:
    """Ten thousand identities as placeholder tokens: the time until they are available, and the time added to a prompt.

    Args:
        checkpoint: An SD1 checkpoint; by default the WebUI's own small one, ``sd1.safetensors``.
    """
    checkpoint = checkpoint or webui_folder() / "models" / "Stable-diffusion" / "sd1.safetensors"
    arguments = ("tokens", "--file", str(checkpoint.absolute()), "--count", str(_IDENTITIES))
    measured = run_in_webui("benchmarks.webui.inside", *arguments)
    yield Figure(
        f"{_IDENTITIES:,} identities as tokens of the WebUI's prompts: from nothing to the first prompt with a name in it",
        measured["ready_s"],
        1.0,
        "s",
        f"in the host's own database {measured['stock_ready_s']:.2f} s",
    )
    yield Figure(
        f"added to a prompt of {measured['tokens']} tokens with a name in it by {_IDENTITIES:,} identities in the WebUI",
        measured["prompt_ms"] - measured["bare_ms"],
        0.3,
        "ms",
        f"{measured['prompt_ms']:.3f} ms, with a plain word in the name's place and no tokens installed "
        f"{measured['bare_ms']:.3f} ms, with three names {measured['three_names_ms']:.3f} ms, with none "
        f"{measured['no_names_ms']:.3f} ms, with all of them in the host's own database {measured['stock_ms']:.3f} ms",
    )


def webui_folder() -> Path:
    """The folder that ``CELEB_BASIS_WEBUI`` names."""
    return Path(os.environ["CELEB_BASIS_WEBUI"]).expanduser()


def run_in_webui(module: str, *arguments: str) -> Any:
    """Run ``module`` by the WebUI's Python with a data folder of its own; returns the JSON of its last line.

    Raises:
        SystemExit: With the end of its error output, if it fails.
    """
    python = os.environ.get("CELEB_BASIS_WEBUI_PYTHON") or str(webui_folder() / "venv" / "bin" / "python")
    with tempfile.TemporaryDirectory() as data:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CELEB_BASIS_CACHE": f"{data}/cache"}
        command = [python, "-m", module, *arguments, "--data", data]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-6000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
