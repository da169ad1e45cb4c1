"""Identities as files: exported for other tools, and imported from this and other tools."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from celeb_basis.basis import fitting_components
from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.errors import ExportError, FileError, IdentityError
from celeb_basis.exports.celebbasis_repo import (
    import_celebbasis_file,
    read_celebbasis_basis,
    read_celebbasis_file,
    rebuild_celebbasis_basis,
)
from celeb_basis.exports.textual_inversion import (
    LAYOUTS,
    OtherKindError,
    export_identity,
    identity_from_embedding,
    import_embedding,
)
from celeb_basis.files import checked_name, read_bytes
from celeb_basis.identities.folder_lock import writing
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import Identity, identity_from_bytes
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.method import Basis
from celeb_basis.reading import MAX_HEADER, MAX_TENSOR_BYTES
from celeb_basis.webui.people import People
from celeb_basis.webui.schemas import NameTakenError, NoSuchPersonError
from celeb_basis.webui.tasks.basis import ModelAccess

_MAY_HOLD_COEFFICIENTS = (".pt", ".bin")
_SUFFIXES = (".safetensors", *_MAY_HOLD_COEFFICIENTS, ".png", ".webp")


@dataclass(frozen=True)
class ImportExport:
    """Identities as files: exported for other tools, put into the host's embeddings folder, imported from any of them."""

    people: People
    access: ModelAccess

    def export(self, name: str, layout: str = "identity") -> list[tuple[str, bytes]]:
        """File names and contents of an identity in another tool's layout.

        Args:
            name: Whose identity.
            layout: ``"identity"`` for the library's own file, or one of
                :data:`~celeb_basis.exports.textual_inversion.LAYOUTS`.

        Raises:
            ExportError: The layout is unknown, or cannot hold the identity.
        """
        if layout == "identity":
            path = self.people.workspace.library.path_of(self.people.entry(name).name)
            try:
                data = read_bytes(path, MAX_HEADER + MAX_TENSOR_BYTES)
            except FileError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                raise NoSuchPersonError(
                    f"{checked_name(name)!r} was deleted before the file was read: look at the list of people."
                ) from None
            return [(path.name, data)]
        if layout not in LAYOUTS:
            raise ExportError(f"There is no layout {layout!r}: choose identity, {', '.join(LAYOUTS)}.")
        with tempfile.TemporaryDirectory() as folder:
            files = export_identity(self.people.identity(name), Path(folder), layout)  # type: ignore[arg-type]
            return [(path.name, path.read_bytes()) for path in files]

    def to_host(self, name: str) -> list[Path]:
        """Write an identity into the host's embeddings folder, for use without the extension.

        It is fitted to the loaded checkpoint.

        Raises:
            IdentityError: There is nobody of that name (any more).
        """
        begun, library = time.time(), self.people.workspace.library
        person = self.people.identity(name)
        with self.access.read() as model:
            identity = self.access.fit(person, model)
        target = self.people.host.embeddings_folder() / f"{identity.name}.safetensors"
        with writing(library.folder):
            library.check_not_deleted(identity.name, begun)
            files = list(export_identity(identity, target, "webui"))
            GeneratedFiles(library.folder).note(files, "embedding", [identity.name], begun=begun)
        return files

    def note_files(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Remember files about ``name`` outside of the data folder, so that deleting the identity deletes them."""
        GeneratedFiles(self.people.workspace.library.folder).note(files, kind, [name])

    def import_file(
        self,
        data: bytes,
        file_name: str,
        name: str | None = None,
        *,
        replace_existing: bool = False,
        authors_basis: bytes | None = None,
    ) -> list[IdentityStatus]:
        """Add the identities of a file to the library, all of them or none.

        The file is one of ours, any tool's textual inversion, or coefficients of the CelebBasis repository.

        Args:
            data: The file's content.
            file_name: Its name, whose suffix decides how it is read.
            name: What the identity is called; the file's own name if ``None``.
            replace_existing: Whether identities of the same names are replaced.
            authors_basis: The content of the ``celeb_basis.pt`` that belongs to coefficients of that repository.

        Raises:
            IdentityError: The file is unusable, or a name is taken.
            ExportError: The file is unusable.
        """
        found = self._read(data, file_name, name, authors_basis)
        for identity in found:
            if (problem := self.people.check_name(identity.name, replace=replace_existing)) is not None:
                raise NameTakenError(problem)
        self.people.workspace.library.add_all(found, replace=replace_existing)
        return [self.people.entry(identity.name) for identity in found]

    def _read(self, data: bytes, file_name: str, name: str | None, authors_basis: bytes | None) -> Sequence[Identity]:
        suffix = Path(file_name).suffix.lower()
        if suffix not in _SUFFIXES:
            raise ExportError(
                f"{file_name[:60]!a} is no .safetensors, .pt, .bin, .png or .webp file: choose one of these."
            )
        if suffix == ".safetensors":
            try:
                identity = identity_from_bytes(data)
                return [replace(identity, name=name or identity.name)]
            except IdentityError:
                if b"celeb-basis-identity" in data[:100_000]:
                    raise
        with _on_disk(data, f"{name}{suffix}" if name else file_name) as path:
            if authors_basis is not None and suffix in _MAY_HOLD_COEFFICIENTS:
                return self._read_coefficients(path, name, authors_basis)
            try:
                embedding = import_embedding(path)
            except OtherKindError:
                raise
            except ExportError:
                if suffix not in _MAY_HOLD_COEFFICIENTS:
                    raise
                return self._read_coefficients(path, name, None)
            with self.access.read() as model:
                return [identity_from_embedding(embedding, self._bases(model), model.info, name=name)]

    def _bases(self, model: DiffusionModel) -> Sequence[Basis]:
        return self.access.bases(model, fitting_components(model.text_encoders, 512))

    def _read_coefficients(self, path: Path, name: str | None, basis_file: bytes | None) -> Sequence[Identity]:
        """Identities of a file of the CelebBasis repository, in the basis it was learned with."""
        people = read_celebbasis_file(path)
        if basis_file is not None:
            with _on_disk(basis_file, "celeb_basis.pt") as file:
                basis = read_celebbasis_basis(file)
            with self.access.read() as model:
                return import_celebbasis_file(path, basis, model.info, name=name)
        workspace = self.people.workspace
        if workspace.names_file is None:
            raise ExportError(
                f"{path.name} holds coefficients in the basis of the CelebBasis repository: import the celeb_basis.pt that "
                "was extracted with it together with it, or choose your copy of that repository's list, "
                "wiki_names_v2.txt, under Settings, Celeb Basis."
            )
        names = workspace.names()
        with self.access.read() as model:
            basis = rebuild_celebbasis_basis(model.text_encoders[0], names, people.components)
            return import_celebbasis_file(path, basis, model.info, name=name)


def split_off_celebbasis_basis(files: Sequence[tuple[str, bytes]]) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """The CelebBasis repository's ``celeb_basis.pt`` among ``files``, recognized by its content, and the other files."""
    found: bytes | None = None
    others = []
    for file_name, data in files:
        if Path(file_name).suffix.lower() == ".pt":
            with _on_disk(data, "celeb_basis.pt") as path:
                try:
                    read_celebbasis_basis(path)
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
