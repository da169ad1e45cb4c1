"""Invented people: everything that makes a head a person, drawn from one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from miniature.people3d.head_model import Array

Rng = np.random.Generator


def linear(*color: float) -> Array:
    """Linear light of an sRGB color of 0 to 255."""
    share = np.array(color, np.float64) / 255
    result: Array = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return result


@dataclass(frozen=True)
class Hair:
    """Hair of the head."""

    style: str
    """A key of :data:`miniature.people3d.hair.STYLES`, or ``bald``."""
    color: Array
    streaks: Array
    length: float = 1.0
    volume: float = 1.0
    """Relative to the style's own."""
    curl: float = 0.5
    shine: float = 1.0
    part: float = 0.0
    """x of the parting, signed: hair falls to both sides of it, and a fringe to this side."""
    hairline: float = 0.0
    """Decimeters that the hairline lies higher than usual."""
    recession: float = 0.0
    widows_peak: float = 0.0


@dataclass(frozen=True)
class Brows:
    """Both eyebrows, in decimeters."""

    color: Array
    thickness: float
    arch: float
    density: float
    length: float
    inner: float
    """x where a brow begins."""
    height: float
    tail: float
    """How much higher the outer end is."""


@dataclass(frozen=True)
class Beard:
    """Hair of the face."""

    kind: str = "none"
    """A key of :data:`BEARDS`."""
    shadow: float = 0.0
    color: Array = field(default_factory=lambda: np.zeros(3))


@dataclass(frozen=True)
class Skin:
    """Skin and what is on it."""

    color: Array
    darkness: float
    """0 the lightest, 1 the darkest."""
    redness: float
    freckles: float
    moles: int
    bags: float
    lips: Array
    shine: float


@dataclass(frozen=True)
class Eyes:
    """Both irises, and make-up."""

    inner: Array
    outer: Array
    radius: float
    pupil: float
    makeup: float
    """0 none, 1 strong."""
    shadow: int
    """Which of the colors of eye shadow."""


@dataclass(frozen=True)
class Person:
    """An invented person. What they wear is not a part of them."""

    number: int
    shape: Mapping[str, float]
    """Weights of the head's shape targets."""
    male: bool
    age: float
    """0 twenty years, 1 eighty."""
    hair: Hair
    brows: Brows
    beard: Beard
    skin: Skin
    eyes: Eyes
    oddness: float
    """How far the features are from the average in all: the root of the mean square, in units of their spread."""


# What varies: (target, name of its low end, name of its high end, how far).
_SCALE = ("decr", "incr")
_Feature = tuple[str, str, str, float]


def _scales(folder: str, *features: tuple[str, float]) -> tuple[_Feature, ...]:
    return tuple((f"{folder}/{name}", *_SCALE, amount) for name, amount in features)


