"""Pictures with captions, in shards on the disk: what everything is trained on.

``python -m miniature.world.pool FOLDER --bank BANK --shards 10`` adds shards. A training that runs loads new ones.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from celeb_basis.faces.network import Floats, Pixels
from celeb_basis.files import atomic_path
from miniature.people3d.things import HELD
from miniature.people3d.traits import WHO, Description, describe
from miniature.training.hardware import drawing_processes
from miniature.training.shards import EXTRAS_FROM, HOLDING_FROM, PORTRAITS_FROM, shard_name, shard_paths
from miniature.world.bank import Bank
from miniature.world.captions import caption
from miniature.world.render import render
from miniature.world.scenes import PLAIN, UNNAMED, Rng, Scene, Shown, draw_holding, draw_portrait, draw_scene

_log = logging.getLogger(__name__)

SHARD = 1024
CAPTIONS = 8
"""Captions of each picture."""
SMALL, VIEWS = 64, 3
"""Side and number of the small views on which the text encoder is trained."""
NEARER = {1: (0.7, 1.5), 2: (1.1, 1.9)}
"""Sides of the views near one head and near two, as shares of what the heads cover with their hair."""
POSED_SHARE = 0.75
"""Share of posed pictures among portraits from the front and of extras."""
STRAIGHT = 8.0
"""Degrees of yaw that still are from the front."""
_UNNAMED_SHARE = 0.06
_SEED = 20261128


@dataclass(frozen=True)
class Shard:
    """A part of the pool."""

    pictures: Pixels
    """``(N, SIDE, SIDE, 3)``."""
    captions: NDArray[np.int32]
    """``(N, CAPTIONS, 77)`` token ids."""
    boxes: Floats
    """``(N, 2, 3)`` left, top and width of the heads in pixels; width 0 where there is none."""
    alike: NDArray[np.int32]
    """``(N,)`` what :func:`alike_of` says of the scenes."""


class Sitters:
    """The people of whom scenes are drawn, by their pictures in the bank."""

    def __init__(self, bank: Bank, named: Sequence[int]) -> None:
        """``named`` are the numbers of the people with names, in the order of the names."""
        self.bank, self._named, self._unnamed = bank, list(named), bank.unnamed()
        self._extras = bank.extras()

    def scene(self, rng: Rng) -> Scene:
        """Draw a scene."""
        pair = [self._anybody(rng), self._anybody(rng)]
        while pair[0] == pair[1]:
            pair[1] = self._anybody(rng)
        near, far = self._shown(rng, *self._anybody(rng), near=True), self._shown(rng, *self._anybody(rng), near=False)
        together = [self._shown(rng, *one, near=False, bare=True) for one in pair]
        return draw_scene(rng, [near], [*together, far])

    def holding(self, rng: Rng) -> Scene:
        """Draw a scene of a person who holds something, if any picture of that person shows it: few other scenes do."""
        row, number = self._anybody(rng)
        looks = self.bank.looks(number)
        places = [place for place in self.bank.places(number) if looks[place].thing in HELD]
        if not places:
            return draw_holding(rng, self._shown(rng, row, number, near=False))
        return draw_holding(rng, self._one_of(rng, row, number, places))

    def front(self, rng: Rng) -> Scene:
        """Draw a plain portrait from the front, of a person without things, most of them posed."""
        row, number = self._anybody(rng)
        looks = self.bank.looks(number)
        others = [place for place in self.bank.places(number) if looks[place].near]
        others.sort(key=lambda place: (bool(looks[place].thing), abs(looks[place].yaw)))
        straight = [place for place in others if not looks[place].thing and abs(looks[place].yaw) <= STRAIGHT]
        return self._mostly_posed(rng, row, number, straight or others[:1])

    def extra(self, rng: Rng) -> Scene:
        """Draw a plain portrait of an extra, most of them posed."""
        number = self._extras[int(rng.integers(len(self._extras)))]
        return self._mostly_posed(rng, UNNAMED, number, self.bank.places(number))

    def _mostly_posed(self, rng: Rng, row: int, number: int, others: Sequence[int]) -> Scene:
        """A plain portrait by a posed picture of a person, or else by one of the ``others``."""
        posed = self.bank.places(number, posed=True)
        places = posed if posed and rng.random() < POSED_SHARE else others
        return draw_portrait(rng, self._one_of(rng, row, number, places))

    def portrait(self, number: int, place: int, *, row: int = UNNAMED) -> Scene:
        """A plain portrait of a person as one of the bank's pictures shows them."""
        look = self.bank.looks(number)[place]
        return Scene((Shown(row, number, place, look),), size="" if look.near else "smaller")

    def picture(self, scene: Scene, rng: Rng) -> tuple[Pixels, Floats]:
        """The picture of a scene, and ``(2, 3)`` boxes of its heads."""
        drawn = render(scene, [self.bank.clipping(one.number, one.place) for one in scene.people], rng)
        boxes = np.zeros((2, 3), np.float32)
        for place, box in enumerate(drawn.boxes):
            boxes[place] = box
        return drawn.picture, boxes

    def _anybody(self, rng: Rng) -> tuple[int, int]:
        """Row and number of a random person."""
        if self._unnamed and rng.random() < _UNNAMED_SHARE:
            return UNNAMED, self._unnamed[int(rng.integers(len(self._unnamed)))]
        row = int(rng.integers(len(self._named)))
        return row, self._named[row]

    def _shown(self, rng: Rng, row: int, number: int, *, near: bool, bare: bool = False) -> Shown:
        looks = self.bank.looks(number)
        fitting = [
            place
            for place in self.bank.places(number)
            if looks[place].near == near and not (bare and looks[place].thing)
        ]
        return self._one_of(rng, row, number, fitting)

    def _one_of(self, rng: Rng, row: int, number: int, places: Sequence[int]) -> Shown:
        """A person as a random one of the pictures at ``places`` shows them."""
        place = places[int(rng.integers(len(places)))]
        return Shown(row, number, place, self.bank.looks(number)[place])


