"""Places: where in the image each person of a prompt is, and the prompt of each person's region.

Places are written as text, ``ada: left; ben: 0.5 0.1 1 1``, in the WebUI's page and API and in the parameters of an image.
A place is a word or a box, whose four numbers are shares of the image: left, top, right, bottom.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from celeb_basis.errors import PlacesError
from celeb_basis.identities.library import name_key
from celeb_basis.prompts.syntax import bracketed_in, without_brackets
from celeb_basis.regions import Box, Region

PLACES, PLACES_UNTIL = "Places", "Places until"
"""Keys of the places in the parameters of an image."""

DEFAULT_UNTIL = 1.0
"""Share of the steps in which places act, unless another is chosen."""

MOST_PEOPLE = 6
"""People who may have places: each one costs one more evaluation of the denoiser."""

SMALLEST_SIDE = 32
"""Pixels of a region's sides below which no face fits."""

_SAME = 0.6
"""Share of the smaller of two boxes that lies in the other, from which both are the same place."""
_LONGEST = 2_000
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)%?"
_WORDS = "left|right|middle|center|top|bottom"
_ENTRY = re.compile(
    rf"\s*(?P<name>[^:;\n]+?)\s*[:=]\s*(?P<place>{_WORDS}|{_NUMBER}(?:[\s,]+{_NUMBER}){{3}})\s*(?:[;\n]+|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Placement:
    """One person and their place."""

    name: str
    """A name in angle brackets in the prompt, or else words of it; without the brackets."""
    word: str
    """The place as a word; empty for a box."""
    box: Box

    def __str__(self) -> str:
        return f"{self.name}: {self.word or self.box}"


@dataclass(frozen=True)
class Places:
    """The places of a prompt's people, all different and inside the image."""

    placements: tuple[Placement, ...]
    until: float = DEFAULT_UNTIL
    """Share of the steps in which they act, from the first step on."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.placements))

    def parameters(self) -> dict[str, str]:
        """The parameters of an image that restore the places."""
        return {PLACES: str(self), PLACES_UNTIL: f"{self.until:g}"}

    def check_size(self, width: int, height: int) -> None:
        """Check that a face fits into every region of an image.

        Args:
            width: Of the image, in pixels.
            height: Of the image, in pixels.

        Raises:
            PlacesError: A region is too small.
        """
        for one in self.placements:
            sides = (one.box.right - one.box.left) * width, (one.box.bottom - one.box.top) * height
            if min(sides) < SMALLEST_SIDE - 0.5:
                raise PlacesError(
                    f"The place of {one.name} would be {sides[0]:.0f}x{sides[1]:.0f} pixels, too small for a face: choose "
                    "a larger place, a larger image, or fewer people."
                )


def parse_places(text: str, until: float = DEFAULT_UNTIL) -> Places | None:
    """Parse places.

    Args:
        text: ``ada: left; ben: 0.5 0.1 1 1``. Names may have their angle brackets, boxes commas and percent.
        until: Share of the steps in which places act, 0 to 1.

    Returns:
        The places; ``None`` if the text is empty.

    Raises:
        PlacesError: They cannot be read, one is outside of the image, or two people have the same place.
    """
    if not text.strip():
        return None
    if len(text) > _LONGEST:
        raise PlacesError(f"The places have {len(text)} characters: use at most {_LONGEST}.")
    if not 0 <= until <= 1:
        raise PlacesError(f"Places cannot act until {until:g} of the steps: give a share from 0 to 1.")
    found: list[tuple[str, str]] = []
    position = 0
    while text[position:].strip(" \t\r\n;"):
        match = _ENTRY.match(text, position)
        if match is None:
            raise PlacesError(
                f"The place {text[position:].strip()[:60]!r} cannot be read: write name: place, with left, right, middle, "
                "top, bottom, or four numbers from 0 to 1 for left, top, right and bottom, and a semicolon between people."
            )
        found.append((match["name"].strip(" <>;\n\t"), match["place"].lower()))
        position = match.end()
    return places_of(found, until)


def places_of(found: Iterable[tuple[str, str]], until: float = DEFAULT_UNTIL) -> Places:
    """Places from names and the texts of places.

    Args:
        found: Each person's name, and a word or four numbers.
        until: Share of the steps in which places act.

    Raises:
        PlacesError: As :func:`parse_places`.
    """
    pairs = [(name, "middle" if place == "center" else place) for name, place in found]
    if len(pairs) > MOST_PEOPLE:
        raise PlacesError(f"{len(pairs)} people have places, more than fit: give places to at most {MOST_PEOPLE}.")
    words = {place for _, place in pairs}
    placements = tuple(Placement(name, *_placed(name, place, words)) for name, place in pairs)
    keys = [name_key(one.name) for one in placements]
    for number, one in enumerate(placements):
        if keys[number] in keys[:number]:
            raise PlacesError(f"{one.name} has two places: give one to each person.")
        for other in placements[:number]:
            shared = one.box.within(other.box).area
            if shared > _SAME * min(one.box.area, other.box.area):
                raise PlacesError(f"{other.name} and {one.name} have the same place: choose two that lie apart.")
    return Places(placements, until)


def _placed(name: str, place: str, words: set[str]) -> tuple[str, Box]:
    """The word and the box of a place; columns and rows are thirds if the middle is taken, else halves."""
    if place in ("left", "right", "middle", "top", "bottom"):
        vertical = bool(words & {"top", "bottom"}) and not words & {"left", "right"}
        share = 1 / 3 if "middle" in words else 1 / 2
        start, end = {"left": (0.0, share), "top": (0.0, share), "middle": (1 / 3, 2 / 3)}.get(place, (1 - share, 1.0))
        across = place in ("top", "bottom") or (place == "middle" and vertical)
        return place, Box(0.0, start, 1.0, end) if across else Box(start, 0.0, end, 1.0)
    numbers = [_share(one) for one in re.split(r"[\s,]+", place.strip())]
    box = Box(*numbers)
    if min(numbers) < 0 or max(numbers) > 1:
        raise PlacesError(
            f"The place {box} of {name} reaches out of the image: give left, top, right and bottom as numbers from 0 to 1."
        )
    if box.right <= box.left or box.bottom <= box.top:
        raise PlacesError(f"The place {box} of {name} is empty: give left, top, right and bottom, in this order.")
    return "", box


def _share(text: str) -> float:
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def regions_of(prompt: str, places: Places) -> tuple[Region, ...]:
    """The region of each person, in whose prompt every other person's name is replaced by the person's own.

    Args:
        prompt: The prompt that they have in common.
        places: Whose places are meant.

    Raises:
        PlacesError: The prompt does not name everyone who has a place.
    """
    written = {name_key(one.name): _as_written(prompt, one.name) for one in places.placements}
    missing = [one.name for one in places.placements if written[name_key(one.name)] is None]
    if missing:
        raise PlacesError(
            f"The prompt does not name {_listed(missing)}: name everyone who has a place in it, as in <{missing[0]}>."
        )
    words = sorted((re.escape(one.name) for one in places.placements), key=len, reverse=True)
    names = re.compile(rf"<[^<>]*>|(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)

    def renamed(found: re.Match[str], own: str) -> str:
        text = found.group()
        if not text.startswith("<"):
            return own
        name, colon, weight = text[1:-1].partition(":")
        if name_key(name.strip()) not in written:
            return text
        if not colon:
            return own
        return f"{own[:-1]}:{weight}>" if own.startswith("<") else f"({own}:{weight.strip()})"

    regions = []
    for one in places.placements:
        own = str(written[name_key(one.name)])
        regions.append(Region(names.sub(functools.partial(renamed, own=own), prompt), one.box))
    return tuple(regions)


def _as_written(prompt: str, name: str) -> str | None:
    """How a prompt writes a person, in angle brackets or in words; ``None`` if it does not."""
    tags = (tag.partition(":")[0].strip() for tag in bracketed_in(prompt))
    if (tag := next((one for one in tags if name_key(one) == name_key(name)), None)) is not None:
        return f"<{tag}>"
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", without_brackets(prompt), re.IGNORECASE)
    return found.group() if found is not None else None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
