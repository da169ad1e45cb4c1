"""Runs that were interrupted: where the command line keeps them, and the command that goes on with one."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from celeb_basis.cli.options import default_library
from celeb_basis.files import cache_folder


def unfinished_runs() -> Path:
    """Where this command line keeps interrupted runs, unless it is told otherwise."""
    return cache_folder() / "unfinished"


def resume_command(arguments: argparse.Namespace, state: Path) -> str:
    """The command that goes on with the run in ``state`` as ``arguments`` began it."""
    words = ["celeb-basis", "learn", "--resume", str(state), "--model", str(arguments.model)]
    for option in ("device", "dtype"):
        if (value := getattr(arguments, option)) != "auto":
            words += [f"--{option}", value]
    if arguments.names is not None:
        words += ["--names", str(arguments.names)]
    if arguments.library != default_library():
        words += ["--library", str(arguments.library)]
    if arguments.replace:
        words.append("--replace")
    return command_line(words)


def command_line(words: Sequence[str]) -> str:
    """``words`` as they are typed in this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
