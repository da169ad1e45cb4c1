"""A tool is asked in a process of its own, with its own Python."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.interop.cases import CASES, STAND_INS, Case, handled
from benchmarks.interop.people import World
from benchmarks.interop.tools import Tool
from benchmarks.workbench import ROOT
from celeb_basis.files import write_json


class ToolFailedError(Exception):
    """A tool that was found could not be run; the text is the end of what it said."""


@dataclass(frozen=True)
class Answer:
    """What a tool made of a world's people."""

    version: str
    torch_version: str
    cases: tuple[Case, ...]
    prompts: tuple[str, ...]
    """As the tool writes them."""
    values: dict[str, torch.Tensor]
    """``vectors/person/encoder``, and ``word``, ``plain`` and ``placed`` ``/number/part``."""


def ask(tool: Tool, world: World, folder: Path, tried: Sequence[Case] = CASES) -> Answer:
    """Run ``tool`` on ``world`` in the empty folder ``folder``, with those prompts of ``tried`` that it has.

    Raises: :class:`ToolFailedError`.
    """
    from safetensors.torch import load_file, save_file

    cases = handled(tool.syntax, tried)
    prompts = [tool.syntax.prompt(case) for case in cases]
    told: dict[str, Any] = {
        "family": world.family,
        "model": str(world.checkpoint if tool.checkpoint else world.folder),
        "files": world.exported(tool, folder / "exported"),
        "stand_ins": STAND_INS,
        "cases": [
            {"name": case.name, "word": prompt, "plain": tool.syntax.plain(case)}
            for case, prompt in zip(cases, prompts, strict=True)
        ],
    }
    write_json(folder / "task.json", told)
    save_file({key: rows.contiguous() for key, rows in world.vectors().items()}, str(folder / "vectors.safetensors"))
    module, *flags = tool.module
    command = [tool.python(), "-m", f"benchmarks.interop.inside.{module}", str(folder), *flags]
    done = subprocess.run(command, env=_environment(tool, folder), capture_output=True, text=True)
    if done.returncode or not (folder / "answer.json").is_file():
        raise ToolFailedError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    answered = json.loads((folder / "answer.json").read_text("utf-8"))
    values = load_file(str(folder / "answer.safetensors"))
    return Answer(answered["version"], answered["torch"], tuple(cases), tuple(prompts), values)


def _environment(tool: Tool, folder: Path) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests")]
    own = tool.folder()
    if own is not None:
        paths.append(str(own))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CELEB_BASIS_CACHE": str(folder / "cache")}
    return {**os.environ, **offline, **alone, "PYTHONPATH": os.pathsep.join(paths)}
