"""Face model packs: finding them, checking that they are complete, and downloading them on first use.

A pack is a folder with the ``.onnx`` files of a detector and a recognizer, in insightface's layout. What is verified:

* the zip of a known pack is compared with its published SHA-256, so that a truncated or modified download is refused. For
  any other zip, the user may give a checksum;
* next to the unpacked files, :data:`MANIFEST` records their sizes and SHA-256; sizes are compared whenever the pack is
  found, digests whenever it is loaded, so that later damage is noticed;
* a folder that was unpacked by hand has no manifest: only the presence and plausible size of the files known by name are
  checked, and insightface's own parsing decides.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from celeb_basis.download import Progress, fetch
from celeb_basis.errors import CelebBasisError, DownloadError, FacePackError, FileError, LicenseError
from celeb_basis.files import cache_folder, expanded, explained_os_errors, now, replace_file, sha256_of_file, write_json
from celeb_basis.reading import MAX_HEADER, read_json

_log = logging.getLogger(__name__)

MANIFEST = "celeb-basis-pack.json"
"""Name of the record next to a pack's files. (``manifest.json`` has a meaning in insightface.)"""

_MAX_UNPACKED = 4 << 30  # bytes

RELEASES = "https://github.com/deepinsight/insightface/releases/download/v0.7"

AGREEMENT = "CELEB_BASIS_ACCEPT_LICENCE"
"""Environment variable with the names of packs, separated by commas, whose licenses the user accepts."""

_INSIGHTFACE_LICENCE = "insightface's pretrained models are available for non-commercial research purposes only."
_INSIGHTFACE_TERMS = "https://github.com/deepinsight/insightface#license"


@dataclass(frozen=True)
class PackSource:
    """A pack that can be downloaded."""

    name: str
    files: tuple[str, str]
    """File names of detector and recognizer."""
    archive_sha256: str
    archive_bytes: int
    licence: str
    """One sentence that front ends show before the download, which starts only after the user has agreed."""
    terms: str
    """Address of the license in its owner's words."""
    about: str

    @property
    def url(self) -> str:
        """Address of the zip."""
        return f"{RELEASES}/{self.name}.zip"


# Digests and sizes as published on the release page of insightface's model zoo and repeated by many projects.
SOURCES: Mapping[str, PackSource] = {
    source.name: source
    for source in (
        PackSource(
            name="buffalo_l",
            files=("det_10g.onnx", "w600k_r50.onnx"),
            archive_sha256="80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
            archive_bytes=288_621_354,
            licence=_INSIGHTFACE_LICENCE,
            terms=_INSIGHTFACE_TERMS,
            about="ResNet-50 trained on WebFace600K",
        ),
        PackSource(
            name="antelopev2",
            files=("scrfd_10g_bnkps.onnx", "glintr100.onnx"),
            archive_sha256="8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
            archive_bytes=360_662_982,
            licence=_INSIGHTFACE_LICENCE,
            terms=_INSIGHTFACE_TERMS,
            about="ResNet-100 trained on Glint360K, as the paper uses",
        ),
    )
}

MINIATURE = "miniature"
"""Name of the small pack that ships with the package, for the demo, the tests and quick trials."""

SHIPPED_PACKS = Path(__file__).parents[1] / "miniature" / "face_pack"
"""Folder that holds the shipped pack; its README names the origin and the licenses of the networks."""

_SMALLEST_MODEL = 100_000
"""Bytes. Anything smaller is a web page or a Git LFS pointer saved under a model's name."""


class _Recorded(NamedTuple):
    """A file's entry in the manifest."""

    size: int
    sha256: str


@dataclass(frozen=True)
class FacePack:
    """A pack on this machine."""

    name: str
    folder: Path
    licence: str = ""
    """One sentence, if the license is known."""

    def verify(self) -> None:
        """Compare every file with the SHA-256 in the manifest, if there is one. Reads all files.

        Raises:
            FacePackError: If a file has changed.
        """
        for name, recorded in _manifest_files(self.folder).items():
            if sha256_of_file(self.folder / name) != recorded.sha256:
                raise FacePackError(
                    f"{self.folder / name} has changed since it was installed: delete {self.folder} and get the pack "
                    f"{self.name} again."
                )


