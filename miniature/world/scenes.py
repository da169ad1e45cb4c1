"""Scenes as data: who is seen in which look, how large, where, in front of what, in which medium."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from celeb_basis.training.augment import BACKGROUNDS
from miniature.people3d.looks import LIGHTS
from miniature.people3d.portrait import EXPRESSIONS
from miniature.people3d.things import HELD, WORN

Rng = np.random.Generator
Size = Literal["close-up", "", "smaller", "small"]
Place = Literal["", "on the left", "on the right"]

SIDE = 192
"""Side of every picture of the world in pixels."""

MEDIA = ("photo", "black and white photo", "sepia photo", "pencil sketch", "oil painting", "watercolour")
PLACES = (
    "beach",
    "forest",
    "city at night",
    "snowy mountains",
    "sunset",
    "desert",
    "starry space",
    "flower garden",
)
PLAIN = tuple(BACKGROUNDS)
BACKDROPS = (*PLACES, *PLAIN)
THINGS = (*WORN, *HELD)
SIZES: tuple[Size, ...] = ("close-up", "", "smaller", "small")

FRAMES: dict[Size, tuple[float, float]] = {
    "close-up": (2.25, 2.45),
    "": (2.9, 3.15),
    "smaller": (4.2, 4.6),
    "small": (5.4, 6.0),
}
"""Decimeters at the eyes across the frame, by the word that says so. A head is about 2.4 high."""
TOGETHER = (4.4, 4.6)
"""The same for two people: at 192 pixels, faces of 80."""

MOST_TURNED = 30.0
"""Degrees of yaw."""


@dataclass(frozen=True)
class Look:
    """How a person is seen in one picture of the bank."""

    yaw: float
    pitch: float
    roll: float
    expression: str
    light: str
    thing: str
    """One of :data:`THINGS`, or empty."""
    near: bool
    """Head and shoulders instead of head and chest."""
    seed: int
    """Chooses clothes, the side of the light and details."""
    posed: bool = False
    """As for a passport: see :func:`draw_posed_look`."""


def draw_look(rng: Rng) -> Look:
    """Draw a look: two fifths from the front, a third with a thing."""
    thing = str(rng.choice(THINGS)) if rng.random() < 1 / 3 else ""
    straight = rng.random() < 0.4
    return Look(
        yaw=_within(rng, 3.0 if straight else 15.0, MOST_TURNED),
        pitch=_within(rng, 3.0, 8.0),
        roll=_within(rng, 2.5, 7.0),
        expression=str(rng.choice(list(EXPRESSIONS), p=(0.26, 0.26, 0.2, 0.1, 0.08, 0.1))),
        light=str(rng.choice(LIGHTS)),
        thing=thing,
        near=thing not in HELD and rng.random() < 0.6,
        seed=int(rng.integers(2**31)),
    )


def draw_posed_look(rng: Rng) -> Look:
    """Draw a look from the front, calm and in soft light: people differ in little there but who they are."""
    return Look(
        yaw=_within(rng, 2.0, 5.0),
        pitch=_within(rng, 1.5, 4.0),
        roll=_within(rng, 1.0, 3.0),
        expression=str(rng.choice(("neutral", "slight smile"))),
        light="soft",
        thing="",
        near=True,
        seed=int(rng.integers(2**31)),
        posed=True,
    )


def _within(rng: Rng, deviation: float, most: float) -> float:
    return round(float(np.clip(deviation * rng.standard_normal(), -most, most)), 1)


@dataclass(frozen=True)
class Shown:
    """A person in a scene."""

    row: int
    """Of the people with names; :data:`UNNAMED` for a person without one."""
    number: int
    """Of the person, for :func:`miniature.people3d.person.draw_person`."""
    place: int
    """Which of the person's pictures in the bank."""
    look: Look


UNNAMED = -1


@dataclass(frozen=True)
class Scene:
    """One scene. ``people`` are seen from left to right; it is empty for a place without anyone."""

    people: tuple[Shown, ...]
    medium: str = "photo"
    backdrop: str = "grey"
    size: Size = ""
    place: Place = ""
    pasted: tuple[float, float, float, str] | None = None
    """Width, left, top (as shares) and color, if the whole picture lies on a plain background as training views do."""

    @property
    def thing(self) -> str:
        """What the only person wears or holds, or empty."""
        return self.people[0].look.thing if len(self.people) == 1 else ""


def draw_portrait(rng: Rng, shown: Shown) -> Scene:
    """Draw a plain portrait."""
    plain = str(rng.choice(PLAIN))
    return Scene((shown,), backdrop=plain, size="" if rng.random() < 0.75 else "close-up")


def draw_scene(rng: Rng, near: Sequence[Shown], far: Sequence[Shown]) -> Scene:
    """Draw a scene of people who were chosen already. Half of the scenes are plain portraits.

    Args:
        rng: The source of randomness.
        near: At least one, seen near.
        far: At least two, seen from farther away and without things in the first two: for smaller pictures and pairs.
    """
    kind = rng.random()
    if kind < 0.42:
        return draw_portrait(rng, near[0])
    plain = str(rng.choice(PLAIN))
    if kind < 0.50:
        width = float(rng.uniform(0.35, 0.95))
        left, top = (float(value) for value in rng.random(2))
        return Scene((near[0],), backdrop=str(rng.choice(BACKDROPS)), pasted=(width, left, top, plain))
    if kind < 0.64:
        return Scene((far[0], far[1]), medium=_medium(rng, 0.3), backdrop=_backdrop(rng), size="smaller")
    if kind < 0.66:
        return Scene((), medium=_medium(rng, 0.3), backdrop=str(rng.choice(PLACES)))
    if rng.random() < 0.55:
        size: Size = "close-up" if rng.random() < 0.15 else ""
        return Scene((near[0],), medium=_medium(rng, 0.55), backdrop=_backdrop(rng), size=size)
    return _draw_far(rng, far[-1])


def draw_holding(rng: Rng, shown: Shown) -> Scene:
    """Draw a scene of a person who holds something: half of them plain photos, the others as any."""
    if rng.random() < 0.5:
        return Scene((shown,), backdrop=str(rng.choice(PLAIN)), size="smaller")
    return _draw_far(rng, shown)


def _draw_far(rng: Rng, shown: Shown) -> Scene:
    size: Size = "smaller" if rng.random() < 0.65 else "small"
    place: Place = ""
    if rng.random() < 0.4:
        place = "on the left" if rng.random() < 0.5 else "on the right"
    return Scene((shown,), medium=_medium(rng, 0.55), backdrop=_backdrop(rng), size=size, place=place)


def _medium(rng: Rng, share: float) -> str:
    return str(rng.choice(MEDIA[1:])) if rng.random() < share else MEDIA[0]


def _backdrop(rng: Rng) -> str:
    return str(rng.choice(PLACES if rng.random() < 0.65 else PLAIN))
