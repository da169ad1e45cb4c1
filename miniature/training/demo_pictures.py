"""The photos of the demo: two strangers who are not in the evidence.

``python -m miniature.training.demo_pictures`` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from celeb_basis.cli.demo import STRANGERS
from celeb_basis.files import atomic_path
from miniature.training.faces import FaceGenerator, candidate_numbers
from miniature.training.people import portrait, read_people

CHOSEN = (-7, -10)
"""Strangers, counted from the end: the evidence begins at the beginning."""


def write_pictures(paths: Sequence[Path], chosen: Sequence[int] = CHOSEN) -> None:
    """Write a plain portrait of each chosen stranger as PNG."""
    from PIL import Image

    people, generator = read_people(), FaceGenerator()
    for path, place in zip(paths, chosen, strict=True):
        numbers = candidate_numbers([people.candidates[people.strangers[place]]])
        with atomic_path(path) as temporary:
            Image.fromarray(portrait(generator.draw(numbers)[0]).picture).save(str(temporary), format="PNG")


if __name__ == "__main__":
    write_pictures(STRANGERS)