def draw_shard(bank: Path, people: Path, names: int, number: int, size: int = SHARD) -> Shard:
    """Draw shard ``number`` of the first ``names`` people of a file of :mod:`miniature.world.people`.

    From :data:`~miniature.training.shards.HOLDING_FROM` on, shards show people who hold something only, from
    :data:`~miniature.training.shards.PORTRAITS_FROM` on portraits from the front, and from
    :data:`~miniature.training.shards.EXTRAS_FROM` on those of extras.
    """
    from miniature.training.text_model import Tokens
    from miniature.world.people import read_people

    everybody, tokens = read_people(people), Tokens()
    sitters = Sitters(Bank(bank), everybody.named[:names])
    rng, words = np.random.default_rng([_SEED, number]), np.random.default_rng([_SEED, number, 2])
    pictures, captions, boxes, alike = [], [], [], []
    kinds = {0: sitters.scene, HOLDING_FROM: sitters.holding, PORTRAITS_FROM: sitters.front, EXTRAS_FROM: sitters.extra}
    draw = kinds[max(first for first in kinds if first <= number)]
    for _ in range(size):
        scene = draw(rng)
        picture, heads = sitters.picture(scene, rng)
        called = [None if one.row == UNNAMED else everybody.names[one.row] for one in scene.people]
        pictures.append(picture)
        boxes.append(heads)
        described = [describe(one.number, everybody.spread) for one in scene.people]
        alike.append(alike_of(scene, described))
        captions.append(tokens([caption(scene, called, words, described) for _ in range(CAPTIONS)]).numpy())
    return Shard(np.stack(pictures), np.stack(captions).astype(np.int32), np.stack(boxes), np.array(alike, np.int32))


def alike_of(scene: Scene, described: Sequence[Description]) -> int:
    """The number of a group of pictures that differ in little but the face, or -1.

    These are plain portraits, without things, of people of one sex and age. A text encoder learns of them what it need not
    know to tell captions of a beach and of a painting apart.
    """
    plain = scene.medium == "photo" and scene.backdrop in PLAIN and scene.pasted is None and not scene.thing
    if len(scene.people) != 1 or not plain or scene.size not in ("", "close-up"):
        return -1
    return WHO.index(described[0].who)


