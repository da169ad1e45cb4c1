"""What can be said of an invented person's face: traits with words, measured on the shaped head."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from miniature.people3d.head_model import EYE_LEFT, EYE_RIGHT, Array, head_model
from miniature.people3d.person import DYES, GREY, HAIR_COLORS, Hair, Person, draw_person
from miniature.people3d.portrait import shaped

LITTLE, MUCH = 0.6, 1.4
"""Standard deviations from the average from which a trait is said, and from which it is said to be ``very`` so."""


@dataclass(frozen=True)
class Trait:
    """One way in which the shapes of heads differ: along the sum of some shape targets."""

    targets: tuple[str, ...]
    """``{}`` stands for both sides."""
    low: str
    high: str
    """What is said of a person with little and with much of it; ``{}`` is where ``very`` is said."""


TRAITS = (
    Trait(("head/head-scale-vert-incr",), "a {}broad face", "a {}long face"),
    Trait(("head/head-fat-incr", "cheek/{}-cheek-volume-incr"), "{}hollow cheeks", "a {}round face"),
    Trait(("nose/nose-scale-vert-incr",), "a {}short nose", "a {}long nose"),
    Trait(("nose/nose-scale-horiz-incr",), "a {}narrow nose", "a {}wide nose"),
    Trait(("mouth/mouth-lowerlip-height-incr", "mouth/mouth-upperlip-height-incr"), "{}thin lips", "{}full lips"),
    Trait(("mouth/mouth-scale-horiz-incr",), "a {}small mouth", "a {}wide mouth"),
    Trait(("eyes/{}-eye-scale-incr",), "{}small eyes", "{}big eyes"),
    Trait(("eyes/{}-eye-trans-out",), "{}close-set eyes", "{}wide-set eyes"),
    Trait(("eyes/{}-eye-corner2-up",), "{}drooping eyes", "{}slanted eyes"),
    Trait(("eyes/{}-eye-height2-incr",), "{}narrow eyes", "{}open eyes"),
    Trait(("eyebrows/eyebrows-trans-up",), "{}low brows", "{}high brows"),
    Trait(("chin/chin-width-incr",), "a {}pointed chin", "a {}square jaw"),
    Trait(("chin/chin-prominent-incr",), "a {}weak chin", "a {}strong chin"),
    Trait(("chin/chin-height-incr",), "a {}short chin", "a {}long chin"),
    Trait(("nose/nose-scale-depth-incr",), "a {}flat nose", "a {}big nose"),
    Trait(("nose/nose-point-up",), "a {}hooked nose", "a {}snub nose"),
    Trait(("cheek/{}-cheek-bones-incr",), "{}flat cheeks", "{}high cheekbones"),
    Trait(("ears/{}-ear-wing-incr",), "{}small ears", "{}big ears"),
    Trait(("mouth/mouth-trans-up",), "a {}low mouth", "a {}high mouth"),
    Trait(("forehead/forehead-temple-incr",), "a {}narrow forehead", "a {}wide forehead"),
)
"""In this order: each is what the ones before it leave, so that eyes are wide-set for the width of their face."""

_COMPARED = 300
"""People by whom the average is known."""
_FACE = (0.55, 6.2)
"""Decimeters of the base mesh before and above which a face is: z and y."""

STYLE_WORDS = {
    "bald": "a bald head",
    "buzz": "{} buzzed hair",
    "short": "short {} hair",
    "crop": "cropped {} hair",
    "side part": "parted {} hair",
    "slicked back": "slicked back {} hair",
    "quiff": "a {} quiff",
    "short curls": "short curly {} hair",
    "afro": "a {} afro",
    "longish": "chin-length {} hair",
    "pixie": "a {} pixie cut",
    "bob": "a {} bob",
    "long": "long {} hair",
    "wavy": "long wavy {} hair",
    "curly": "long curly {} hair",
    "bun": "{} hair in a bun",
    "ponytail": "a {} ponytail",
    "fringe": "long {} hair with a fringe",
}
BEARD_WORDS = {
    "stubble": "stubble",
    "moustache": "a moustache",
    "goatee": "a goatee",
    "short": "a short beard",
    "full": "a full beard",
    "vandyke": "a moustache and a goatee",
}
SKIN_WORDS = ("pale skin", "light skin", "tanned skin", "brown skin", "dark skin")
_COLORS = [*HAIR_COLORS.items(), *DYES.items(), *(("grey", share * GREY) for share in (0.15, 0.3, 0.5, 0.75, 1.0))]
AGE_WORDS = ("young {}", "{}", "middle-aged {}", "old {}")
WHO = tuple(words.format(who) for who in ("man", "woman") for words in AGE_WORDS)
"""What people are called who are not called by a name."""
_AGES = (0.15, 0.42, 0.62)


@functools.cache
def _filters() -> Array:
    """``(T, 3 F)`` unit displacements of the face's F vertices, one for each of :data:`TRAITS`."""
    head, rows = head_model(), []
    for trait in TRAITS:
        names = [name.format(side) for name in trait.targets for side in ("lr" if "{}" in name else "l")]
        row = np.sum([head.targets[name] for name in names], axis=0)[_face()].ravel()
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


