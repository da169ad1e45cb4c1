"""``python -m benchmarks.interop``: is an exported person the same person in every tool that is found?

Learns the demo's two strangers on the miniature, exports them, and lets each tool load and encode them itself. 0 if all that
was found agrees, 1 if something differs or fails. Tools are found by environment variables; without one, a line says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.interop.cases import CASES
from benchmarks.interop.comparing import EvaluationResult, compared
from benchmarks.interop.people import World, miniature, small_sdxl
from benchmarks.interop.running import ToolFailedError, ask
from benchmarks.interop.tools import TOOLS, Tool
from celeb_basis.cli.common import hush_libraries
from celeb_basis.errors import CelebBasisError

_STEPS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, try every tool, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interop", description=__doc__)
    parser.add_argument(
        "--identity", type=Path, action="append", default=[], help="learned on the miniature; twice for two"
    )
    parser.add_argument("--steps", type=int, default=_STEPS, help=f"of learning, where no identity is given; {_STEPS}")
    parser.add_argument(
        "--only", metavar="WORD", action="append", help="the tools alone that have WORD in their names; may be repeated"
    )
    parser.add_argument("--sd1-only", action="store_true", help="leave the small SDXL out")
    options = parser.parse_args(arguments)
    wanted = [word.lower() for word in options.only or [""]]
    tools = [tool for tool in TOOLS if any(word in tool.name.lower() for word in wanted)]
    if not tools:
        parser.error(f"there is no tool {options.only[0]!r}: choose from {', '.join(tool.name for tool in TOOLS)}")
    same = True
    hush_libraries()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for world in _worlds(options, Path(folder), tools):
                say(f"On {world.title}:")
                for number, tool in enumerate(tools):
                    same &= _tried(tool, world, Path(folder) / f"{world.family}-{number}")
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    say("Everything that was found agrees." if same else "Something differs: see above.")
    return 0 if same else 1


def _worlds(options: argparse.Namespace, folder: Path, tools: Sequence[Tool]) -> Iterator[World]:
    yield miniature(folder / "miniature", steps=options.steps, identities=options.identity)
    found = [tool for tool in tools if "sdxl" in tool.families and _found(tool)]
    if not options.sd1_only and found:
        yield small_sdxl(folder / "sdxl")


def _found(tool: Tool) -> bool:
    return not tool.variable or tool.folder() is not None


def _tried(tool: Tool, world: World, folder: Path) -> bool:
    if world.family not in tool.families:
        return True
    if not _found(tool):
        say(f"  {tool.name}: not found: set {tool.variable} to its folder")
        return True
    folder.mkdir()
    try:
        verdict = compared(ask(tool, world, folder), world)
    except ToolFailedError as error:
        say(f"  {tool.name}: could not be run.\n{error}")
        return False
    for line in lines(tool.name, verdict):
        say(f"  {line}")
    for case in CASES:
        if reason := tool.syntax.why_not(case):
            say(f"    {'not tried':<9} {case.name}: {reason}")
    return verdict.same


def lines(name: str, verdict: EvaluationResult) -> Iterator[str]:
    """A verdict, for people."""
    identical = all(verdict.vectors.values())
    vectors = ", ".join(verdict.vectors)
    yield f"{name} {verdict.version}, torch {verdict.torch_version}"
    yield f"  {_said(identical)} token vectors of {vectors}: {'identical, bit for bit' if identical else 'not the same'}"
    for one in verdict.prompts:
        shown = one.prompt if len(one.prompt) <= 60 else f"{one.prompt[:28]} ... {one.prompt[-28:]}"
        beside = "" if one.ours is None else f"  beside ours {one.ours:.1e}, without the word {_told(one.anyway)}"
        yield f"  {_said(one.same)} {shown:<62} as its two vectors {one.own:.1e}{beside}"


def say(text: str) -> None:
    """A line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _said(same: bool) -> str:
    return f"{'equal' if same else 'DIFFERENT':<9}"


def _told(number: float | None) -> str:
    return "-" if number is None else f"{number:.1e}"


if __name__ == "__main__":
    sys.exit(main())
