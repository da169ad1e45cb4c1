"""Folders with photos of people: who is in them, which photo of each is learned from, and which are scored against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evidence.testbed import Stranger
from celeb_basis.cli.learn_people import folder_entries
from celeb_basis.errors import CelebBasisError, PhotoError
from celeb_basis.faces.network import FaceNetwork
from celeb_basis.faces.portraits import portrait
from celeb_basis.photos import open_photo

FEWEST = 2
"""People are learned in pairs, and everyone has to be distinguished from the others."""

USEFUL = 10
"""With fewer people, intervals are so wide that they hardly tell anything."""

NEEDED = (
    f"the table needs at least {FEWEST} people ({USEFUL} or more for useful intervals) with at least 2 photos each, one to "
    "learn from and others to score against"
)
_SIDE = 1024
"""Longest side in pixels of the photos that are scored against."""


@dataclass(frozen=True)
class PhotosOfPerson:
    """The picture files of one person."""

    name: str
    learned: Path
    """The photo that is learned from."""
    references: tuple[Path, ...]
    """The photos that are scored against, at least one."""


def photos_of_people(photos: Path, references: Path | None = None) -> tuple[list[PhotosOfPerson], list[str]]:
    """Find the people of one or two folders. No photo is opened yet.

    Args:
        photos: A folder with a folder (or one picture) for each person. The first photo of each, by name, is learned from.
        references: A folder of the same form with other pictures of the same people, by the same names.

    Returns:
        The people, and a sentence about everyone who is left out.

    Raises:
        PhotoError: If there are fewer than two people with two photos: the message says what is needed.
        FileError: If a folder cannot be read.
    """
    entries = [(name, found) for name, found in folder_entries(photos) if found]
    if not entries:
        raise PhotoError(f"There is nobody in {photos}: {NEEDED}. Put a folder with photos of each person into it.")
    others = _others(references)
    people: list[PhotosOfPerson] = []
    notes: list[str] = []
    for name, found in entries:
        scored = (*found[1:], *others.get(name.casefold(), ()))
        if scored:
            people.append(PhotosOfPerson(name, found[0], scored))
        else:
            notes.append(f"{name} is left out: there is one photo only.")
    if len(people) < FEWEST:
        raise PhotoError(_too_few(photos, references, people, len(entries)))
    return people, notes


def _others(references: Path | None) -> Mapping[str, tuple[Path, ...]]:
    if references is None:
        return {}
    found = {name.casefold(): pictures for name, pictures in folder_entries(references) if pictures}
    if not found:
        raise PhotoError(
            f"There is nobody in {references}: put a folder with other photos of each person into it, called as in --photos."
        )
    return found


def _too_few(photos: Path, references: Path | None, people: Sequence[PhotosOfPerson], count: int) -> str:
    if count == 1 and not people:
        return f"There is one photo of one person only in {photos}: {NEEDED}."
    if count == 1:
        return f"{people[0].name} is the only person in {photos}: {NEEDED}."
    if people:
        return f"Only {people[0].name} has more than one photo in {photos}: {NEEDED}."
    if references is not None:
        return (
            f"Nobody in {references} is called like anybody in {photos}: {NEEDED}. Give the folder or picture of a person "
            "the same name in both."
        )
    return (
        f"Each of the {count} people in {photos} has one photo only: {NEEDED}. Put more photos into the folder of each "
        "person, or give --references with a folder of other photos of each."
    )


def strangers_from_photos(
    people: Sequence[PhotosOfPerson], faces: FaceNetwork, side: int
) -> tuple[tuple[Stranger, ...], list[str]]:
    """Open the photos, and find the faces in them.

    Args:
        people: Whose photos are opened.
        faces: Finds the faces.
        side: Side of the training pictures in pixels.

    Returns:
        An even number of strangers, and a sentence about everyone and everything that is left out.

    Raises:
        PhotoError: If fewer than two people are left.
    """
    found: list[Stranger] = []
    notes: list[str] = []
    for person in people:
        try:
            learned = portrait(open_photo(person.learned), faces, size=side, source=person.learned.name)
        except CelebBasisError as error:
            notes.append(f"{person.name} is left out: {error}")
            continue
        references = []
        for path in person.references:
            try:
                picture = open_photo(path, working_side=_SIDE)
            except CelebBasisError as error:
                notes.append(f"A photo of {person.name} is left out: {error}")
                continue
            if faces.detect(picture):
                references.append(picture)
            else:
                notes.append(f"A photo of {person.name} is left out: no face is found in {path.name}.")
        if references:
            found.append(Stranger(person.name, tuple(references), learned))
        else:
            notes.append(f"{person.name} is left out: no photo to score against shows a face.")
    if len(found) < FEWEST:
        raise PhotoError(
            f"Only {len(found)} of {len(people)} people can be used: {NEEDED}. {' '.join(notes[-3:])}".strip()
        )
    if len(found) % 2:
        notes.append(f"{found[-1].name} is left out: people are learned in pairs.")
        found.pop()
    if len(found) < USEFUL:
        notes.append(f"There are {len(found)} people only: with fewer than {USEFUL}, intervals are wide.")
    return tuple(found), notes
