"""Photos of strangers, as users would upload them: one person from the front, near, calm, with nothing on the head.

``python -m miniature.world.photos FOLDER`` writes those of the demo.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from celeb_basis.faces.network import Pixels
from celeb_basis.files import atomic_path
from miniature.world.bank import Bank, draw_bank
from miniature.world.people import People, read_people
from miniature.world.pool import Sitters

CHOSEN = (-5, -8)
"""The strangers of the demo, counted from the end: the evidence begins at the beginning."""
_MOST_TURNED = 12.0
"""Degrees of yaw of the photo that is learned from, where the bank has such a one."""
_SEED = 77


def photos_of(bank: Bank, number: int, count: int) -> list[Pixels]:
    """Plain portraits of a person, that which is best to learn from first.

    Args:
        bank: Pictures of people.
        number: Who it is.
        count: How many, each in another look.

    Returns:
        ``(SIDE, SIDE, 3)`` pictures, the same for the same arguments.
    """
    sitters, rng, looks = Sitters(bank, []), np.random.default_rng([_SEED, number]), bank.looks(number)

    def worse(place: int) -> tuple[bool, bool, bool, bool, int]:
        look = looks[place]
        turned, strained = abs(look.yaw) > _MOST_TURNED, look.expression not in ("neutral", "smile")
        return bool(look.thing), not look.near, turned, strained, place

    order = sorted(bank.places(number), key=worse)[:count]
    return [sitters.picture(sitters.portrait(number, place), rng)[0] for place in order]


def write_photos(paths: Sequence[Path], people: People, chosen: Sequence[int] = CHOSEN) -> None:
    """Write the photo of each chosen stranger as PNG; they are drawn first."""
    numbers = [people.strangers[place] for place in chosen]
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder)
        draw_bank(bank, numbers, people.spread, processes=os.cpu_count() or 1)
        for path, number in zip(paths, numbers, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                Image.fromarray(photos_of(Bank(bank), number, 1)[0]).save(str(temporary), format="PNG")


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--strangers", type=int, nargs="+", default=CHOSEN, help="others, counted from the end (%(default)s)"
    )
    arguments = parser.parse_args()
    names = [f"stranger{order}.png" for order in range(1, len(arguments.strangers) + 1)]
    write_photos([arguments.folder / name for name in names], read_people(), arguments.strangers)


if __name__ == "__main__":
    main()
