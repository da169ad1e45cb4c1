"""Files that a user hands in, as people for the library: our own, textual inversions of any tool, the authors' coefficients."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import ExportError, IdentityError
from celeb_basis.files import checked_name

if TYPE_CHECKING:
    from celeb_basis.basis.basis import Basis
    from celeb_basis.hosts.base import Host
    from celeb_basis.identities.identity import Identity
    from celeb_basis.names.lists import NameList

_SUFFIXES = (".safetensors", ".pt", ".bin")


@dataclass(frozen=True)
class Importing:
    """Reads files for the checkpoint that is loaded."""

    model: Callable[[], AbstractContextManager[Host]]
    """The loaded checkpoint, once it is free."""
    bases: Callable[[Host], Sequence[Basis]]
    """Its own bases, one a text encoder."""
    own_names: Callable[[], NameList | None]
    """The user's own list of names; ``None`` for the shipped one."""

    def read(
        self, data: bytes, file_name: str, name: str | None = None, *, authors_basis: bytes | None = None
    ) -> Sequence[Identity]:
        """The people of a file; ``authors_basis`` is the ``celeb_basis.pt`` of the authors' coefficients.

        Raises: :class:`IdentityError` or :class:`ExportError` for a file of no use.
        """
        from celeb_basis.exports.read import identity_from_embedding, import_embedding
        from celeb_basis.identities.format import identity_from_bytes

        suffix = Path(file_name).suffix.lower()
        if suffix not in _SUFFIXES:
            raise ExportError(f"{file_name[:60]!a} is no .safetensors, .pt or .bin file: choose one of these.")
        if suffix == ".safetensors":
            try:
                identity = identity_from_bytes(data)
                return [replace(identity, name=name or identity.name)]
            except IdentityError:
                if b"celeb-basis-identity" in data[:100_000]:
                    raise
        with _on_disk(data, f"{name}{suffix}" if name else file_name) as path:
            if authors_basis is not None and suffix != ".safetensors":
                return self._of_the_authors(path, name, authors_basis)
            try:
                embedding = import_embedding(path)
            except ExportError:
                if suffix == ".safetensors":
                    raise
                return self._of_the_authors(path, name, None)
            with self.model() as host:
                return [identity_from_embedding(embedding, self.bases(host), host.info, name=name)]

    def _of_the_authors(self, path: Path, name: str | None, basis_file: bytes | None) -> Sequence[Identity]:
        from celeb_basis.authors import import_authors_file, read_authors_file
        from celeb_basis.authors_basis import read_authors_basis, rebuild_authors_basis

        people = read_authors_file(path)
        if basis_file is not None:
            with _on_disk(basis_file, "celeb_basis.pt") as file:
                basis = read_authors_basis(file)
            with self.model() as host:
                return import_authors_file(path, basis, host.info, name=name)
        names = self.own_names()
        if names is None:
            raise ExportError(
                f"{path.name} holds coefficients in the authors' own basis: import the celeb_basis.pt that was extracted "
                "with it together with it, or choose your copy of their list, wiki_names_v2.txt, under Settings, Celeb Basis."
            )
        with self.model() as host:
            basis = rebuild_authors_basis(host.text_encoders[0], names, people.components)
            return import_authors_file(path, basis, host.info, name=name)


def authors_basis_among(files: Sequence[tuple[str, bytes]]) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """The authors' ``celeb_basis.pt`` among ``files``, by what it holds, and the other files."""
    from celeb_basis.authors_basis import read_authors_basis

    found: bytes | None = None
    others = []
    for file_name, data in files:
        if Path(file_name).suffix.lower() == ".pt":
            with _on_disk(data, "celeb_basis.pt") as path:
                try:
                    read_authors_basis(path)
                except ExportError:
                    others.append((file_name, data))
                else:
                    found = data
        else:
            others.append((file_name, data))
    return found, others


@contextmanager
def _on_disk(data: bytes, file_name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (checked_name(Path(file_name).stem) + Path(file_name).suffix.lower())
        path.write_bytes(data)
        yield path
