"""The people of the world: invented people with names of the shipped list, and strangers who are never trained on.

``python -m miniature.world.people`` gives names to the people whom ``miniature.people3d.casting`` chose.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from celeb_basis.errors import FileError, NamesError
from celeb_basis.files import read_bytes, write_json
from celeb_basis.reading import parse_json

_log = logging.getLogger(__name__)

PEOPLE_FILE = Path(__file__).with_name("people.json")
NAMED, STRANGERS = 960, 100

_SEED = 20230602
_WOMEN = "women"
"""What the shipped list says of women's names."""
_MOST_BYTES, _MOST_VALUES = 1 << 20, 50_000
"""Of a casting or a list of people."""
_CASTING = "python -m miniature.people3d.casting"


@dataclass(frozen=True)
class People:
    """All people, as numbers for :func:`miniature.people3d.person.draw_person`."""

    names: tuple[str, ...]
    """A name for each of ``named``."""
    named: tuple[int, ...]
    """The celebrities of the world: the model learns their names."""
    strangers: tuple[int, ...]
    """People whom no part of the training shows."""
    spread: float
    """How far the features of all of them vary."""


def read_people(path: Path = PEOPLE_FILE) -> People:
    """Read the people that :func:`main` wrote.

    Raises:
        FileError: If the file is missing or is not one of people.
    """
    command = "python -m miniature.world.people"
    stored = _stored(path, command)
    names, named, strangers = (stored.get(key) for key in ("names", "named", "strangers"))
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or not _numbers(named)
        or not _numbers(strangers)
        or len(named) != len(names)
    ):
        raise FileError(f"{path} is not a list of people: write it with `{command}`.")
    return People(tuple(names), tuple(named), tuple(strangers), float(stored["spread"]))


def choose_names(wanted: int) -> tuple[str, ...]:
    """Choose names of two words and two tokens among which first tokens repeat as often as in the whole shipped list.

    Half of the list's first tokens are distinct, so that a first name alone seldom identifies a person. The names are gone
    through in random order: the first ones say which first tokens there are, and more names with these tokens fill up.

    Args:
        wanted: How many.

    Returns:
        Sorted names, of which no two have the same two tokens. The same number gives the same names.

    Raises:
        NamesError: If the list has fewer such names.
    """
    from celeb_basis.hosts.diffusers.configs import clip_tokenizer
    from celeb_basis.names.lists import shipped_names

    tokenizer = clip_tokenizer()
    listed = shipped_names().names
    ids = {name: tuple(tokenizer(name, add_special_tokens=False).input_ids) for name in listed}
    by_tokens = {ids[name]: name for name in reversed(listed) if len(name.split()) == len(ids[name]) == 2}
    if wanted > len(by_tokens):
        raise NamesError(
            f"{wanted} names are wanted, but only {len(by_tokens)} names of the shipped list have two words and two "
            "tokens: ask for fewer."
        )
    tokens = sorted(by_tokens)
    shuffled = [tokens[place] for place in np.random.default_rng(_SEED).permutation(len(tokens))]
    firsts = list(dict.fromkeys(pair[0] for pair in shuffled))
    distinct = round(wanted * len({pair[0] for pair in ids.values()}) / len(ids))
    for most in range(distinct, len(firsts) + 1):
        allowed = set(firsts[:most])
        fitting = [pair for pair in shuffled if pair[0] in allowed]
        if len(fitting) >= wanted:
            break
    return tuple(sorted(by_tokens[pair] for pair in fitting[:wanted]))


def fitting(names: Sequence[str], numbers: Sequence[int], spread: float) -> tuple[int, ...]:
    """Order people so that women's names go to women and men's to men, as far as there are enough of both.

    Args:
        names: Names of the shipped list.
        numbers: As many people, for :func:`miniature.people3d.person.draw_person`.
        spread: How far their features vary.
    """
    from celeb_basis.names.lists import shipped_names
    from miniature.people3d.person import draw_person

    listed = shipped_names()
    of_women = {name for name, columns in zip(listed.names, listed.columns, strict=True) if _WOMEN in columns}
    waiting: dict[bool, list[int]] = {True: [], False: []}
    for number in reversed(numbers):
        waiting[not draw_person(number, spread).male].append(number)
    fitted = [waiting[name in of_women].pop() if waiting[name in of_women] else None for name in names]
    left = [*waiting[True], *waiting[False]]
    return tuple(left.pop() if number is None else number for number in fitted)


def _numbers(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _stored(path: Path, command: str) -> dict[str, Any]:
    """The JSON object of a file that ``command`` writes, which has a spread."""
    try:
        stored = parse_json(read_bytes(path, _MOST_BYTES), most_values=_MOST_VALUES)
    except ValueError as error:
        raise FileError(f"{path} cannot be read ({error}): write it with `{command}`.") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("spread"), (int, float)):
        raise FileError(f"{path} has no spread of people: write it with `{command}`.")
    return stored


def main(arguments: Sequence[str] | None = None) -> None:
    """Give names to the people of a casting, and write them."""
    from miniature.people3d.casting import CASTING_FILE

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "casting",
        type=Path,
        nargs="?",
        default=CASTING_FILE,
        help="the file that miniature.people3d.casting wrote (%(default)s)",
    )
    parser.add_argument("--named", type=int, default=NAMED, help="people who get a name (%(default)s)")
    parser.add_argument("--strangers", type=int, default=STRANGERS, help="people without one (%(default)s)")
    parser.add_argument("--output", type=Path, default=PEOPLE_FILE, help="%(default)s")
    options = parser.parse_args(arguments)
    if options.named < 1 or options.strangers < 1:
        parser.error("give at least one person with and one without a name")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stored = _stored(options.casting, f"{_CASTING} {options.casting}")
    numbers, wanted = stored.get("numbers"), options.named + options.strangers
    if not _numbers(numbers):
        raise FileError(f"{options.casting} has no numbers of people: write it with `{_CASTING} {options.casting}`.")
    if len(numbers) < wanted:
        raise FileError(
            f"{options.casting} has {len(numbers)} people, but {wanted} are wanted: find more with "
            f"`{_CASTING} {options.casting} --wanted {wanted}`."
        )
    names, spread = choose_names(options.named), float(stored["spread"])
    named = fitting(names, numbers[: options.named], spread)
    people = People(names, named, tuple(numbers[options.named : wanted]), spread)
    write_json(options.output, asdict(people))
    _log.info("%d people with names and %d strangers in %s", options.named, options.strangers, options.output)


if __name__ == "__main__":
    main()
