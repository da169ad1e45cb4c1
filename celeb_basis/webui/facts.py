"""What the host's own pages tell about people, read without their pictures and kept until a file changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from celeb_basis.basis.basis import Basis
from celeb_basis.basis.cache import load_cached
from celeb_basis.errors import CelebBasisError
from celeb_basis.files import checked_name
from celeb_basis.identities.expand import tensors_of
from celeb_basis.identities.format import MAX_FILE_SIZE, READERS, load_identity
from celeb_basis.identities.identity import Identity, IdentityMetadata

_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Facts:
    """One identity file, without its coefficients, vectors and thumbnail."""

    name: str
    path: Path
    stamp: _Stamp
    problem: str = ""
    """Why the file cannot be used; else empty, and the rest is there."""
    content_hash: str = ""
    """Of the vectors in the file, whichever checkpoint is loaded."""
    about: IdentityMetadata | None = None
    """Always without the thumbnail."""
    has_thumbnail: bool = False
    distance: float | None = None
    """To the mean celebrity, in units of the celebrities' own distance; ``None`` where its basis is not cached here."""


class FactsCache:
    """Facts of identity files; a file is read again when its time stamp, size or place changed. Safe in threads.

    Parameters: ``bases`` is the folder of cached bases, for distances; without it there are none.
    """

    def __init__(self, bases: Path | None = None) -> None:
        self._bases = bases
        self._lock = threading.Lock()
        self._known: dict[str, Facts] = {}

    def of(self, files: Iterable[tuple[str, Path]]) -> tuple[Facts, ...]:
        """Facts of each name and its file, in order; files that are gone are left out."""
        found: list[Facts] = []
        bases: dict[str, Basis | None] = {}
        for name, path in files:
            try:
                status = os.stat(path)
            except OSError:
                continue
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            with self._lock:
                facts = self._known.get(str(path))
            if facts is None or facts.stamp != stamp or facts.name != name:
                facts = self._read(name, path, stamp, bases)
                with self._lock:
                    self._known[str(path)] = facts
            found.append(facts)
        return tuple(found)

    def keep_only(self, paths: Iterable[Path]) -> None:
        """Forget every other file."""
        kept = {str(path) for path in paths}
        with self._lock:
            self._known = {path: facts for path, facts in self._known.items() if path in kept}

    def _read(self, name: str, path: Path, stamp: _Stamp, bases: dict[str, Basis | None]) -> Facts:
        try:
            checked_name(name)
            identity, has_thumbnail = _without_picture(path)
        except CelebBasisError as error:
            return Facts(name, path, stamp, problem=str(error))
        about = identity.metadata
        if about.thumbnail is not None:
            about = replace(about, thumbnail=None)
        distance = self._distance(identity, bases)
        return Facts(name, path, stamp, "", identity.content_hash, about, has_thumbnail, distance)

    def _distance(self, identity: Identity, bases: dict[str, Basis | None]) -> float | None:
        distances = []
        for key, coefficients in zip(identity.metadata.basis_sha256, tensors_of(identity.coefficients), strict=False):
            if key not in bases:
                bases[key] = load_cached(self._bases, key) if self._bases is not None and key else None
            basis = bases[key]
            if basis is None or tuple(coefficients.shape) != (basis.positions, basis.size):
                return None
            distances.append(basis.distance(coefficients))
        return sum(distances) / len(distances) if distances else None


def thumbnail_of(path: Path) -> bytes | None:
    """The thumbnail in the identity file ``path``, or ``None`` if there is none, or no whole file."""
    try:
        return load_identity(path).metadata.thumbnail
    except CelebBasisError:
        return None


def _without_picture(path: Path) -> tuple[Identity, bool]:
    """The identity in ``path`` without reading its thumbnail, and whether it has one.

    Raises: :class:`IdentityError` and :class:`FileError` as :func:`load_identity` does.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MAX_FILE_SIZE:
            raise ValueError
        with safe_open(str(path), framework="np") as file:
            header, keys = file.metadata() or {}, set(file.keys())
            tensors = {key: file.get_tensor(key) for key in keys - {"thumbnail"}}
        return READERS[int(header["format_version"])](tensors, header), "thumbnail" in keys
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, CelebBasisError):
        identity = load_identity(path)  # which says in words what is wrong
        return identity, identity.metadata.thumbnail is not None
