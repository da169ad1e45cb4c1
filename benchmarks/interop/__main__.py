"""``python -m benchmarks.interop``: is an exported identity the same in every tool that is found?

Learns the demo's two strangers on the miniature, exports them, and lets each tool load and encode them itself. Exit code 0 if
all tools that were found agree, 1 if something differs or fails. Tools are found by environment variables; a tool without
its variable is reported as not found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.interop.comparison import EvaluationResult, ToolFailedError, compare, run_tool
from benchmarks.interop.testbed import InteropTestbed, miniature, small_sdxl
from benchmarks.interop.tools import CASES, TOOLS, Tool
from celeb_basis.cli.common import hush_libraries
from celeb_basis.errors import CelebBasisError

_STEPS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, test every tool, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interop", description=__doc__)
    parser.add_argument(
        "--identity", type=Path, action="append", default=[], help="learned on the miniature; twice for two"
    )
    parser.add_argument("--steps", type=int, default=_STEPS, help=f"learning steps without --identity; {_STEPS}")
    parser.add_argument(
        "--only", metavar="WORD", action="append", help="only tools with WORD in their names; may be repeated"
    )
    parser.add_argument("--sd1-only", action="store_true", help="skip the small SDXL")
    options = parser.parse_args(arguments)
    wanted = [word.lower() for word in options.only or [""]]
    tools = [tool for tool in TOOLS if any(word in tool.name.lower() for word in wanted)]
    if not tools:
        parser.error(f"there is no tool {options.only[0]!r}: choose from {', '.join(tool.name for tool in TOOLS)}")
    same = True
    hush_libraries()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for testbed in _testbeds(options, Path(folder), tools):
                say(f"On {testbed.title}:")
                for number, tool in enumerate(tools):
                    same &= _try_tool(tool, testbed, Path(folder) / f"{testbed.family}-{number}")
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    say("All tools that were found agree." if same else "Something differs: see above.")
    return 0 if same else 1


def _testbeds(options: argparse.Namespace, folder: Path, tools: Sequence[Tool]) -> Iterator[InteropTestbed]:
    yield miniature(folder / "miniature", steps=options.steps, identities=options.identity)
    found = [tool for tool in tools if "sdxl" in tool.families and _found(tool)]
    if not options.sd1_only and found:
        yield small_sdxl(folder / "sdxl")


def _found(tool: Tool) -> bool:
    return not tool.variable or tool.folder() is not None


def _try_tool(tool: Tool, testbed: InteropTestbed, folder: Path) -> bool:
    """Test one tool and print the verdict; returns whether nothing differs."""
    if testbed.family not in tool.families:
        return True
    if not _found(tool):
        say(f"  {tool.name}: not found: set {tool.variable} to its folder")
        return True
    folder.mkdir()
    try:
        verdict = compare(run_tool(tool, testbed, folder), testbed)
    except ToolFailedError as error:
        say(f"  {tool.name}: could not be run.\n{error}")
        return False
    for line in lines(tool.name, verdict):
        say(f"  {line}")
    for case in CASES:
        if reason := tool.syntax.unsupported(case):
            say(f"    {'not tried':<9} {case.name}: {reason}")
    return verdict.same


def lines(name: str, verdict: EvaluationResult) -> Iterator[str]:
    """A verdict as lines to print."""
    identical = all(verdict.vectors.values())
    vectors = ", ".join(verdict.vectors)
    yield f"{name} {verdict.version}, torch {verdict.torch_version}"
    yield f"  {_label(identical)} token vectors of {vectors}: {'identical, bit for bit' if identical else 'not the same'}"
    for one in verdict.prompts:
        shown = one.prompt if len(one.prompt) <= 60 else f"{one.prompt[:28]} ... {one.prompt[-28:]}"
        ours = "" if one.ours is None else f"  from ours {one.ours:.1e}, without the identity {_number(one.plain)}"
        yield f"  {_label(one.same)} {shown:<62} from its two vectors {one.own:.1e}{ours}"


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _label(same: bool) -> str:
    return f"{'equal' if same else 'DIFFERENT':<9}"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.1e}"


if __name__ == "__main__":
    sys.exit(main())
