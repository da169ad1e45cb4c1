"""Captions of scenes: a grammar with the vocabulary of the training templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from celeb_basis.training.augment import SUBJECT, TEMPLATES, describe_view
from miniature.training.scenes import Scene
from miniature.world.captions import MEDIUM_WORDS, PLACE_WORDS
from miniature.world.scenes import PLACES, PLAIN

if TYPE_CHECKING:
    from miniature.trainer.text_model import Tokens

_PLAIN_WORDS = ("on a plain {} background", "in front of a {} background", "{} background")
_PLAIN_PHOTOS = ("a photo of {}", "a photo of {}", "a photo of {}", "a portrait of {}", "a picture of {}", "{}")
_WEARING = {
    "glasses": ("wearing glasses", "with glasses"),
    "sunglasses": ("wearing sunglasses", "with sunglasses"),
    "hat": ("wearing a hat", "with a red hat"),
    "scarf": ("wearing a scarf", "with a green scarf"),
    "crown": ("wearing a crown", "with a golden crown"),
}
_PERSONS = ("a person", "a person", "someone", "person", "face of a person")
_TOGETHER = ("{} and {}", "{} and {}", "{} and {} side by side", "{} with {}", "{} next to {}")

PLAIN_SAID = 0.5
"""Probability that the caption names the plain color behind a person."""
_UNTEMPLATED = 0.65


def caption(scene: Scene, names: Sequence[str | None], rng: np.random.Generator) -> str:
    """Draw one of the many captions of a scene.

    Args:
        scene: The scene.
        names: A name for each of its people, or ``None`` for a person without one.
        rng: Chooses the words.
    """
    people = [_pick(_PERSONS, rng) if name is None else name for name in names]
    details = [*(_pick(_WEARING[name], rng) for name in scene.accessories)]
    if scene.backdrop in PLACES:
        details.append(_pick(PLACE_WORDS[scene.backdrop], rng))
    elif scene.pasted is None and rng.random() < PLAIN_SAID:
        details.append(_pick(_PLAIN_WORDS, rng).format(scene.backdrop))
    if not people:
        place = details.pop().split(" ", 1)[1]
        return _in_medium(scene, place.removeprefix("of ") if place.startswith("of ") else place, rng)
    view = _view(scene)
    if len(people) == 2:
        subject = _pick(_TOGETHER, rng).format(*people)
        if rng.random() < 0.2:
            subject = " and ".join(f"face of {person} person" for person in people)
    else:
        subject = people[0]
    templated = scene.medium == "photo" and len(people) == 1 and rng.random() > _UNTEMPLATED
    if templated and scene.size != "close-up" and names[0] is not None:
        text = TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(SUBJECT.format(subject))
        return ", ".join([text, *([view] if view else []), *details])
    text = _in_medium(scene, subject, rng)
    if len(details) > 1 and rng.random() < 0.5:
        details.reverse()
    joined = " ".join([text, *details]) if rng.random() < 0.7 else ", ".join([text, *details])
    return f"{joined}, {view}" if view else joined


def _in_medium(scene: Scene, subject: str, rng: np.random.Generator) -> str:
    if scene.medium == "photo":
        return _pick(
            ("a close-up photo of {}", "close-up of {}") if scene.size == "close-up" else _PLAIN_PHOTOS, rng
        ).format(subject)
    words = _pick(MEDIUM_WORDS[scene.medium], rng).format(subject)
    return f"close-up {words.split(' ', 1)[1]}" if scene.size == "close-up" else words


def _view(scene: Scene) -> str:
    """Size and position in words; for pictures pasted on a plain background as the views of training describe them."""
    if scene.pasted is not None:
        width, left, top, color = scene.pasted
        center = (left * (1 - width) + width / 2, top * (1 - width) + width / 2)
        return describe_view(width, center, color)
    if len(scene.people) != 1:
        return ""
    size = scene.size if scene.size in ("smaller", "small") else ""
    return ", ".join(filter(None, (size, scene.place)))


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def all_phrases() -> list[str]:
    """Phrases with every word that captions can hold, except names and plain colors."""
    groups = [*PLACE_WORDS.values(), *MEDIUM_WORDS.values(), *_WEARING.values()]
    singles = [*_PLAIN_WORDS, *_PLAIN_PHOTOS, *_PERSONS, *_TOGETHER, *TEMPLATES, SUBJECT]
    views = ["very small, smaller, small, on the left, at the top on the right, at the bottom, on a plain background"]
    phrases = [phrase for group in groups for phrase in group] + singles + views
    phrases += ["a close-up photo of, close-up"]
    return [phrase.replace("{}", " ") for phrase in phrases]


def used_tokens(tokens: Tokens, names: Iterable[str]) -> list[int]:
    """All ids that can occur in captions of the world, in order."""
    return tokens.used([*names, *all_phrases(), *PLAIN])
