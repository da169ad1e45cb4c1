"""``demo``: everything once, without a download beyond packages."""

from __future__ import annotations

import argparse
from pathlib import Path

from celeb_basis.cli.options import Commands, UsageError, add_command
from celeb_basis.cli.progress import Console, LearnBar
from celeb_basis.learning.events import Event

_ABOUT = """\
Learn a person from a photo and draw it, with nothing but installed packages: small real face networks, a photo that comes
with a package, and a small diffusion model that is made on the spot. Writes one HTML page that shows everything.

examples:
  celeb-basis demo
  celeb-basis demo --photo ada.jpg --output ada-demo"""


def add_parser(commands: Commands) -> None:
    """Add ``demo`` to the commands."""
    parser = add_command(commands, "demo", "see everything once, without a model of your own", _ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER", help="where the files go")
    parser.add_argument("--photo", type=Path, metavar="FILE", help="a photo of your own; a package's if left out")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="steps of learning")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same result")


def run(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    if arguments.steps < 1:
        raise UsageError("--steps must be at least 1.")

    from celeb_basis.cli.loading import check_folder, hush_libraries
    from celeb_basis.demo.run import UNTRAINED, DemoOptions, Stage, run_demo
    from celeb_basis.executors.work import follow

    check_folder(arguments.output)
    if not screen.verbose:
        hush_libraries()
    running = run_demo(DemoOptions(arguments.output, photo=arguments.photo, steps=arguments.steps, seed=arguments.seed))
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
            "identity": str(result.identity),
            "files": [str(path) for path in result.files],
            "trained": False,
            "note": UNTRAINED,
            "verdict": result.verdict.as_dict(),
            "seconds": round(result.seconds, 3),
        }
    )
    screen.say(UNTRAINED)
    screen.say(result.verdict.table())
    screen.say(f"identity: {result.identity}")
    screen.say(f"page: {result.page}")
    return 0
