"""Captions of scenes: a grammar with the words of the training templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from celeb_basis.training.augment import SUBJECT, TEMPLATES, describe_view
from miniature.people3d.things import HELD
from miniature.people3d.traits import Description, all_words, phrase
from miniature.training.text_model import Tokens
from miniature.world.scenes import PLACES, PLAIN, Rng, Scene

PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "beach": ("on a beach", "at the beach", "on the beach"),
    "forest": ("in a forest", "in the forest", "in the woods"),
    "city at night": ("in a city at night", "in the city at night"),
    "snowy mountains": ("in front of snowy mountains", "in the snowy mountains", "on top of a snowy mountain"),
    "sunset": ("at sunset", "in front of a sunset"),
    "desert": ("in a desert", "in the desert"),
    "starry space": ("in starry space", "in space", "among the stars"),
    "flower garden": ("in a flower garden", "in a field of flowers"),
}
THING_WORDS: dict[str, tuple[str, ...]] = {
    "glasses": ("wearing glasses", "with glasses"),
    "sunglasses": ("wearing sunglasses", "with sunglasses"),
    "hat": ("wearing a hat", "with a hat"),
    "beanie": ("wearing a beanie", "with a beanie"),
    "crown": ("wearing a crown", "with a golden crown"),
    "scarf": ("wearing a scarf", "with a scarf"),
    "headscarf": ("wearing a headscarf", "with a headscarf"),
    "cake": ("with a cake", "holding a cake", "holding a birthday cake"),
    "book": ("with a book", "holding a book", "reading a book"),
    "cup": ("with a cup", "holding a cup of coffee", "holding a cup"),
    "flowers": ("with flowers", "holding flowers", "holding a bunch of flowers"),
}
EXPRESSION_WORDS: dict[str, tuple[str, ...]] = {
    "smile": ("smiling",),
    "laugh": ("laughing",),
    "surprise": ("looking surprised",),
    "serious": ("looking serious",),
}
MEDIUM_WORDS: dict[str, tuple[str, ...]] = {
    "black and white photo": ("a black and white photo of {}", "a black and white portrait of {}"),
    "sepia photo": ("a sepia photo of {}", "an old sepia photo of {}"),
    "pencil sketch": ("a pencil sketch of {}", "a sketch of {}", "a pencil drawing of {}"),
    "oil painting": ("an oil painting of {}", "a painting of {}", "an oil painting of {} with thick brush strokes"),
    "watercolour": ("a watercolour of {}", "a watercolour painting of {}", "a watercolour of {} in pale colours"),
}
_PLAIN_WORDS = ("on a plain {} background", "in front of a {} background", "{} background")
_PLAIN_PHOTOS = ("a photo of {}", "a photo of {}", "a photo of {}", "a portrait of {}", "a picture of {}", "{}")
_CLOSE = ("a close-up photo of {}", "close-up of {}")
_SOMEBODY = ("a person", "a person", "someone", "person", "face of a person")
_TOGETHER = ("{} and {}", "{} and {}", "{} and {} side by side", "{} with {}", "{} next to {}")

_PLAIN_SAID = 0.5
"""Probability that the caption names the plain color behind a person."""
_EXPRESSION_SAID = 0.6
_TEMPLATED = 0.35
_NAMED_ONLY, _NAMED = 0.5, 0.75
"""Probabilities that a person with a name is called by it alone, and by it in any case; the others are described only."""
_DESCRIBED = 0.75
"""Probability that a person without a name is described."""
_TRAITS = {1: (2, 7), 2: (1, 3)}
"""The fewest and the most traits that are said of each person, by the number of people; half of them beside a name."""


def caption(scene: Scene, names: Sequence[str | None], rng: Rng, described: Sequence[Description] = ()) -> str:
    """Draw one of the many captions of a scene.

    Args:
        scene: The scene.
        names: A name for each of its people, or ``None`` for an unnamed person.
        rng: Chooses the words.
        described: What can be said of each of them; people are not described without it.
    """
    said = rng.random()
    people = [
        _person(name, described[place] if described else None, said, len(names), rng)
        for place, name in enumerate(names)
    ]
    details = _details(scene, rng)
    if not people:
        place = details.pop().split(" ", 1)[1]
        return _in_medium(scene, place.removeprefix("of "), rng)
    view = _view(scene)
    subject, called = people[0], people == list(names)
    if len(people) == 2:
        subject = _pick(_TOGETHER, rng).format(*people)
        if called and rng.random() < 0.2:
            subject = " and ".join(f"face of {person} person" for person in people)
    templated = scene.medium == "photo" and len(people) == 1 and rng.random() < _TEMPLATED
    if templated and scene.size != "close-up" and called:
        text = _pick(TEMPLATES, rng).format(SUBJECT.format(subject))
        return ", ".join([text, *([view] if view else []), *details])
    text = _in_medium(scene, subject, rng)
    if len(details) > 1 and rng.random() < 0.5:
        details.reverse()
    joined = " ".join([text, *details]) if rng.random() < 0.7 else ", ".join([text, *details])
    return f"{joined}, {view}" if view else joined


def _person(name: str | None, described: Description | None, said: float, people: int, rng: Rng) -> str:
    """A person's name, description, or both."""
    if described is None or (name is not None and said < _NAMED_ONLY):
        return _pick(_SOMEBODY, rng) if name is None else name
    if name is None and said >= _DESCRIBED:
        return _pick(_SOMEBODY, rng)
    beside = name is not None and said < _NAMED
    fewest, most = _TRAITS[people]
    count = min(len(described.details), int(rng.integers(fewest, most + 1)))
    chosen = rng.permutation(len(described.details))[: (count + 1) // 2 if beside else count]
    words = phrase(described, [described.details[place] for place in chosen])
    return f"{name}, {words}" if beside else words


def _details(scene: Scene, rng: Rng) -> list[str]:
    """What is said of expression, things and backdrop."""
    details = []
    if len(scene.people) == 1:
        look = scene.people[0].look
        if look.expression in EXPRESSION_WORDS and rng.random() < _EXPRESSION_SAID:
            details.append(_pick(EXPRESSION_WORDS[look.expression], rng))
        if look.thing:
            details.append(_pick(THING_WORDS[look.thing], rng))
    if scene.backdrop in PLACES:
        details.append(_pick(PLACE_WORDS[scene.backdrop], rng))
    elif scene.pasted is None and rng.random() < _PLAIN_SAID:
        details.append(_pick(_PLAIN_WORDS, rng).format(scene.backdrop))
    return details


def _in_medium(scene: Scene, subject: str, rng: Rng) -> str:
    if scene.medium == "photo":
        return _pick(_CLOSE if scene.size == "close-up" else _PLAIN_PHOTOS, rng).format(subject)
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
    if size == "smaller" and scene.thing in HELD:
        size = ""  # hands would not be seen otherwise: prompts ask for the thing alone
    return ", ".join(filter(None, (size, scene.place)))


def _pick(words: Sequence[str], rng: Rng) -> str:
    return words[int(rng.integers(len(words)))]


def all_phrases() -> list[str]:
    """Phrases with every word that captions can hold, except names and plain colors."""
    groups = [PLACE_WORDS, MEDIUM_WORDS, THING_WORDS, EXPRESSION_WORDS]
    phrases = [words for group in groups for several in group.values() for words in several]
    phrases += [*_PLAIN_WORDS, *_PLAIN_PHOTOS, *_CLOSE, *_SOMEBODY, *_TOGETHER, *TEMPLATES, SUBJECT]
    phrases += [*all_words(), "a an, and with"]
    phrases.append(
        "very small, smaller, small, on the left, at the top on the right, at the bottom, on a plain background"
    )
    return [words.replace("{}", " ") for words in phrases]


def used_tokens(tokens: Tokens, names: Iterable[str]) -> list[int]:
    """All ids that can occur in captions of the world, in order."""
    return tokens.used([*names, *all_phrases(), *PLAIN])
