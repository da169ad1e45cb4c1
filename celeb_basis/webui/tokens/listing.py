"""The names in a library's folder, without opening a file, and without looking twice at a folder that did not change."""

from __future__ import annotations

import logging
import os
import threading
import time
import unicodedata
from pathlib import Path

from celeb_basis.identities.format import SUFFIX
from celeb_basis.identities.library import name_key

_log = logging.getLogger(__name__)

_COARSEST_CLOCK = 2.0
"""Seconds: FAT's time stamps. A folder changed that recently may change again under the same stamp."""


class Listing:
    """Names and files of one folder of identities, as :class:`celeb_basis.identities.library.Library` would give them.

    Each question costs one ``stat`` of the folder; it is listed anew only when its time stamp moved. Safe in threads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._stamp: int | None = None
        self._files: dict[str, tuple[str, str]] = {}

    def find(self, text: str) -> tuple[str, str] | None:
        """Name and path of the identity that ``text`` (as typed: any case, spaces around it) names, or ``None``."""
        return self._current().get(name_key(text.strip()))

    def names(self) -> tuple[str, ...]:
        """All names, in no order."""
        return tuple(name for name, _ in self._current().values())

    def files(self) -> tuple[tuple[str, Path], ...]:
        """All names with their files, in alphabetical order, from one look at the folder."""
        found = sorted(self._current().values(), key=lambda one: (one[0].casefold(), one[0]))
        return tuple((name, Path(path)) for name, path in found)

    def _current(self) -> dict[str, tuple[str, str]]:
        try:
            stamp = os.stat(self.folder).st_mtime_ns
        except OSError:  # no folder yet: nobody was learned
            return {}
        if stamp != self._stamp:
            with self._lock:
                # Asked before the clock: a change in between makes the stamp too new, and never too old.
                settled = time.time() - stamp / 1e9 > _COARSEST_CLOCK
                try:
                    self._files = _listed(self.folder)
                except OSError as error:
                    _log.warning("The folder of the identities %s cannot be listed: %s", self.folder, error)
                self._stamp = stamp if settled else None
        return self._files


def _listed(folder: Path) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            file = entry.name
            if file[-len(SUFFIX) :].lower() == SUFFIX and not file.startswith(".") and not entry.is_dir():
                name = unicodedata.normalize("NFC", file[: -len(SUFFIX)])
                found.setdefault(name_key(name), (name, entry.path))
    return found
