"""People as files: exported for other tools, put into the host's embeddings folder, and imported from files of any of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import ExportError
from celeb_basis.identities.derived import DerivedFiles
from celeb_basis.webui.importing import Importing
from celeb_basis.webui.requests import NameTakenError, PersonEntry

if TYPE_CHECKING:
    from celeb_basis.basis.basis import Basis
    from celeb_basis.hosts.base import Host
    from celeb_basis.names.lists import NameList
    from celeb_basis.webui.service import Service


class Exchange:
    """What goes out of the library as files and comes in as such, for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def export(self, name: str, layout: str = "identity") -> list[tuple[str, bytes]]:
        """Somebody's file names and contents: ``"identity"`` is the file of the library, the others are other tools'.

        Raises: :class:`ExportError` for an unknown layout or what it cannot hold.
        """
        from celeb_basis.exports.layouts import LAYOUTS
        from celeb_basis.exports.write import export_identity

        if layout == "identity":
            path = self._service.library.path_of(self._service.people.entry(name).name)
            return [(path.name, path.read_bytes())]
        if layout not in LAYOUTS:
            raise ExportError(f"There is no layout {layout!r}: choose identity, {', '.join(LAYOUTS)}.")
        with tempfile.TemporaryDirectory() as folder:
            files = export_identity(self._service.people.identity(name), Path(folder), layout)  # type: ignore[arg-type]
            return [(path.name, path.read_bytes()) for path in files]

    def note_files(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Remember files about somebody that lie outside of the data folder: deleting the person deletes them."""
        DerivedFiles(self._service.library.folder).note(files, kind, [name])

    def to_host(self, name: str) -> list[Path]:
        """Put somebody, fitted to the loaded checkpoint, into the host's embeddings folder, for when this extension is off."""
        from celeb_basis.exports.write import export_identity

        person = self._service.people.identity(name)
        with self._service.model() as host:
            identity = self._service.fitted(person, host)
        target = self._service.program.embeddings_folder() / f"{identity.name}.safetensors"
        files = list(export_identity(identity, target, "webui"))
        self.note_files(identity.name, files, "embedding")
        return files

    def import_file(
        self,
        data: bytes,
        file_name: str,
        name: str | None = None,
        *,
        replace_existing: bool = False,
        authors_basis: bytes | None = None,
    ) -> list[PersonEntry]:
        """Take an identity file, any tool's textual inversion, or the authors' coefficients into the library.

        ``authors_basis`` is the ``celeb_basis.pt`` that was extracted with coefficients.

        Raises: :class:`IdentityError` or :class:`ExportError` for a file of no use, or a name that is taken.
        """
        found = self._importing().read(data, file_name, name, authors_basis=authors_basis)
        for identity in found:
            if (problem := self._service.people.check_name(identity.name, replace=replace_existing)) is not None:
                raise NameTakenError(problem)
        for identity in found:
            self._service.library.add(identity, replace=replace_existing)
        return [self._service.people.entry(identity.name) for identity in found]

    def _importing(self) -> Importing:
        def own_names() -> NameList | None:
            return self._service.names() if self._service.options().names_file else None

        def bases(host: Host) -> Sequence[Basis]:
            from celeb_basis.basis.build import fitting_components

            return self._service.own_bases(host, fitting_components(host.text_encoders, 512))

        return Importing(self._service.model, bases, own_names)
