"""The bank: cut-out pictures of people, drawn once; scenes are composed of them.

``python -m miniature.world.bank FOLDER --processes 2`` draws people; those who have a file are not drawn again.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from celeb_basis.faces.network import Pixels
from celeb_basis.files import atomic_path
from miniature.people3d.looks import draw_clothes, draw_lighting
from miniature.people3d.person import draw_person
from miniature.people3d.portrait import Cutout, Model, Pose, developed
from miniature.training.hardware import drawing_processes
from miniature.world.scenes import Look, draw_look, draw_posed_look

_log = logging.getLogger(__name__)

LOOKS, POSED_LOOKS = 24, 3
"""Pictures of a person, and how many posed ones there are beside them."""
_SIDES = {True: 224, False: 256}
_ACROSS = {True: 3.55, False: 5.5}
"""Decimeters across a picture at the eyes, near and far."""
_ZOOM_OF_ONE = 3.2
_QUALITY = 92
UNNAMED_FROM = 10_000_000
"""Numbers of people who appear without a name; nobody is cast from there on."""
EXTRAS_FROM, EXTRA_LOOKS = 20_000_000, 2
"""Numbers of people without a name of whom there are only portraits, and how many beside a posed one.

Thousands of them show how faces differ.
"""
_REMEMBERED = 4096


@dataclass(frozen=True)
class Clipping:
    """A cut-out picture of a person."""

    pixels: Pixels
    """``(S, S, 4)`` sRGB and coverage; the middle of the picture lies between the eyes, a little below."""
    scale: float
    """Pixels a decimeter at the eyes."""


def draw_clipping(model: Model, look: Look) -> Clipping:
    """Draw a person in a look."""
    side, rng = _SIDES[look.near], np.random.default_rng(look.seed)
    cutout = model.picture(
        side,
        Pose(look.yaw, look.pitch, look.roll),
        look.expression,
        lighting=draw_lighting(look.light, rng),
        clothes=draw_clothes(rng),
        things=[look.thing] if look.thing else [],
        seed=look.seed,
        zoom=_ZOOM_OF_ONE / _ACROSS[look.near],
    )
    return Clipping(_with_alpha(cutout), side / _ACROSS[look.near])


def _with_alpha(cutout: Cutout) -> Pixels:
    color = developed(cutout.color / np.maximum(cutout.coverage, 1e-3))
    alpha = (255 * cutout.coverage + 0.5).astype(np.uint8)
    return np.concatenate([color * (alpha > 0), alpha], 2)


def looks_of(number: int, count: int = LOOKS) -> list[Look]:
    """The looks in which a person is drawn: the same ones for a number, at least four near and four far, and posed ones.

    Of an extra, they are near and without things, and one more is posed.
    """
    rng, posing = (np.random.default_rng((number, 31 + kind)) for kind in (0, 1))
    if number >= EXTRAS_FROM:
        near = [replace(draw_look(rng), thing="", near=True) for _ in range(EXTRA_LOOKS)]
        return [*near, draw_posed_look(posing)]
    looks = [draw_look(rng) for _ in range(count)]
    while min(sum(one.near for one in looks), sum(not one.near and not one.thing for one in looks)) < min(
        4, count // 6
    ):
        looks = [*looks[1:], draw_look(rng)]
    return [*looks, *(draw_posed_look(posing) for _ in range(POSED_LOOKS))]


def draw_person_into(folder: Path, number: int, spread: float, looks: Sequence[Look]) -> Path:
    """Draw a person's pictures and write them atomically as ``00000.safetensors``, WebP files in a row.

    Where the file has the first of the looks already, only the others are drawn.
    """
    path, files = _path(folder, number), []
    if path.exists():
        there, before = _read_person(path)
        files = [np.frombuffer(one, np.uint8) for one in before] if there == list(looks[: len(there)]) else []
    model = Model(draw_person(number, spread))
    for look in looks[len(files) :]:
        file = io.BytesIO()
        Image.fromarray(draw_clipping(model, look).pixels).save(file, "WEBP", quality=_QUALITY, method=2)
        files.append(np.frombuffer(file.getvalue(), np.uint8))
    tensors = {"data": np.concatenate(files), "ends": np.cumsum([len(one) for one in files])}
    facts = {"looks": json.dumps([asdict(look) for look in looks]), "spread": str(spread)}
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata=facts)
    return path


class Bank:
    """Pictures of people, by their numbers."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is one that :func:`main` drew into."""
        self.folder = folder
        self._read = lru_cache(_REMEMBERED)(lambda number: _read_person(_path(folder, number)))

    def unnamed(self) -> list[int]:
        """Who was drawn to appear without a name."""
        return [number for number in self._numbers() if UNNAMED_FROM <= number < EXTRAS_FROM]

    def extras(self) -> list[int]:
        """Of whom there are only portraits."""
        return [number for number in self._numbers() if number >= EXTRAS_FROM]

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.safetensors"))

    def looks(self, number: int) -> list[Look]:
        """How a person was drawn."""
        return self._read(number)[0]

    def places(self, number: int, *, posed: bool = False) -> list[int]:
        """Places of a person's posed pictures, or of all others."""
        return [place for place, look in enumerate(self.looks(number)) if look.posed == posed]

    def clipping(self, number: int, place: int) -> Clipping:
        """One of a person's pictures, in the order of :meth:`looks`."""
        looks, files = self._read(number)
        pixels = np.asarray(Image.open(io.BytesIO(files[place])).convert("RGBA"))
        return Clipping(pixels, _SIDES[looks[place].near] / _ACROSS[looks[place].near])


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.safetensors"