_MIDDLE_FEATURES: tuple[_Feature, ...] = (
    *_scales("head", ("head-scale-horiz", 0.6), ("head-scale-vert", 0.4), ("head-scale-depth", 0.45)),
    *_scales("head", ("head-fat", 0.6), ("head-age", 0.25), ("head-back-scale-depth", 0.4)),
    ("head/head-angle", "in", "out", 0.3),
    ("nose/nose-base", "down", "up", 0.6),
    ("nose/nose-compression", "compress", "uncompress", 0.8),
    ("nose/nose-curve", "concave", "convex", 0.9),
    ("nose/nose-nostrils-angle", "down", "up", 0.6),
    ("nose/nose-point", "down", "up", 0.6),
    ("nose/nose-trans", "down", "up", 0.45),
    *_scales("nose", ("nose-flaring", 0.8), ("nose-greek", 0.5), ("nose-hump", 0.8), ("nose-nostrils-width", 0.8)),
    *_scales("nose", ("nose-point-width", 0.9), ("nose-scale-depth", 0.9), ("nose-scale-horiz", 0.9)),
    *_scales("nose", ("nose-scale-vert", 0.6), ("nose-septumangle", 0.6), ("nose-volume", 0.9)),
    *_scales("nose", ("nose-width1", 0.8), ("nose-width2", 0.8), ("nose-width3", 0.8)),
    ("mouth/mouth-angles", "down", "up", 0.45),
    ("mouth/mouth-dimples", "in", "out", 0.5),
    ("mouth/mouth-laugh-lines", "in", "out", 0.4),
    ("mouth/mouth-lowerlip-ext", "down", "up", 0.5),
    ("mouth/mouth-lowerlip-middle", "down", "up", 0.5),
    ("mouth/mouth-trans", "down", "up", 0.5),
    ("mouth/mouth-upperlip-ext", "down", "up", 0.4),
    ("mouth/mouth-upperlip-middle", "down", "up", 0.5),
    *_scales("mouth", ("mouth-cupidsbow", 0.8), ("mouth-cupidsbow-width", 0.8), ("mouth-lowerlip-height", 0.9)),
    *_scales("mouth", ("mouth-lowerlip-volume", 0.8), ("mouth-lowerlip-width", 0.6), ("mouth-philtrum-volume", 0.7)),
    *_scales("mouth", ("mouth-scale-depth", 0.5), ("mouth-scale-horiz", 0.9), ("mouth-scale-vert", 0.7)),
    *_scales("mouth", ("mouth-upperlip-height", 0.9), ("mouth-upperlip-volume", 0.8), ("mouth-upperlip-width", 0.6)),
    *_scales("chin", ("chin-bones", 0.8), ("chin-cleft", 0.6), ("chin-height", 0.5), ("chin-jaw-drop", 0.5)),
    *_scales("chin", ("chin-prognathism", 0.35), ("chin-prominent", 0.8), ("chin-width", 0.9)),
    ("eyebrows/eyebrows-angle", "down", "up", 0.3),
    ("eyebrows/eyebrows-trans", "down", "up", 0.45),
    ("eyebrows/eyebrows-trans", "backward", "forward", 0.6),
    ("forehead/forehead-trans", "backward", "forward", 0.6),
    *_scales("forehead", ("forehead-nubian", 0.6), ("forehead-scale-vert", 0.45), ("forehead-temple", 0.8)),
)
_SIDE_FEATURES: tuple[_Feature, ...] = (
    ("eyes/{}-eye-bag", *_SCALE, 0.6),
    ("eyes/{}-eye-bag", "in", "out", 0.4),
    ("eyes/{}-eye-corner1", "down", "up", 0.8),
    ("eyes/{}-eye-corner2", "down", "up", 0.8),
    ("eyes/{}-eye-epicanthus", "in", "out", 0.7),
    ("eyes/{}-eye-eyefold-angle", "down", "up", 0.7),
    ("eyes/{}-eye-eyefold", "concave", "convex", 0.6),
    ("eyes/{}-eye-eyefold", "down", "up", 0.6),
    ("eyes/{}-eye-height1", *_SCALE, 0.7),
    ("eyes/{}-eye-height2", *_SCALE, 0.8),
    ("eyes/{}-eye-height3", *_SCALE, 0.7),
    ("eyes/{}-eye-push1", "in", "out", 0.5),
    ("eyes/{}-eye-push2", "in", "out", 0.5),
    ("eyes/{}-eye-scale", *_SCALE, 0.55),
    ("eyes/{}-eye-trans", "down", "up", 0.6),
    ("eyes/{}-eye-trans", "in", "out", 0.75),
    ("cheek/{}-cheek-bones", *_SCALE, 0.9),
    ("cheek/{}-cheek-inner", *_SCALE, 0.7),
    ("cheek/{}-cheek-trans", "down", "up", 0.6),
    ("cheek/{}-cheek-volume", *_SCALE, 0.9),
    ("ears/{}-ear-scale", *_SCALE, 0.6),
    ("ears/{}-ear-wing", *_SCALE, 0.7),
    ("ears/{}-ear-lobe", *_SCALE, 0.7),
    ("ears/{}-ear-rot", "backward", "forward", 0.5),
)
_FACE_FORMS = ("oval", "round", "rectangular", "square", "triangular", "invertedtriangular", "diamond")
_FEATURE_SPREAD = 0.42
"""Standard deviation of a feature, relative to how far it may go."""