def pack_folders(root: Path | None = None, others: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Folders in which packs are looked for, in order.

    ``root``, or else the environment's, our cache, insightface's own, and ``others``, where further programs store theirs; the
    shipped pack's folder is always the last.
    """
    if root is not None:
        return (Path(root), SHIPPED_PACKS)
    chosen = os.environ.get("CELEB_BASIS_FACES")
    home = Path(os.path.expanduser("~/.insightface"))
    return (
        *([expanded(chosen)] if chosen else []),
        download_folder(),
        *([home / "models"] if home.is_absolute() else []),  # not for a user without a home folder
        *others,
        SHIPPED_PACKS,
    )


def _places(folder: Path, name: str) -> tuple[Path, ...]:
    """Where the pack ``name`` is if ``folder`` is one in which packs are looked for.

    Programs disagree on whether that is the folder of the packs or the one with a folder ``models``; and insightface's own
    download leaves antelopev2 a folder too deep.
    """
    named = (folder,) if folder.name == name else ()
    return tuple(one for place in (folder / name, folder / "models" / name, *named) for one in (place, place / name))


def download_folder() -> Path:
    """Where downloaded packs are stored: ``<cache>/faces/models``."""
    return cache_folder() / "faces" / "models"


def licence_to_agree_to(name: str, root: Path | None = None, others: Sequence[Path] = ()) -> PackSource | None:
    """The source of the pack ``name`` if its license must be accepted before it is downloaded.

    ``None`` for a pack that is on this machine, one without such a license, and one that :data:`AGREEMENT` names.
    """
    source = SOURCES.get(name)
    if source is None or name in [one.strip() for one in os.environ.get(AGREEMENT, "").split(",")]:
        return None
    try:
        find_pack(name, root, others)
    except FacePackError:
        return source
    return None


def not_agreed(source: PackSource, how: str = f"set {AGREEMENT} to its name") -> LicenseError:
    """The error for a license that was not accepted; ``how`` says how to accept it, after "To agree, "."""
    return LicenseError(
        f"The face models {source.name} are not on this machine, and their license must be accepted before they are "
        f"downloaded ({source.archive_bytes / 1e6:.0f} MB): {source.licence} See {source.terms}. To agree, {how}; or "
        "choose another face model pack."
    )


def find_pack(name_or_folder: str | Path, root: Path | None = None, others: Sequence[Path] = ()) -> FacePack:
    """Find a pack on this machine by its name, or by its folder. Never downloads.

    Args:
        name_or_folder: The pack.
        root: Where packs are looked for instead of :func:`pack_folders`.
        others: Folders of other programs, in which it is looked for as well.

    Raises:
        FacePackError: If there is none, or it is incomplete; the text says which files are missing.
    """
    name = str(name_or_folder)
    as_folder = expanded(name)
    if name_or_folder in ("", ".", ".."):
        raise FacePackError(f"{name!r} is not a face model pack: give {_choices()} or a folder.")
    # "buffalo_l" is a name even if the current directory happens to contain a folder of that name.
    if isinstance(name_or_folder, Path) or as_folder.is_absolute() or len(as_folder.parts) > 1:
        return check_pack(as_folder)
    candidates = [place for folder in pack_folders(root, others) for place in _places(folder, name)]
    if name not in SOURCES and name != MINIATURE:
        candidates.append(as_folder)
    problem = FacePackError(_missing(name, root))
    incomplete: list[CelebBasisError] = []
    for folder in candidates:
        if _holds_networks(folder):
            try:
                return check_pack(folder)
            except (FacePackError, FileError) as error:
                incomplete.append(error)  # another folder may contain a complete one
    raise incomplete[0] if incomplete else problem


def _holds_networks(folder: Path) -> bool:
    """Whether a pack may be in ``folder``, complete or not; a folder that cannot be read holds none."""
    try:
        return folder.is_dir() and ((folder / MANIFEST).exists() or bool(onnx_files(folder)))
    except OSError:
        return False


def check_pack(folder: Path) -> FacePack:
    """The pack in ``folder``, if its files are there and have the known or recorded sizes.

    Raises:
        FacePackError: If not; the text says what is missing.
        FileError: It cannot be read.
    """
    folder = expanded(folder).absolute()
    with explained_os_errors(folder, "read"):
        return _checked(folder)


def _checked(folder: Path) -> FacePack:
    if not folder.is_dir():
        raise FacePackError(
            f"There is no folder {folder}: give {_choices()}, or the folder that holds a pack's .onnx files."
        )
    if not onnx_files(folder) and onnx_files(folder / folder.name):
        folder = folder / folder.name  # as insightface leaves antelopev2
    source = SOURCES.get(folder.name)
    recorded = _manifest_files(folder)
    wanted = {name: entry.size for name, entry in recorded.items()}
    if source is not None:
        wanted = {name: wanted.get(name, 0) for name in (*source.files, *wanted)}
    for name, size in wanted.items():
        path = folder / name
        if not path.is_file():
            raise FacePackError(f"The face model pack in {folder} lacks {name}: {_remedy(folder, source)}.")
        found = path.stat().st_size
        if (size and found != size) or found < min(_SMALLEST_MODEL, size or _SMALLEST_MODEL):
            raise FacePackError(
                f"{path} is incomplete ({found:,} bytes): delete it and get the pack again; {_remedy(folder, source)}."
            )
    if len(onnx_files(folder)) < 2:
        raise FacePackError(
            f"{folder} does not contain the .onnx files of a detector and a recognizer: {_remedy(folder, source)}."
        )
    return FacePack(folder.name, folder, source.licence if source else "")


def onnx_files(folder: Path) -> list[Path]:
    """The networks in a pack's folder; those that the pack is known for first, so that no others have to be loaded."""
    known = {name for source in SOURCES.values() for name in source.files}
    return sorted(folder.glob("*.onnx"), key=lambda path: (path.name not in known, path.name))


def obtain_pack(
    name: str,
    *,
    root: Path | None = None,
    others: Sequence[Path] = (),
    progress: Progress | None = None,
    sha256: str | None = None,
    url: str | None = None,
    agreed: bool = False,
) -> FacePack:
    """Find a pack, or download it on first use.

    Args:
        name: Name of the pack; any name with ``url``.
        root: The folder for ``NAME/*.onnx``; the cache by default.
        others: Folders of other programs, in which it is looked for as well.
        progress: Called while downloading.
        sha256: Checksum of the zip at ``url``. Without one, a zip of the user's own is not verified.
        url: Address of a mirror, or of a zip of the user's own.
        agreed: Whether the user was shown the pack's license and accepted it; not needed for a pack that is already here.

    Raises:
        FacePackError: For an unknown name.
        LicenseError: If the pack's license was not accepted.
        DownloadError: If the download fails; the text says which files to download by hand and where to put them.
    """
    if Path(name).name != name or name in ("", ".", ".."):
        return find_pack(Path(name))
    try:
        return find_pack(name, root, others)
    except FacePackError:
        source = SOURCES.get(name)
        if source is None and url is None:
            raise
    target = (Path(root) if root is not None else download_folder()) / name
    if not agreed and (asking := licence_to_agree_to(name, root, others)) is not None:
        raise not_agreed(asking)
    url = url or (source.url if source else "")
    expected = sha256 or (source.archive_sha256 if source else None)
    archive = target.parent / f".{name}.zip"
    try:
        fetch(url, archive, sha256=expected, progress=progress)
    except DownloadError as error:
        raise DownloadError(f"{error} By hand: {_by_hand(target, source, url)}.") from error
    details = {"licence": source.licence, "licence_agreed": now()} if source else {}
    unpack(archive, target, files=source.files if source else None, origin=url, **details)
    with explained_os_errors(archive, "delete"):
        archive.unlink(missing_ok=True)
    return check_pack(target)


def unpack(
    archive: Path, target: Path, *, files: tuple[str, ...] | None = None, origin: str = "", **more: object
) -> None:
    """Unpack the ``.onnx`` files of a pack's zip, wherever they are in it, into the new folder ``target``.

    Folders inside the zip are ignored, so that no path in it can lead out of ``target``.

    Args:
        archive: The zip.
        target: The pack's folder.
        files: If given, only these are unpacked, and all of them are required.
        origin: Where the zip comes from, for the manifest.
        more: Further entries of the manifest.

    Raises:
        FacePackError: For a damaged zip or one that lacks a file.
    """
    try:
        with zipfile.ZipFile(archive) as zipped, new_pack(target) as folder:
            members = {
                PurePosixPath(info.filename).name: info
                for info in zipped.infolist()
                if not info.is_dir() and info.filename.endswith(".onnx") and "\\" not in info.filename
            }
            missing = [name for name in files or () if name not in members]
            if missing or not members:
                raise FacePackError(
                    f"{archive.name} from {origin or archive} does not contain {', '.join(missing) or 'any .onnx file'}, so "
                    "it is not the requested pack: check the address."
                )
            if sum(members[name].file_size for name in files or members) > _MAX_UNPACKED:
                raise FacePackError(f"{origin or archive} is too large for a pack: check the address.")
            for name in files or tuple(members):
                with zipped.open(members[name]) as packed, open(folder / name, "wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
            write_manifest(folder, target.name, origin, **more)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise FacePackError(f"{archive} is not a readable zip: delete it and try again.") from error


@contextmanager
def new_pack(target: Path) -> Iterator[Path]:
    """Yield an empty folder next to ``target``; on success, its files are moved into ``target``, one by one.

    Files of the same names are replaced, others stay. The manifest is moved last, so a pack with a manifest is complete.

    Raises:
        FileError: If the folder cannot be written.
    """
    target = Path(target)
    with explained_os_errors(target, "write"):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=".tmp-"))
        try:
            yield folder
            target.mkdir(exist_ok=True)
            (target / MANIFEST).unlink(missing_ok=True)
            for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
                replace_file(path, target / path.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, name: str, origin: str, **more: object) -> None:
    """Record sizes and SHA-256 of the ``.onnx`` files in ``folder``."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        for path in sorted(folder.glob("*.onnx"))
    }
    write_json(folder / MANIFEST, {"pack": name, "origin": origin, "files": files, **more})


def read_manifest(folder: Path) -> dict[str, object]:
    """A pack's manifest; empty if there is none.

    Raises:
        FacePackError: If it is damaged.
    """
    try:
        return dict(read_json(folder / MANIFEST, most_bytes=MAX_HEADER))
    except (FileError, ValueError, TypeError) as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise FacePackError(f"{folder / MANIFEST} cannot be read: delete {folder} and get the pack again.") from error


def _manifest_files(folder: Path) -> dict[str, _Recorded]:
    """The manifest's entries by file name; empty if there is no manifest."""
    try:
        files: Any = read_manifest(folder).get("files", {})
        return {Path(name).name: _Recorded(int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FacePackError(f"{folder / MANIFEST} cannot be read: delete {folder} and get the pack again.") from error


def _choices() -> str:
    return ", ".join([*SOURCES, MINIATURE])


def _missing(name: str, root: Path | None) -> str:
    folders = pack_folders(root)
    if name == MINIATURE:
        return (
            f"The face model pack {name}, which comes with celeb-basis, is not in {SHIPPED_PACKS / name}: install "
            "celeb-basis again, from a whole copy of its repository."
        )
    if source := SOURCES.get(name):
        return f"The face model pack {name} is not on this machine: {_by_hand(folders[0] / name, source, source.url)}."
    places = " or ".join(str(folder / name) for folder in folders[:-1])
    return (
        f"There is no face model pack {name!r}: choose {_choices()}, give a folder, or put its .onnx files in {places}."
    )


def _remedy(folder: Path, source: PackSource | None) -> str:
    if source is not None:
        return _by_hand(folder, source, source.url)
    return "put the pack's files there or choose another pack"


def _by_hand(folder: Path, source: PackSource | None, url: str) -> str:
    files = " and ".join(source.files) if source else "its .onnx files"
    return f"download {url}, and put {files} from it into {folder}"
