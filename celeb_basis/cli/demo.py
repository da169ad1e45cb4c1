"""``demo``: everything once, without a download beyond packages."""

from __future__ import annotations

import argparse
from pathlib import Path

from celeb_basis.cli.options import Commands, UsageError, add_command
from celeb_basis.cli.progress import Console, LearnBar
from celeb_basis.learning.events import Event
from celeb_basis.settings import PRESETS

_ABOUT = """\
Learn two people from one picture each, and draw them apart, together and in scenes, with nothing to download: small real
face networks and a miniature of Stable Diffusion come with the project. Writes one HTML page that shows everything.

examples:
  celeb-basis demo
  celeb-basis demo --photo ada.jpg --photo grace.jpg --output our-demo"""


def add_parser(commands: Commands) -> None:
    """Add ``demo`` to the commands."""
    parser = add_command(commands, "demo", "see everything once, without a model of your own", _ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER", help="where the files go")
    parser.add_argument(
        "--photo", type=Path, action="append", metavar="FILE", help="a photo of your own, once for each person"
    )
    parser.add_argument(
        "--steps", type=int, default=PRESETS["best"].steps, metavar="N", help="steps of learning, for each person"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same result")


def run(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    if arguments.steps < 1:
        raise UsageError("--steps must be at least 1.")

    from celeb_basis.cli.loading import check_folder, hush_libraries
    from celeb_basis.demo.run import MINIATURE_NOTE, STRANGERS, DemoOptions, Stage, run_demo
    from celeb_basis.executors.work import follow

    check_folder(arguments.output)
    if not screen.verbose:
        hush_libraries()
    photos = tuple(arguments.photo or STRANGERS)
    running = run_demo(DemoOptions(arguments.output, photos=photos, steps=arguments.steps, seed=arguments.seed))
    bar = LearnBar(screen, "demo")

    def on_event(event: Event) -> None:
        if isinstance(event, Stage):
            bar.close()
            screen.note(f"{event.name} ...")
        else:
            bar.show(event)

    try:
        result = follow(running, on_event)
    finally:
        bar.close()
    screen.result(
        {
            "page": str(result.page),
            "identities": [str(path) for path in result.identities],
            "files": [str(path) for path in result.files],
            "note": MINIATURE_NOTE,
            "verdict": result.verdict.as_dict(),
            "seconds": round(result.seconds, 3),
        }
    )
    screen.say(MINIATURE_NOTE)
    screen.say(result.verdict.table())
    for path in result.identities:
        screen.say(f"identity: {path}")
    screen.say(f"page: {result.page}")
    return 0