_SKIN_TONES = np.array(
    [
        linear(*rgb)
        for rgb in ((228, 180, 158), (220, 166, 138), (202, 150, 116), (166, 114, 82), (122, 80, 57), (84, 54, 41))
    ]
)
HAIR_COLORS = {
    "black": linear(26, 22, 22),
    "dark brown": linear(52, 36, 28),
    "brown": linear(88, 58, 38),
    "light brown": linear(132, 94, 58),
    "blond": linear(190, 152, 98),
    "platinum": linear(222, 198, 156),
    "red": linear(150, 72, 34),
    "auburn": linear(102, 44, 28),
}
DYES = {"pink": linear(150, 60, 90), "blue": linear(60, 90, 150), "purple": linear(110, 70, 140)}
GREY = linear(196, 192, 188)
_IRISES = {
    "brown": (linear(110, 68, 34), linear(70, 42, 22)),
    "dark": (linear(66, 42, 26), linear(42, 26, 16)),
    "hazel": (linear(150, 104, 50), linear(98, 82, 44)),
    "green": (linear(140, 140, 80), linear(84, 112, 76)),
    "blue": (linear(130, 170, 200), linear(72, 118, 160)),
    "grey": (linear(160, 170, 170), linear(104, 120, 128)),
}
_LIPS = (linear(206, 124, 116), linear(170, 98, 88), linear(126, 74, 70))
_LIPSTICKS = (linear(190, 50, 60), linear(200, 90, 100), linear(150, 40, 60), linear(205, 110, 95))


def draw_person(number: int, spread: float = 1.4) -> Person:
    """Draw the person of a number: the same number is the same person.

    Args:
        number: Any number from 0 on.
        spread: How far features vary. 1 looks ordinary; above 1.7, heads look odd.
    """
    rng = np.random.default_rng((number, 20260601))
    manliness = 1 - 0.18 * rng.random() ** 2 if rng.random() < 0.5 else 0.18 * rng.random() ** 2
    male = manliness > 0.5
    origin = rng.dirichlet([0.55, 0.55, 0.55])
    age = 0.95 * float(rng.beta(1.1, 2.2))
    shape, oddness = _shape(rng, manliness, origin, age, spread)
    fair = origin[0] > 0.4
    darkness = float(np.clip(origin @ (0.05, 0.30, 1.0) + 0.1 * rng.standard_normal(), 0, 1))
    hair_name = _hair_color(rng, fair=fair)
    grey = float(np.clip((age - 0.42) * 1.7 + 0.2 * rng.standard_normal(), 0, 1)) if age > 0.38 else 0.0
    natural = HAIR_COLORS[hair_name] * np.exp(0.06 * rng.standard_normal(3))
    grey_color = GREY * (0.8 + 0.25 * rng.random())
    makeup = 0.0 if male else float(rng.choice([0, 0.25, 0.6, 1.0], p=[0.25, 0.3, 0.3, 0.15]))
    return Person(
        number=number,
        shape=shape,
        male=male,
        age=age,
        hair=_hair(rng, male, age, origin, _mixed(natural, grey_color, grey)),
        brows=_brows(rng, male, natural, grey_color, grey),
        beard=_beard(rng, male, _mixed(0.8 * natural, grey_color, min(1.0, 1.3 * grey))),
        skin=_skin(rng, darkness, age, makeup, red_hair=hair_name == "red"),
        eyes=_eyes(rng, makeup, fair=fair),
        oddness=oddness,
    )


def clean_shaven(person: Person) -> Person:
    """The same person without a beard, for tests."""
    return replace(person, beard=Beard())


def _mixed(one: Array, other: Array, share: float) -> Array:
    return one * (1 - share) + other * share


def _shape(rng: Rng, manliness: float, origin: Array, age: float, spread: float) -> tuple[dict[str, float], float]:
    """Weights of shape targets, and the oddness of what was drawn."""
    weights: dict[str, float] = {}

    def more(target: str, amount: float) -> None:
        weights[target] = weights.get(target, 0.0) + amount

    muscle, weight = float(rng.random()), float(np.clip(0.44 + 0.22 * rng.standard_normal(), 0, 1))
    proportion = 0.3 + 0.6 * float(rng.random())
    for sex, of_sex in (("male", manliness), ("female", 1 - manliness)):
        for years, of_age in (("young", 1 - age), ("old", age)):
            for people, share in zip(("caucasian", "asian", "african"), origin, strict=True):
                more(f"macro/{people}-{sex}-{years}", float(share) * of_sex * of_age)
            for muscles, of_muscle in _low_middle_high(muscle, "muscle"):
                for fat, of_weight in _low_middle_high(weight, "weight"):
                    body = f"{sex}-{years}-{muscles}-{fat}"
                    share = of_sex * of_age * of_muscle * of_weight
                    more(f"macro/universal-{body}", share)
                    more(f"prop/{body}-idealproportions", share * proportion)
    _flatter(more, manliness)

    drawn = []

    def feature(name: str, low: str, high: str, amount: float, sides: Iterable[str] = ("",)) -> None:
        value = float(np.clip(_FEATURE_SPREAD * rng.standard_normal(), -1, 1))
        drawn.append(value / _FEATURE_SPREAD)
        for side in sides:
            uneven = 0.05 * float(rng.standard_normal()) if side else 0.0
            signed = (value * spread + uneven) * amount
            more(f"{name.format(side)}-{low if signed < 0 else high}", abs(signed))

    for middle in _MIDDLE_FEATURES:
        feature(*middle)
    for sided in _SIDE_FEATURES:
        feature(*sided, sides="lr")
    forms = rng.choice(len(_FACE_FORMS), 2, replace=False)
    for form, amount in zip(forms, (0.25 + 0.45 * rng.random(), 0.4 * rng.random()), strict=True):
        more(f"head/head-{_FACE_FORMS[form]}", 0.55 * spread * float(amount))
    return weights, math.sqrt(float(np.mean(np.square(drawn)))) * spread


