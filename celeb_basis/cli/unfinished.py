"""Runs that were interrupted: where the command line keeps them, and the command that goes on with one."""

from __future__ import annotations

import argparse
import hashlib
import json
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


def unfinished_run(names: Sequence[str], arguments: argparse.Namespace) -> Path:
    """Where a run of ``names`` is kept. No run of other people, on another model or for another library has that file."""
    from celeb_basis.identities.library import name_key

    places = [str(place.expanduser().resolve()) for place in (arguments.model, arguments.library)]
    digest = hashlib.sha256(json.dumps([*map(name_key, names), *places]).encode()).hexdigest()
    # The name is for people who look into the folder; in some scripts 64 characters would fill a whole file name.
    return unfinished_runs() / f"{names[0][:32]}-{digest[:10]}.safetensors"


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
