"""The tools that are known, where they are looked for, and how they are run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.interop.cases import Syntax
from celeb_basis.exports.textual_inversion import Layout

IDENTITY = "identity"
"""This project's own file, in the place of a layout of another tool's."""


@dataclass(frozen=True)
class Tool:
    """One tool and what it is to be given."""

    name: str
    module: tuple[str, ...]
    """What is run in its Python, below ``benchmarks.interop.inside``, and with which flags."""
    layout: Layout | str
    syntax: Syntax
    families: tuple[str, ...] = ("sd1", "sdxl")
    variable: str = ""
    """The environment variable that names its folder; none for what comes with this project."""
    pythons: tuple[str, ...] = field(default=("venv/bin/python", ".venv/bin/python", "venv/Scripts/python.exe"))
    """Where its Python is, seen from that folder, unless the variable ``..._PYTHON`` names one."""
    checkpoint: bool = False
    """Whether it wants the checkpoint as a WebUI does, and not as a folder of diffusers."""

    def folder(self, environment: Mapping[str, str] = os.environ) -> Path | None:
        """Its folder, or ``None`` where it was not named."""
        named = environment.get(self.variable, "") if self.variable else ""
        return Path(named).expanduser() if named else None

    def python(self, environment: Mapping[str, str] = os.environ) -> str:
        """What runs it: the variable's, its own, or, for a tool without an environment of its own, this one."""
        if named := environment.get(f"{self.variable}_PYTHON"):
            return str(Path(named).expanduser())
        folder = self.folder(environment)
        own = [] if folder is None else [folder / place for place in self.pythons]
        return next((str(python) for python in own if python.is_file()), sys.executable)


_BRACKETED = "<{}>"

TOOLS = (
    Tool("diffusers", ("diffusers",), "diffusers", Syntax(_BRACKETED, "none", cut="it cuts prompts at 77 tokens")),
    Tool(
        "ComfyUI",
        ("comfyui",),
        "comfyui",
        Syntax("embedding:{}", "brackets", glued=(",", ":", ")")),
        variable="CELEB_BASIS_COMFYUI",
    ),
    Tool(
        "InvokeAI",
        ("invokeai",),
        "invokeai",
        Syntax(
            _BRACKETED,
            "compel",
            cut="with a person in it, it reads 75 tokens and drops the rest",
        ),
        variable="CELEB_BASIS_INVOKEAI",
    ),
    Tool(
        "Forge without the extension",
        ("forge",),
        "webui",
        Syntax("{}", "brackets"),
        families=("sd1",),
        variable="CELEB_BASIS_FORGE",
    ),
    Tool(
        "WebUI without the extension",
        ("webui",),
        "webui",
        Syntax("{}", "brackets"),
        families=("sd1",),
        variable="CELEB_BASIS_WEBUI",
        checkpoint=True,
    ),
    Tool(
        "WebUI with the extension",
        ("webui", "--extension"),
        IDENTITY,
        Syntax(_BRACKETED, "brackets"),
        families=("sd1",),
        variable="CELEB_BASIS_WEBUI",
        checkpoint=True,
    ),
)


def known(name: str) -> Tool:
    """The tool called ``name``."""
    return next(tool for tool in TOOLS if tool.name == name)