def _low_middle_high(value: float, name: str) -> tuple[tuple[str, float], ...]:
    """Weights of a macro target's three stages at a value of 0 to 1."""
    return (
        (f"min{name}", max(0.0, 1 - 2 * value)),
        (f"average{name}", 1 - abs(2 * value - 1)),
        (f"max{name}", max(0.0, 2 * value - 1)),
    )


def _flatter(more: Callable[[str, float], None], manliness: float) -> None:
    """Move the mean face of the base mesh to a friendlier one: larger eyes, a narrower head, corners of the mouth up."""
    for side in "lr":
        more(f"eyes/{side}-eye-scale-incr", 0.42 + 0.25 * (1 - manliness))
        more(f"eyes/{side}-eye-height2-incr", 0.2)
    more("head/head-scale-horiz-decr", 0.22)
    more("head/head-fat-decr", 0.25)
    more("head/head-age-decr", 0.3)
    more("mouth/mouth-scale-horiz-incr", 0.12)
    more("mouth/mouth-angles-up", 0.18)
    if manliness < 0.5:
        more("nose/nose-scale-vert-decr", 0.15)
        more("nose/nose-volume-decr", 0.25)
        more("chin/chin-width-decr", 0.3)
        more("mouth/mouth-lowerlip-height-incr", 0.15)
        more("mouth/mouth-upperlip-height-incr", 0.2)


def _pick(rng: Rng, chances: Mapping[str, float]) -> str:
    total = sum(chances.values())
    return str(rng.choice(list(chances), p=[chance / total for chance in chances.values()]))


def _hair_color(rng: Rng, *, fair: bool) -> str:
    if fair:
        return str(rng.choice(list(HAIR_COLORS), p=[0.06, 0.2, 0.2, 0.14, 0.17, 0.06, 0.09, 0.08]))
    if rng.random() < 0.06:
        return str(rng.choice(["red", "blond", "light brown"]))
    return str(rng.choice(["black", "dark brown", "brown"], p=[0.5, 0.32, 0.18]))


_MEN = {
    "bald": 0.09,
    "buzz": 0.1,
    "short": 0.16,
    "crop": 0.13,
    "side part": 0.15,
    "slicked back": 0.09,
    "quiff": 0.1,
    "short curls": 0.09,
    "afro": 0.04,
    "longish": 0.05,
}
_WOMEN = {
    "pixie": 0.1,
    "bob": 0.14,
    "long": 0.18,
    "wavy": 0.17,
    "curly": 0.1,
    "bun": 0.1,
    "ponytail": 0.08,
    "fringe": 0.09,
    "afro": 0.04,
}


