"""From what stands on the command line to what the core works with: models, names, faces, libraries, identities."""

from __future__ import annotations

import argparse
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.progress import Console
from celeb_basis.errors import FacePackError, FileError, IdentityError
from celeb_basis.files import cache_folder, checked_name, explained_os_errors

if TYPE_CHECKING:
    from celeb_basis.basis.basis import Basis
    from celeb_basis.executors.worker import Worker
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.faces.packs import FacePack
    from celeb_basis.hosts.base import Host
    from celeb_basis.identities.identity import Identity
    from celeb_basis.identities.library import Library
    from celeb_basis.names.lists import NameList


@dataclass(frozen=True)
class WorkerSpec:
    """All that another process needs to make a worker of its own; calling it makes one."""

    model: Path
    device: str
    dtype: str
    names: NameList
    pack: str
    """Name of a face model pack, or a folder."""
    agreed: bool = False
    """Whether the pack's licence was agreed to."""

    def __call__(self) -> Worker:
        from celeb_basis.executors.worker import Worker
        from celeb_basis.faces.insight import InsightFaceNetwork
        from celeb_basis.faces.packs import obtain_pack

        pack = obtain_pack(self.pack, agreed=self.agreed)
        return Worker(load_model(self.model, self.device, self.dtype), self.names, InsightFaceNetwork(pack.folder))


def open_model(arguments: argparse.Namespace, screen: Console) -> Host:
    """The checkpoint of ``--model``."""
    screen.note(f"Loading {arguments.model} ...")
    return load_model(arguments.model, arguments.device, arguments.dtype, quiet=not screen.verbose)


def load_model(path: Path, device: str, dtype: str, *, quiet: bool = True) -> Host:
    """A checkpoint in diffusers."""
    from celeb_basis.hosts.diffusers import load_host
    from celeb_basis.miniature.shipped import MODEL, NAME

    if quiet:
        hush_libraries()
    return load_host(path, device=device, dtype=dtype, name=NAME if path == MODEL else None)  # type: ignore[arg-type]


def open_names(arguments: argparse.Namespace) -> NameList:
    """The list of ``--names``; without one the shipped list, or the miniature's own for the miniature."""
    from celeb_basis.miniature.shipped import MODEL, shipped_model_names
    from celeb_basis.names.lists import read_names, shipped_names

    if arguments.names is not None:
        return read_names(arguments.names)
    return shipped_model_names() if getattr(arguments, "model", None) == MODEL else shipped_names()


