"""A sheet of invented people to look at: ``python -m miniature.people3d.sheet sheet.png --people 24``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from celeb_basis.faces.network import Pixels
from celeb_basis.files import atomic_path
from miniature.people3d.head_model import Array
from miniature.people3d.looks import LIGHTS, draw_clothes, draw_lighting
from miniature.people3d.person import Rng, draw_person, linear
from miniature.people3d.portrait import EXPRESSIONS, Model, Pose
from miniature.people3d.things import HELD, WORN


def backdrop(side: int, rng: Rng) -> Array:
    """``(side, side, 3)`` float32 linear light: a plain color, lighter around a point."""
    color = linear(*rng.integers(100, 225, 3))
    y, x = np.mgrid[0:side, 0:side] / side
    middle = 0.5 + 0.2 * rng.standard_normal(2)
    falling = np.clip(np.hypot(x - middle[0], y - middle[1]) / 0.9, 0, 1)[..., None] ** 1.3
    result: Array = (color * (1 - 0.45 * falling)).astype(np.float32)
    return result


def row(number: int, side: int, spread: float) -> Pixels:
    """``(side, 3 * side, 3)``: a person from the front, turned, and with a thing."""
    model, rng = Model(draw_person(number, spread)), np.random.default_rng((number, 21))
    clothes, smiles = draw_clothes(rng), ("slight smile", "smile", "laugh")
    thing = str(rng.choice([*WORN, *HELD]))
    pictures = [
        model.picture(side, Pose(), "neutral", lighting=draw_lighting("soft", rng), clothes=clothes),
        model.picture(
            side,
            Pose(float(rng.uniform(18, 30)) * float(rng.choice([-1, 1])), float(rng.uniform(-5, 5)), 0),
            str(rng.choice(smiles)),
            lighting=draw_lighting(str(rng.choice(LIGHTS)), rng),
            clothes=clothes,
        ),
        model.picture(
            side,
            Pose(float(rng.uniform(-15, 15)), float(rng.uniform(-5, 5)), float(rng.uniform(-5, 5))),
            str(rng.choice(list(EXPRESSIONS))),
            lighting=draw_lighting(str(rng.choice(LIGHTS)), rng),
            clothes=clothes,
            things=[thing],
            seed=number,
            zoom=0.66 if thing in HELD else 0.85,
        ),
    ]
    return np.hstack([picture.over(backdrop(side, rng)) for picture in pictures])


def sheet(numbers: Sequence[int], side: int, across: int, spread: float) -> Pixels:
    """People beside and below each other, three pictures each."""
    rows = [row(number, side, spread) for number in numbers]
    rows += [np.full_like(rows[0], 255)] * (-len(rows) % across)
    return np.vstack([np.hstack(rows[start : start + across]) for start in range(0, len(rows), across)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a sheet."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="number of the first person (%(default)s)")
    parser.add_argument("--side", type=int, default=128, help="pixels (%(default)s)")
    parser.add_argument("--across", type=int, default=4, help="people in a row (%(default)s)")
    parser.add_argument("--spread", type=float, default=1.4, help="how far features vary (%(default)s)")
    options = parser.parse_args(arguments)
    numbers = range(options.first, options.first + options.people)
    picture = sheet(numbers, options.side, options.across, options.spread)
    with atomic_path(options.file) as path:
        Image.fromarray(picture).save(path, format="PNG")


if __name__ == "__main__":
    main()
