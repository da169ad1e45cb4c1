"""Runs a tool in a process of its own, and compares its token vectors and conditioning with this project's."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.interop.testbed import InteropTestbed
from benchmarks.interop.tools import CASES, STAND_INS, Case, Tool, supported
from celeb_basis.files import write_json

ROOT = Path(__file__).resolve().parents[2]
ROUNDING = 2.0
"""A prompt with an identity may differ from this project's conditioning by at most this factor more than a plain prompt
does: other numbers are rounded differently, but not by another order of magnitude."""


class ToolFailedError(Exception):
    """A tool that was found could not be run; the text is the end of its error output."""


@dataclass(frozen=True)
class Answer:
    """What a tool computed for a testbed's identities."""

    version: str
    torch_version: str
    cases: tuple[Case, ...]
    prompts: tuple[str, ...]
    """In the tool's syntax."""
    values: dict[str, torch.Tensor]
    """``vectors/identity/encoder``, and ``/number/part`` below each of ``placeholder``, ``plain`` and ``patched``."""


def run_tool(tool: Tool, testbed: InteropTestbed, folder: Path, tried: Sequence[Case] = CASES) -> Answer:
    """Run a tool on a testbed.

    Args:
        tool: What is run.
        testbed: The model and the identities.
        folder: An empty folder for the run's files.
        tried: The prompts; those that the tool does not support are left out.

    Raises:
        ToolFailedError: If the tool fails.
    """
    cases = supported(tool.syntax, tried)
    prompts = [tool.syntax.prompt(case) for case in cases]
    task: dict[str, Any] = {
        "family": testbed.family,
        "model": str(testbed.checkpoint if tool.checkpoint else testbed.folder),
        "files": testbed.export(tool, folder / "exported"),
        "stand_ins": STAND_INS,
        "cases": [
            {"name": case.name, "placeholder": prompt, "plain": tool.syntax.plain(case)}
            for case, prompt in zip(cases, prompts, strict=True)
        ],
    }
    write_json(folder / "task.json", task)
    save_file({key: rows.contiguous() for key, rows in testbed.vectors().items()}, str(folder / "vectors.safetensors"))
    module, *flags = tool.module
    command = [tool.python(), "-m", f"benchmarks.interop.inside.{module}", str(folder), *flags]
    done = subprocess.run(command, env=_environment(tool, folder), capture_output=True, text=True)
    if done.returncode or not (folder / "answer.json").is_file():
        raise ToolFailedError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    answer = json.loads((folder / "answer.json").read_text("utf-8"))
    values = load_file(str(folder / "answer.safetensors"))
    return Answer(answer["version"], answer["torch"], tuple(cases), tuple(prompts), values)


def _environment(tool: Tool, folder: Path) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests")]
    own = tool.folder()
    if own is not None:
        paths.append(str(own))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    isolated = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CELEB_BASIS_CACHE": str(folder / "cache")}
    return {**os.environ, **offline, **isolated, "PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True)
class PromptVerdict:
    """One prompt in one tool."""

    prompt: str
    own: float
    """Largest difference from the tool's own conditioning of plain words whose rows of the token table hold the vectors;
    infinite for other shapes."""
    ours: float | None
    """Largest difference from this project's conditioning; ``None`` where tools differ by design."""
    plain: float | None
    """The same with plain words instead of the identity: how far the tool and this project differ in any case."""
    same: bool


@dataclass(frozen=True)
class EvaluationResult:
    """One tool on one model."""

    version: str
    torch_version: str
    vectors: dict[str, bool]
    """By ``identity/text encoder``, whether they are equal bit for bit."""
    prompts: tuple[PromptVerdict, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs; false if nothing was compared."""
        return bool(self.vectors and self.prompts) and all(self.vectors.values()) and all(p.same for p in self.prompts)


def compare(answer: Answer, testbed: InteropTestbed) -> EvaluationResult:
    """Compare a tool's answer with what this project computes."""
    vectors = {}
    for key, rows in testbed.vectors().items():
        theirs = answer.values.get(f"vectors/{key}")
        vectors[key] = theirs is not None and torch.equal(theirs, rows)
    measured = []
    for number, (case, prompt) in enumerate(zip(answer.cases, answer.prompts, strict=True)):
        encoded = {kind: _parts(answer, kind, number) for kind in ("placeholder", "plain", "patched")}
        ours = plain = None
        if not case.emphasis and not case.long:
            ours = largest_difference(encoded["placeholder"], testbed.encode(case, plain=False))
            plain = largest_difference(encoded["plain"], testbed.encode(case, plain=True))
        # A placeholder token that changed nothing would agree with everything.
        matters = largest_difference(encoded["placeholder"], encoded["plain"]) > 0
        own = largest_difference(encoded["placeholder"], encoded["patched"]) if matters else float("inf")
        measured.append((prompt, own, ours, plain))
    allowed = ROUNDING * max((plain for *_, plain in measured if plain is not None), default=0.0)
    verdicts = [
        PromptVerdict(prompt, own, ours, plain, own == 0 and (ours is None or ours <= allowed))
        for prompt, own, ours, plain in measured
    ]
    return EvaluationResult(answer.version, answer.torch_version, vectors, tuple(verdicts))


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference over all parts; infinite if there are none, shapes or parts differ, or it is NaN."""
    if not one or set(one) != set(other) or any(one[part].shape != other[part].shape for part in one):
        return float("inf")
    found = [float((one[part].float() - other[part].float()).abs().max()) for part in one]
    return max(difference if difference == difference else float("inf") for difference in found)


def _parts(answer: Answer, kind: str, number: int) -> dict[str, torch.Tensor]:
    start = f"{kind}/{number}/"
    return {key.removeprefix(start): value for key, value in answer.values.items() if key.startswith(start)}