def _hair(rng: Rng, male: bool, age: float, origin: Array, color: Array) -> Hair:
    style = _pick(rng, _MEN if male else _WOMEN)
    if origin[2] > 0.6 and rng.random() < 0.5:
        style = str(rng.choice(["buzz", "afro", "short curls", "short"] if male else ["afro", "curly", "bun", "buzz"]))
    if male and age > 0.5 and rng.random() < 0.2:
        style = "bald"
    if not male and rng.random() < 0.05 * (age < 0.4):
        color = list(DYES.values())[int(rng.integers(len(DYES)))]
    return Hair(
        style=style,
        color=color,
        streaks=np.clip(color * (1.25 if rng.random() < 0.6 else 1.7), 0, 0.9),
        length=float(np.exp(0.2 * rng.standard_normal())),
        volume=float(np.exp(0.3 * rng.standard_normal())),
        curl=float(rng.random()),
        shine=0.5 + 0.9 * float(rng.random()),
        part=float(rng.choice([0.01, 0.18, 0.3]) * rng.choice([-1, 1])),
        hairline=0.05 * float(rng.standard_normal()) + (0.02 if male else 0.0),
        recession=float(np.clip(1.4 * age - 0.2 + 0.35 * rng.standard_normal(), 0, 1.5)) if male else 0.0,
        widows_peak=float(max(0, rng.standard_normal())) * (1.0 if male else 0.4),
    )


def _brows(rng: Rng, male: bool, natural: Array, grey_color: Array, grey: float) -> Brows:
    color = 0.75 * natural + 0.25 * linear(40, 28, 22)
    return Brows(
        color=_mixed(color, grey_color, 0.7 * grey) if grey > 0.3 else color,
        thickness=float(np.clip((0.052 if male else 0.038) * np.exp(0.25 * rng.standard_normal()), 0.024, 0.075)),
        arch=float(np.clip((0.012 if male else 0.028) + 0.016 * rng.standard_normal(), -0.012, 0.06)),
        density=float(np.clip((0.9 if male else 0.8) * np.exp(0.25 * rng.standard_normal()), 0.4, 1.4)),
        length=0.47 + 0.03 * float(np.clip(rng.standard_normal(), -2, 2)),
        inner=0.115 + 0.02 * float(np.clip(rng.standard_normal(), -2, 2)),
        height=0.02 * float(np.clip(rng.standard_normal(), -2, 2)),
        tail=-0.015 + 0.016 * float(np.clip(rng.standard_normal(), -2, 2)),
    )


BEARDS = {"none": 0.36, "stubble": 0.2, "moustache": 0.08, "goatee": 0.09, "short": 0.13, "full": 0.09, "vandyke": 0.05}
"""Kinds of beards, and how many men have them."""


def _beard(rng: Rng, male: bool, color: Array) -> Beard:
    if not male:
        return Beard()
    kind = _pick(rng, BEARDS)
    shadow = 0.35 * float(rng.random()) if kind == "none" else 0.35 + 0.5 * float(rng.random())
    return Beard(kind, shadow, color)


def _skin(rng: Rng, darkness: float, age: float, makeup: float, *, red_hair: bool) -> Skin:
    place = darkness**0.85 * (len(_SKIN_TONES) - 1)
    tone = min(int(place), len(_SKIN_TONES) - 2)
    color = _mixed(_SKIN_TONES[tone], _SKIN_TONES[tone + 1], place - tone)
    color = color * np.exp(rng.standard_normal(3) * [0.03, 0.035, 0.05] + 0.05 * rng.standard_normal())
    lips = _LIPS[0 if darkness < 0.35 else 1 if darkness < 0.7 else 2] * np.exp(0.06 * rng.standard_normal(3))
    if makeup > 0.5:
        lips = _LIPSTICKS[int(rng.integers(len(_LIPSTICKS)))] * np.exp(0.08 * rng.standard_normal(3))
    freckled = red_hair or (darkness < 0.35 and rng.random() < 0.35)
    return Skin(
        color=color,
        darkness=darkness,
        redness=float(np.clip(0.5 + 0.35 * rng.standard_normal(), 0, 1.3)),
        freckles=1.2 * float(rng.random()) ** 2 if freckled else 0.0,
        moles=int(rng.integers(0, 4)),
        bags=float(np.clip(0.25 + 0.5 * age + 0.25 * rng.standard_normal(), 0, 1)),
        lips=lips,
        shine=0.10 + 0.06 * float(rng.random()) + 0.07 * darkness,
    )


def _eyes(rng: Rng, makeup: float, *, fair: bool) -> Eyes:
    chances = (0.22, 0.05, 0.15, 0.15, 0.3, 0.13) if fair else (0.42, 0.5, 0.05, 0.02, 0.005, 0.005)
    inner, outer = _IRISES[str(rng.choice(list(_IRISES), p=chances))]
    radius = 0.46 + 0.03 * float(np.clip(rng.standard_normal(), -2, 2))
    return Eyes(inner, outer, radius, 0.33 + 0.05 * float(rng.random()), makeup, int(rng.integers(3)))
