"""``runs``: list the training runs that ended before their last step, and discard one."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.cli.arguments import path_argument
from celeb_basis.cli.common import Commands, UsageError, add_command
from celeb_basis.cli.progress import Console
from celeb_basis.files import explained_os_errors

if TYPE_CHECKING:
    from celeb_basis.training.state import StateSummary

_DESCRIPTION = """\
List the training runs that were interrupted or crashed and can be resumed, newest first. A run is saved while it learns, every
30 seconds. Its file holds encoded views of the photos, and is deleted when the run is done, discarded, or with the person.

examples:
  celeb-basis runs
  celeb-basis learn --resume ada --model /models/sd15
  celeb-basis runs --discard ada"""


def add_parser(commands: Commands) -> None:
    """Add ``runs`` to the commands."""
    parser = add_command(commands, "runs", "list or discard runs that can be resumed", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--discard",
        type=path_argument,
        metavar="NAME|FILE",
        help="delete the newest run of this person, or this saved run",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; returns the exit code."""
    if arguments.discard is not None:
        return _discard(arguments, console)
    from celeb_basis.cli.learn_people import saved_runs
    from celeb_basis.training.run_lock import is_running

    runs = saved_runs()
    console.result({"runs": [_described(path, summary) for path, summary in runs.items()]})
    for path, summary in runs.items():
        console.say(_sentence(path, summary) + (" (under way now, in another program)" if is_running(path) else ""))
        console.say(f"  {path}")
    console.say("To resume one: celeb-basis learn --resume NAME --model MODEL" if runs else "There is no saved run.")
    return 0


def _discard(arguments: argparse.Namespace, console: Console) -> int:
    from celeb_basis.cli.learn_people import saved_run
    from celeb_basis.training.run_lock import check_not_running, running
    from celeb_basis.training.state import read_summary

    path = saved_run(arguments.discard)
    summary = read_summary(path)  # nothing but a saved run is deleted
    check_not_running([path], ", ".join(summary.names))
    if not arguments.yes:
        confirmed = console.confirm(f"Discard {_sentence(path, summary)}? It cannot be resumed after that.")
        if confirmed is None:
            raise UsageError("Discarding cannot be undone, and there is no terminal to ask at: add --yes.")
        if not confirmed:
            console.note("Nothing was discarded.")
            return 0
    described = _described(path, summary)
    with running(path, ", ".join(summary.names)), explained_os_errors(path, "delete"):
        path.unlink()
    console.result({"discarded": described})
    console.say(f"Discarded: {_sentence(None, summary)}.")
    return 0


def _described(path: Path, summary: StateSummary) -> dict[str, object]:
    from celeb_basis.training.run_lock import is_running

    return {
        "name": ", ".join(summary.names),
        "people": list(summary.names),
        "checkpoint": summary.model,
        "step": summary.step,
        "steps": summary.steps,
        "when": _when(path),
        "file": str(path),
        "running": is_running(path),
    }


def _sentence(path: Path | None, summary: StateSummary) -> str:
    saved = "" if path is None else f", saved {_when(path)}"
    return f"{', '.join(summary.names)}: step {summary.step} of {summary.steps} on {summary.model}{saved}"


def _when(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
