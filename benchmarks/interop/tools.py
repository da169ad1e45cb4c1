"""The tools that are tested and the prompts they are tested with, written in each tool's own syntax."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from celeb_basis.exports.textual_inversion import Layout

NAMES = ("adamo", "berisa")
"""Names that are not in the vocabulary, so that a tool that matches plain words finds nothing but the identity."""

STAND_INS = {"adamo": ("sks", "ata"), "berisa": ("ks", "tre")}
"""Two plain words of one token each, which take the positions of an identity's two vectors."""

IDENTITY = "identity"
"""This project's own file, used like a layout of another tool's."""

_PLACEHOLDER = re.compile(r"<(\w+)>")
_EMPHASIS = re.compile(r"\(([^():]+):([\d.]+)\)")


@dataclass(frozen=True)
class Case:
    """One prompt, as this project writes it."""

    name: str
    text: str
    emphasis: bool = False
    """Tools apply weights differently: the conditioning is only compared within the same tool."""
    long: bool = False
    """Longer than 75 tokens: tools truncate it or split it differently."""


_LONG = (
    "a very detailed photo of a quiet harbour in the early morning with fishing boats and gulls and old stone houses "
    "and nets drying in the pale sun while the first people of the day carry baskets of bread and fruit along the "
    "narrow road to the market square where a band is playing slow music and children are running around the fountain "
    "with paper kites in all the colors of the rainbow . in front of it all stands <adamo> in a red coat , smiling"
)

CASES = (
    Case("at the beginning", "<adamo> as an astronaut, oil painting"),
    Case("in the middle", "a photo of <adamo> person on a beach"),
    Case("at the end", "a close-up portrait of <adamo>"),
    Case("alone", "<adamo>"),
    Case("before a comma", "a photo of <adamo>, smiling"),
    Case("before a full stop", "a photo of <adamo>. It rains"),
    Case("possessive", "<adamo>'s hat on a table"),
    Case("two people", "<adamo> and <berisa> baking a cake"),
    Case("one person twice", "<berisa> beside <berisa> in a mirror"),
    Case("emphasis", "a photo of (<adamo>:1.3) in a forest", emphasis=True),
    Case("emphasis on a phrase", "(<adamo> and <berisa>:1.2), detailed", emphasis=True),
    Case("beyond 77 tokens", _LONG, long=True),
)

Emphasis = Literal["brackets", "compel", "none"]


@dataclass(frozen=True)
class Syntax:
    """How a tool's prompts are written."""

    placeholder: str
    """An identity, with ``{}`` for its name."""
    emphasis: Emphasis
    glued: tuple[str, ...] | None = None
    """The only characters that may follow an identity directly; ``None`` for any. A space is put before all others."""
    cut: str = ""
    """What happens to a prompt of more than 75 tokens that the tool does not read to its end; empty where it does."""

    def unsupported(self, case: Case) -> str:
        """Why the tool has no such prompt; empty where it has."""
        if case.emphasis and self.emphasis == "none":
            return "its prompts have no emphasis"
        return self.cut if case.long else ""

    def prompt(self, case: Case) -> str:
        """``case`` as a user of the tool would write it."""
        text = case.text if self.glued is None else self._with_spaces(case.text)
        return _PLACEHOLDER.sub(lambda found: self.placeholder.format(found[1]), self._with_weights(text))

    def plain(self, case: Case) -> str:
        """The same with plain words instead of identities."""
        return _PLACEHOLDER.sub(lambda found: " ".join(STAND_INS[found[1]]), self._with_weights(case.text))

    def _with_weights(self, text: str) -> str:
        return _EMPHASIS.sub(r"(\1)\2", text) if self.emphasis == "compel" else text

    def _with_spaces(self, text: str) -> str:
        allowed = re.escape("".join((" ", *(self.glued or ()))))
        return re.sub(rf"(<\w+>)(?=[^{allowed}])", r"\1 ", text)


def supported(syntax: Syntax, cases: Sequence[Case] = CASES) -> list[Case]:
    """The cases that a tool supports."""
    return [case for case in cases if not syntax.unsupported(case)]


@dataclass(frozen=True)
class Tool:
    """One tool, where it is found and what it is given."""

    name: str
    module: tuple[str, ...]
    """What its Python runs, below ``benchmarks.interop.inside``, and with which flags."""
    layout: Layout | str
    syntax: Syntax
    families: tuple[str, ...] = ("sd1", "sdxl")
    variable: str = ""
    """The environment variable that names its folder; none for what comes with this project."""
    pythons: tuple[str, ...] = field(default=("venv/bin/python", ".venv/bin/python", "venv/Scripts/python.exe"))
    """Where its Python is below that folder, unless the variable ``..._PYTHON`` names one."""
    checkpoint: bool = False
    """Whether it needs the checkpoint as a single file, like a WebUI, instead of a diffusers folder."""

    def folder(self, environment: Mapping[str, str] = os.environ) -> Path | None:
        """Its folder, or ``None`` where none is named."""
        named = environment.get(self.variable, "") if self.variable else ""
        return Path(named).expanduser() if named else None

    def python(self, environment: Mapping[str, str] = os.environ) -> str:
        """The Python that runs it: the variable's, its own, or this one where it has no environment of its own."""
        if named := environment.get(f"{self.variable}_PYTHON"):
            return str(Path(named).expanduser())
        folder = self.folder(environment)
        own = [] if folder is None else [folder / place for place in self.pythons]
        return next((str(python) for python in own if python.is_file()), sys.executable)


_BRACKETED = "<{}>"

TOOLS = (
    Tool("diffusers", ("diffusers",), "diffusers", Syntax(_BRACKETED, "none", cut="it truncates prompts at 77 tokens")),
    Tool(
        "ComfyUI",
        ("comfyui",),
        "comfyui",
        Syntax("embedding:{}", "brackets", glued=(",", ":", ")")),
        variable="CELEB_BASIS_COMFYUI",
    ),
    Tool(
        "ComfyUI with the nodes",
        ("comfyui", "--nodes"),
        IDENTITY,
        Syntax(_BRACKETED, "brackets"),
        variable="CELEB_BASIS_COMFYUI",
    ),
    Tool(
        "InvokeAI",
        ("invokeai",),
        "invokeai",
        Syntax(
            _BRACKETED,
            "compel",
            cut="with an identity in it, it reads 75 tokens and drops the rest",
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
        "Forge Neo without the extension",
        ("forge", "--neo"),
        "webui",
        Syntax("{}", "brackets"),
        families=("sd1",),
        variable="CELEB_BASIS_FORGE_NEO",
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


def tool_named(name: str) -> Tool:
    """The tool called ``name``."""
    return next(tool for tool in TOOLS if tool.name == name)