@functools.cache
def _face() -> Array:
    head = head_model()
    face: Array = head.is_skin & (head.base[:, 2] > _FACE[0]) & (head.base[:, 1] > _FACE[1])
    return face


def _along(person: Person) -> Array:
    """``(T,)`` how far a head lies along each trait, in decimeters, measured from between its eyes."""
    head, positions = head_model(), shaped(head_model(), person)
    eyes = [head.eye(positions, material) for material in (EYE_LEFT, EYE_RIGHT)]
    centered = positions[_face()] - np.mean(eyes, axis=0)
    result: Array = _filters() @ centered.ravel()
    return result


@functools.cache
def _scale(spread: float) -> tuple[Array, Array]:
    """``(T,)`` average and ``(T, T)`` matrix that makes measures independent, of people drawn with a spread."""
    measured = np.stack([_along(draw_person(number, spread)) for number in range(_COMPARED)])
    average = measured.mean(0)
    _, upper = np.linalg.qr(measured - average)
    upper *= np.sign(np.diag(upper))[:, None]
    return average, np.linalg.inv(upper) * np.sqrt(_COMPARED)


def measure(person: Person, spread: float) -> Array:
    """``(T,)`` standard deviations by which a person's traits differ from the average.

    Args:
        person: The person.
        spread: With which people are drawn, see :func:`miniature.people3d.person.draw_person`.
    """
    average, independent = _scale(spread)
    result: Array = (_along(person) - average) @ independent
    return result


@dataclass(frozen=True)
class Description:
    """What can be said of a person."""

    who: str
    """``young woman``."""
    details: tuple[str, ...]
    """``full lips``, ``a very long nose``: what distinguishes the person from others, in any order."""


@functools.lru_cache(maxsize=1 << 14)
def describe(number: int, spread: float) -> Description:
    """Describe the person of a number in words."""
    person = draw_person(number, spread)
    details = []
    for trait, value in zip(TRAITS, measure(person, spread), strict=True):
        if abs(value) >= LITTLE:
            words = trait.high if value > 0 else trait.low
            details.append(words.format("very " if abs(value) >= MUCH else ""))
    details.append(STYLE_WORDS[person.hair.style].format(hair_color(person.hair)))
    if person.beard.kind in BEARD_WORDS:
        details.append(BEARD_WORDS[person.beard.kind])
    details += [SKIN_WORDS[min(4, int(5 * person.skin.darkness))], *_brows(person)]
    if person.skin.freckles > 0.3:
        details.append("freckles")
    if person.eyes.makeup > 0.5:
        details.append("lipstick")
    age = AGE_WORDS[sum(person.age > years for years in _AGES)]
    return Description(age.format("man" if person.male else "woman"), tuple(details))


def hair_color(hair: Hair) -> str:
    """The name of the nearest color of hair as it is seen."""
    seen = np.sqrt(np.stack([color for _, color in _COLORS]))
    return _COLORS[int(np.square(seen - np.sqrt(hair.color)).sum(1).argmin())][0]


def _brows(person: Person) -> list[str]:
    words = []
    thickness = np.log(person.brows.thickness / 0.045)
    if abs(thickness) > 0.3:
        words.append("thick brows" if thickness > 0 else "thin brows")
    if abs(person.brows.arch - 0.02) > 0.018:
        words.append("arched brows" if person.brows.arch > 0.02 else "straight brows")
    return words


def all_words() -> list[str]:
    """Phrases with every word that a description can hold."""
    traits = [words.format("very ") for trait in TRAITS for words in (trait.low, trait.high)]
    return [
        *traits,
        *(words.format(" ") for words in STYLE_WORDS.values()),
        *(name for name, _ in _COLORS),
        *BEARD_WORDS.values(),
        *SKIN_WORDS,
        *WHO,
        "thick brows, thin brows, arched brows, straight brows, freckles, lipstick",
    ]


def phrase(description: Description, chosen: Sequence[str]) -> str:
    """``a young woman with full lips, freckles and a long nose``."""
    article = "an" if description.who[0] in "aeio" else "a"
    *first, last = chosen or [""]
    details = f"{', '.join(first)} and {last}" if first else last
    return f"{article} {description.who}" + (f" with {details}" if details else "")