def _read_person(path: Path) -> tuple[list[Look], list[bytes]]:
    """The looks and the WebP files of a person."""
    with safe_open(str(path), "np") as stored:
        data, ends = stored.get_tensor("data"), stored.get_tensor("ends")
        return _looks_in(stored), [one.tobytes() for one in np.split(data, ends[:-1])]


def _looks_in(stored: Any) -> list[Look]:
    return [Look(**one) for one in json.loads(stored.metadata()["looks"])]


def _missing(folder: Path, number: int, looks: Sequence[Look]) -> bool:
    path = _path(folder, number)
    if not path.exists():
        return True
    with safe_open(str(path), "np") as stored:
        return len(_looks_in(stored)) < len(looks)


def draw_bank(folder: Path, numbers: Iterable[int], spread: float, *, looks: int = LOOKS, processes: int = 1) -> None:
    """Draw everybody who is not in the folder yet, or not in all looks.

    Raises:
        BrokenProcessPool: A process crashed before it had drawn anybody.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {number: looks_of(number, looks) for number in numbers}
    missing = [number for number, own in wanted.items() if _missing(folder, number, own)]
    while missing:
        before = len(missing)
        try:
            _draw(folder, {number: wanted[number] for number in missing}, spread, processes)
        except BrokenProcessPool:
            # scipy 1.17.1's cKDTree crashes once in some thousand people, and not again with the same person.
            _log.warning("A process crashed: going on with new ones")
        missing = [number for number in missing if _missing(folder, number, wanted[number])]
        if len(missing) == before:
            raise BrokenProcessPool("Processes that draw crash at once: see the errors above.")


def _draw(folder: Path, wanted: Mapping[int, Sequence[Look]], spread: float, processes: int) -> None:
    with drawing_processes(processes) as pool:
        waiting = [pool.submit(draw_person_into, folder, number, spread, looks) for number, looks in wanted.items()]
        for done, one in enumerate(as_completed(waiting), 1):
            one.result()
            if done % 10 == 0 or done == len(wanted):
                _log.info("%d of %d people", done, len(wanted))


def main() -> None:
    """Parse the command line and draw."""
    from miniature.world.people import read_people

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=Path, help="file of miniature.world.people; by default the world's own")
    parser.add_argument("--names", type=int, help="so many of the named people; all by default")
    parser.add_argument("--strangers", type=int, help="so many of the strangers; all by default")
    parser.add_argument("--unnamed", type=int, default=100, help="others who appear in scenes (%(default)s)")
    parser.add_argument(
        "--extras", type=int, default=3600, help="people without a name of whom there are only portraits (%(default)s)"
    )
    parser.add_argument("--looks", type=int, default=LOOKS)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    people = read_people(arguments.people) if arguments.people else read_people()
    numbers = [*people.named[: arguments.names], *people.strangers[: arguments.strangers]]
    numbers += range(UNNAMED_FROM, UNNAMED_FROM + arguments.unnamed)
    numbers += range(EXTRAS_FROM, EXTRAS_FROM + arguments.extras)
    draw_bank(arguments.folder, numbers, people.spread, looks=arguments.looks, processes=arguments.processes)


if __name__ == "__main__":
    main()
