"""Files that the host's cards put beside an identity: a preview and the user's own words. They go where it goes."""

from __future__ import annotations

import logging
from pathlib import Path

from celeb_basis.files import explained_os_errors

_log = logging.getLogger(__name__)

_PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "avif", "jxl")
_ENDINGS = (".json", *(f".preview.{kind}" for kind in _PICTURES), *(f".{kind}" for kind in _PICTURES))


def companions_of(path: Path) -> tuple[Path, ...]:
    """The files that lie beside the identity file ``path``."""
    return tuple(companion for _, companion in _companions(path))


def remove_companions(path: Path) -> None:
    """Delete what lies beside the identity file ``path``: whoever is called so next is somebody else.

    Raises: :class:`FileError` if a file cannot be deleted.
    """
    for companion in companions_of(path):
        with explained_os_errors(companion, "delete"):
            companion.unlink(missing_ok=True)


def move_companions(path: Path, target: Path) -> None:
    """Rename what lies beside the identity file ``path``, which is called ``target`` now.

    What cannot be renamed stays, with a warning in the log: the person is renamed already.
    """
    for ending, companion in _companions(path):
        try:
            companion.replace(target.with_name(_stem(target) + ending))
        except OSError as error:
            _log.warning("%s could not be renamed with %s: %s", companion, target.name, error)


def _companions(path: Path) -> list[tuple[str, Path]]:
    found = [(ending, path.with_name(_stem(path) + ending)) for ending in _ENDINGS]
    return [(ending, companion) for ending, companion in found if companion.is_file()]


def _stem(path: Path) -> str:
    return path.name[: -len(path.suffix)]
