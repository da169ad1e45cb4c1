"""Scenes as data, which are rendered as pictures and described by captions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from miniature.world.scenes import BACKDROPS, MEDIA, PLACES, PLAIN, SIZES, Place, Size

ACCESSORIES = ("glasses", "sunglasses", "hat", "scarf", "crown")

WIDTHS: dict[Size, tuple[float, float]] = {
    "close-up": (0.95, 1.02),
    "": (0.80, 0.86),
    "smaller": (0.6, 0.66),
    "small": (0.44, 0.49),
}
"""Width of the 64x64 face picture as a share of the frame, by the word that says so."""


@dataclass(frozen=True)
class Scene:
    """One scene. ``people`` has an entry for each visible face, from left to right."""

    people: tuple[int, ...]
    """Rows in the world's list of people; empty for a place without anyone."""
    medium: str = "photo"
    backdrop: str = "grey"
    accessories: tuple[str, ...] = ()
    size: Size = ""
    place: Place = ""
    pasted: tuple[float, float, float, str] | None = None
    """Width, left, top (as shares) and color, if the whole picture is pasted on a plain background as training views are."""


def draw_scene(rng: np.random.Generator, people: int) -> Scene:
    """Draw a random scene of some of ``people`` people. Half of the scenes are plain portraits."""
    kind = rng.random()
    who = int(rng.integers(people))
    plain = str(rng.choice(PLAIN))
    if kind < 0.45:
        return Scene((who,), backdrop=plain, size="" if rng.random() < 0.75 else "close-up")
    if kind < 0.53:
        width = float(rng.uniform(0.35, 0.95))
        left, top = (float(value) for value in rng.random(2))
        return Scene((who,), backdrop=str(rng.choice(BACKDROPS)), pasted=(width, left, top, plain))
    if kind < 0.63:
        other = int(rng.integers(people - 1))
        pair = (who, other + (other >= who))
        return Scene(pair, medium=_medium(rng, 0.3), backdrop=_backdrop(rng), size="small")
    if kind < 0.65:
        return Scene((), medium=_medium(rng, 0.3), backdrop=str(rng.choice(PLACES)))
    size: Size = SIZES[int(rng.choice(4, p=[0.08, 0.42, 0.3, 0.2]))]
    place: Place = ""
    if size in ("smaller", "small") and rng.random() < 0.5:
        place = "on the left" if rng.random() < 0.5 else "on the right"
    return Scene(
        (who,),
        medium=_medium(rng, 0.55),
        backdrop=_backdrop(rng),
        accessories=_accessories(rng),
        size=size,
        place=place,
    )


def _medium(rng: np.random.Generator, share: float) -> str:
    return str(rng.choice(MEDIA[1:])) if rng.random() < share else MEDIA[0]


def _backdrop(rng: np.random.Generator) -> str:
    return str(rng.choice(PLACES if rng.random() < 0.65 else PLAIN))


def _accessories(rng: np.random.Generator) -> tuple[str, ...]:
    if rng.random() < 0.6:
        return ()
    first = str(rng.choice(ACCESSORIES))
    return (first,)
