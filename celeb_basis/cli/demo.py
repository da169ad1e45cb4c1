"""``demo``: everything once on the miniature model, without a checkpoint of your own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.cli.arguments import path_argument
from celeb_basis.cli.common import Commands, UsageError, add_command, check_folder, hush_libraries
from celeb_basis.cli.progress import Console, LearnBar
from celeb_basis.miniature import PHOTOS
from celeb_basis.settings import PRESETS

if TYPE_CHECKING:
    from celeb_basis.events import Event

STRANGERS = (PHOTOS / "stranger1.png", PHOTOS / "stranger2.png")
"""Photos of two invented people whom the miniature was not trained on."""

_DESCRIPTION = """\
Learn two people from one photo each, and generate images of them alone, together and in scenes. This command downloads
nothing: small face networks and a miniature of Stable Diffusion come with the project. ('make demo', in a clone, first
installs the packages that are missing from PyPI, PyTorch among them.) An HTML page shows everything.

examples:
  celeb-basis demo
  celeb-basis demo --photo ada.jpg --photo grace.jpg --output our-demo"""


def add_parser(commands: Commands) -> None:
    """Add ``demo`` to the commands."""
    parser = add_command(commands, "demo", "try everything once, without a model of your own", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--output", type=path_argument, default=Path("demo-output"), metavar="FOLDER", help="folder for the files"
    )
    parser.add_argument(
        "--photo",
        type=path_argument,
        action="append",
        metavar="FILE",
        help="a photo of your own, one per person; repeatable",
    )
    parser.add_argument(
        "--steps", type=int, default=PRESETS["best"].steps, metavar="N", help="training steps for each person"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same result")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; returns the exit code."""
    if arguments.steps < 1:
        raise UsageError("--steps must be at least 1.")

    from celeb_basis.cli.demo_run import MINIATURE_NOTE, DemoOptions, Stage, run_demo
    from celeb_basis.events import follow

    check_folder(arguments.output)
    if not console.verbose:
        hush_libraries()
    photos = tuple(arguments.photo or STRANGERS)
    running = run_demo(DemoOptions(arguments.output, photos=photos, steps=arguments.steps, seed=arguments.seed))
    bar = LearnBar(console, "demo")

    def on_event(event: Event) -> None:
        if isinstance(event, Stage):
            bar.close()
            console.note(f"{event.name} ...")
        else:
            bar.show(event)

    try:
        result = follow(running, on_event)
    finally:
        bar.close()
    console.result(
        {
            "page": str(result.page),
            "identities": [str(path) for path in result.identities],
            "files": [str(path) for path in result.files],
            "note": MINIATURE_NOTE,
            "verdict": result.evaluation.as_dict(),
            "seconds": round(result.seconds, 3),
        }
    )
    console.say(MINIATURE_NOTE)
    console.say(result.evaluation.table())
    for path in result.identities:
        console.say(f"identity: {path}")
    console.say(f"page: {result.page}")
    return 0