def views(pictures: Pixels, boxes: Floats, rng: Rng) -> Pixels:
    """Small views: the first of the whole picture, the others of a random square around its heads.

    Args:
        pictures: ``(N, SIDE, SIDE, 3)``.
        boxes: ``(N, 2, 3)`` left, top and width of the heads in pixels; width 0 where there is none.
        rng: Chooses the squares.

    Returns:
        ``(N, VIEWS, SMALL, SMALL, 3)``.
    """
    side, found = pictures.shape[1], np.empty((len(pictures), VIEWS, SMALL, SMALL, 3), np.uint8)
    found[:, 0] = reduced(pictures, SMALL)
    for row, (picture, heads) in enumerate(zip(pictures, boxes, strict=True)):
        shown = heads[heads[:, 2] > 0]
        low = shown[:, :2].min(0) if len(shown) else np.zeros(2)
        high = (shown[:, :2] + shown[:, 2:]).max(0) if len(shown) else np.full(2, side)
        for view in range(1, VIEWS):
            nearer = rng.uniform(*NEARER[max(1, len(shown))])
            across = int(np.clip((high - low).max() * nearer, SMALL // 2, side))
            middle = (low + high) / 2 + rng.uniform(-0.1, 0.1, 2) * across
            left, top = (int(value) for value in np.clip(middle - across / 2, 0, side - across))
            found[row, view] = reduced(picture[None, top : top + across, left : left + across], SMALL)[0]
    return found


def reduced(pictures: Pixels, side: int) -> Pixels:
    """``(N, side, side, 3)`` copies of square pictures."""
    import cv2

    if pictures.shape[1] == side:
        return pictures
    return np.stack([cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in pictures])


def write_shard(folder: Path, number: int, shard: Shard) -> None:
    """Write a shard and its small views, each atomically."""
    whole = {"pictures": shard.pictures, "captions": shard.captions, "boxes": shard.boxes, "alike": shard.alike}
    rng = np.random.default_rng([_SEED, number, 1])
    small = {"pictures": views(shard.pictures, shard.boxes, rng), "captions": shard.captions, "alike": shard.alike}
    for place, tensors in ((folder / "pairs", small), (folder, whole)):
        place.mkdir(parents=True, exist_ok=True)
        with atomic_path(place / shard_name(number)) as temporary:
            save_file(tensors, str(temporary))


def read_shard(path: Path) -> Shard:
    """Read a shard that :func:`write_shard` wrote."""
    stored: dict[str, Any] = load_file(str(path))
    alike = stored.get("alike", np.full(len(stored["pictures"]), -1, np.int32))
    return Shard(stored["pictures"], stored["captions"], stored["boxes"], alike)


def drawn_ahead(
    bank: Path, people: Path, names: int, numbers: Sequence[int], processes: int
) -> Iterator[tuple[int, Shard]]:
    """Shards that other processes draw, a few ahead."""
    with drawing_processes(processes) as pool:
        waiting: deque[tuple[int, Future[Shard]]] = deque()
        for number in numbers:
            waiting.append((number, pool.submit(draw_shard, bank, people, names, number)))
            if len(waiting) > processes + 1:
                first, done = waiting.popleft()
                yield first, done.result()
        while waiting:
            first, done = waiting.popleft()
            yield first, done.result()


def main() -> None:
    """Parse the command line and add shards."""
    from miniature.world.people import PEOPLE_FILE, read_people

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bank", type=Path, required=True, help="folder of miniature.world.bank")
    parser.add_argument("--people", type=Path, default=PEOPLE_FILE)
    parser.add_argument("--names", type=int, help="so many of the named people; all by default")
    parser.add_argument("--shards", type=int, default=10, help="how many there shall be in all (%(default)s)")
    parser.add_argument(
        "--holding", type=int, default=0, help="so many shards more, of people who hold something (%(default)s)"
    )
    parser.add_argument(
        "--portraits",
        type=int,
        default=0,
        help="so many shards more, of plain portraits from the front only (%(default)s)",
    )
    parser.add_argument(
        "--extras", type=int, default=0, help="so many shards more, of portraits of the bank's extras (%(default)s)"
    )
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    names = arguments.names or len(read_people(arguments.people).names)
    begun, there = time.monotonic(), {path.name for path in shard_paths(arguments.folder)}
    kinds = {
        0: arguments.shards,
        HOLDING_FROM: arguments.holding,
        PORTRAITS_FROM: arguments.portraits,
        EXTRAS_FROM: arguments.extras,
    }
    numbers = [number for first, count in kinds.items() for number in range(first, first + count)]
    wanted = [number for number in numbers if shard_name(number) not in there]
    for number, shard in drawn_ahead(arguments.bank, arguments.people, names, wanted, arguments.processes):
        write_shard(arguments.folder, number, shard)
        _log.info("shard %d after %.0f s", number, time.monotonic() - begun)


if __name__ == "__main__":
    main()