def obtain_faces(arguments: argparse.Namespace, screen: Console) -> FacePack:
    """The pack of ``--faces``; if it is not on this machine yet, its licence is shown and asked for, then it is downloaded.

    Raises: :class:`LicenceError` if nobody agrees.
    """
    from celeb_basis.faces.packs import find_pack, obtain_pack

    try:
        return find_pack(arguments.faces)
    except FacePackError:
        _agree(arguments, screen)
    bar: Any = None

    def progress(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            bar = screen.bar(total, f"downloading {arguments.faces}", unit="B", scale=True)
        bar.update(done - bar.n)

    try:
        return obtain_pack(arguments.faces, progress=progress, agreed=True)
    finally:
        if bar is not None:
            bar.close()


def _agree(arguments: argparse.Namespace, screen: Console) -> None:
    """Show the licence of the pack of ``--faces``, and have it agreed to.

    Raises: :class:`LicenceError` if nobody does.
    """
    from celeb_basis.faces.packs import AGREEMENT, SOURCES, licence_to_agree_to, not_agreed

    if (source := SOURCES.get(arguments.faces)) is None:
        return
    size = source.archive_bytes / 1e6
    screen.note(f"The face models {source.name} ({source.about}, {size:.0f} MB) have to be downloaded.")
    screen.note(f"Their licence: {source.licence} See {source.terms}.")
    if arguments.accept_licence or licence_to_agree_to(arguments.faces) is None:
        return
    if not screen.confirm("Do you agree to this licence?"):
        raise not_agreed(source, f"add --accept-licence, or set {AGREEMENT}={source.name}")


def open_faces(arguments: argparse.Namespace, screen: Console) -> InsightFaceNetwork:
    """The networks of ``--faces``."""
    from celeb_basis.faces.insight import InsightFaceNetwork

    return InsightFaceNetwork(obtain_faces(arguments, screen).folder)


def open_library(folder: Path) -> Library:
    """The library in ``folder``, which may not exist yet.

    Raises: :class:`FileError` if identities can be neither read nor written there.
    """
    from celeb_basis.identities.library import Library

    check_folder(folder)
    return Library(folder)


def check_name_is_free(library: Library, name: str, *, replace: bool) -> None:
    """Raises: :class:`IdentityError` for a name of no use, or one that is taken and not to be replaced."""
    name = checked_name(name)
    path = library.path_of(name)
    if path.exists() and not replace:
        raise IdentityError(
            f"There is already an identity {name!r} in {library.folder}: choose another name, or add --replace."
        )


def check_folder(folder: Path) -> None:
    """Raises: :class:`FileError` unless files can be put into ``folder``, which may have to be made. Touches nothing."""
    folder = Path(folder).expanduser().absolute()
    modes = ((place, _mode(place, folder)) for place in (folder, *folder.parents))
    standing, mode = next(((place, mode) for place, mode in modes if mode is not None), (None, 0))
    if standing is None:  # a drive's letter that is no drive
        raise FileError(f"{folder.anchor} does not exist: choose another place.")
    if not stat.S_ISDIR(mode):
        raise FileError(f"{standing} is a file, not a folder: choose another place.")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise FileError(f"{standing} cannot be written: choose another folder or change its permissions.")


def check_output_file(path: Path | None) -> None:
    """Raises: :class:`FileError` unless a file can be written at ``path``. Touches nothing."""
    if path is None:
        return
    mode = _mode(path, path)
    if mode is not None and stat.S_ISDIR(mode):
        raise FileError(f"{path} is a folder: give the name of a file.")
    check_folder(path.parent)


def _mode(place: Path, wanted: Path) -> int | None:
    """What ``place`` is, ``None`` if it is not there. ``Path.exists`` would raise, or not, by Python's version.

    Raises: :class:`FileError`, about ``wanted``, for a name that is too long, or a folder that cannot be looked into.
    """
    with explained_os_errors(wanted, "use"):
        try:
            return place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None


def find_identity(text: str, folder: Path) -> Identity:
    """The identity called ``text`` in the library ``folder``, or the one in the file ``text``.

    Raises: :class:`IdentityError` if there is none or it is broken, :class:`FileError` for a file that is not there.
    """
    from celeb_basis.identities.format import load_identity
    from celeb_basis.identities.library import Library

    path = Path(text).expanduser()
    if path.suffix.lower() == ".safetensors" or len(path.parts) > 1:
        return load_identity(path)
    return Library(folder).load(text)


def bases_for(host: Host, names: NameList, components: int) -> list[Basis]:
    """The host's bases, through the cache."""
    from celeb_basis.basis.build import BasisOptions, build_bases

    options = BasisOptions(components=components)
    built = build_bases(host.text_encoders, names, options, cache=bases_cache())
    return [one.basis for one in built]


def bases_cache() -> Path:
    """Folder of the bases that were built before."""
    return cache_folder() / "bases"


def fitted_identity(identity: Identity, host: Host, arguments: argparse.Namespace, screen: Console) -> Identity:
    """``identity`` for the loaded checkpoint: as it is, or expanded anew in the basis of another checkpoint of its family.

    Raises: :class:`WrongModelError` for another family or another names list.
    """
    from celeb_basis.identities.expand import check_model, expand_identity, stands_for_itself

    check_model(identity, host.info)
    if identity.metadata.base_sha256 == host.info.sha256 or stands_for_itself(identity.metadata):
        return identity
    components = int(identity.coefficients[0].shape[1])
    bases = bases_for(host, open_names(arguments), components)
    fitted = expand_identity(identity, bases, host.info)
    screen.note(
        f"{identity.name} was made for {identity.metadata.base_model or 'another model'} and is expanded anew "
        f"for {host.info.name}."
    )
    return fitted


def hush_libraries() -> None:
    """Keep the libraries' own bars and remarks off the screen: ours say what happens."""
    import warnings

    try:
        import diffusers
        import transformers
    except ImportError:  # load_host says what to install
        return
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|torch|skimage)(\.|$)")
