"""Who is to be learned: photos of one person, several people by name, or a folder of people."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from celeb_basis.cli.options import UsageError
from celeb_basis.errors import CelebBasisError, IdentityError, PhotoError
from celeb_basis.executors.work import PersonPhotos
from celeb_basis.files import checked_name, explained_os_errors

PICTURES = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "heic", "heif"),
        *("bmp", "gif", "tif", "tiff", "jp2", "ppm", "pgm", "qoi"),
    )
)
"""Endings of the files in a folder that are taken for photos."""


@dataclass(frozen=True)
class Wanted:
    """The people of one call."""

    people: tuple[PersonPhotos, ...]
    refused: tuple[tuple[str, str], ...] = ()
    """Of a folder: names that cannot be learned, and why."""
    from_folder: bool = False
    together: bool = False


def wanted_people(arguments: argparse.Namespace) -> Wanted:
    """Everybody whom the command line asks for; photos are not opened yet.

    Raises: :class:`UsageError` for options that do not go together, :class:`PhotoError` for a folder without people,
    :class:`IdentityError` for a name of no use.
    """
    photos: list[Path] = arguments.photos
    if arguments.person:
        if photos or arguments.name:
            raise UsageError("Give either --person for everybody, or the photos of one person and --name.")
        people = tuple(_named(text) for text in arguments.person)
        names = [person.name.casefold() for person in people]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise IdentityError(f"Two people are both called {twice!r}: give each a name of their own.")
        return Wanted(people, together=True)
    if not photos:
        raise UsageError(
            "There is nobody to learn: give a photo and --name, a folder of people, or --person NAME=PHOTO."
        )
    if any(os.path.isdir(path) for path in photos):
        if len(photos) > 1 or arguments.name:
            raise UsageError("A folder of people stands alone, without --name: its files and folders name the people.")
        return _folder(photos[0], arguments.together)
    if not arguments.name:
        raise UsageError("The person needs a name: add --name, such as --name ada.")
    return Wanted((PersonPhotos(checked_name(arguments.name), tuple(photos)),))


def _named(text: str) -> PersonPhotos:
    name, equals, photos = text.partition("=")
    paths = tuple(Path(part) for part in photos.split(",") if part)
    if not equals or not paths:
        raise UsageError(f"--person {text!r} is not understood: write --person NAME=PHOTO or NAME=PHOTO,PHOTO.")
    return PersonPhotos(checked_name(name), paths)


def _folder(folder: Path, together: bool) -> Wanted:
    found: dict[str, PersonPhotos] = {}
    refused: list[tuple[str, str]] = []
    for name, photos in _entries(folder):
        try:
            name = checked_name(name)
            if not photos:
                raise PhotoError(f"There is no picture in {folder / name}: put the person's photos into it.")
            if name.casefold() in found:
                raise PhotoError(f"Two people in {folder} are called {name!r}: rename one file or folder.")
        except CelebBasisError as error:
            refused.append((name, str(error)))
        else:
            found[name.casefold()] = PersonPhotos(name, photos)
    if not found and not refused:
        raise PhotoError(f"There is no picture in {folder}: put a photo or a folder of photos for each person into it.")
    return Wanted(tuple(found.values()), tuple(refused), from_folder=True, together=together)


def _entries(folder: Path) -> list[tuple[str, tuple[Path, ...]]]:
    """Name and photos of every person in ``folder``: each folder in it, and each picture."""
    with explained_os_errors(folder, "list"):
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        return [
            (path.name, _pictures(path)) if path.is_dir() else (path.stem, (path,))
            for path in entries
            if path.is_dir() or _is_picture(path)
        ]


def _pictures(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.is_file() and _is_picture(path)))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")
