"""The face networks, loaded when a photo first needs them, and what they find in one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import FaceError, FacePackError
from celeb_basis.faces.types import FaceNetwork, Pixels
from celeb_basis.webui.schemas import FoundFace, FoundFaces

if TYPE_CHECKING:
    from celeb_basis.download import Progress
    from celeb_basis.faces.packs import PackSource
    from celeb_basis.webui.jobs import Job

_HOW_TO_AGREE = 'press "I agree" on the tab Celeb Basis, or send "accept_licence": true over the API'


class Faces:
    """One face network for all threads; another pack in the settings loads another one.

    Parameters: ``pack`` answers the name or folder that is chosen now.
    """

    def __init__(self, pack: Callable[[], str]) -> None:
        self._pack = pack
        self._lock = threading.Lock()
        self._loaded: tuple[str, FaceNetwork] | None = None
        self._agreed: set[str] = set()

    def agree(self) -> None:
        """The user was shown the licence of the chosen pack and agrees to it."""
        self._agreed.add(self._pack())

    def check_licence(self) -> None:
        """Raise unless the chosen pack is here, or may be downloaded.

        Raises: :class:`LicenseError`.
        """
        from celeb_basis.faces.packs import not_agreed

        if (source := self._to_agree_to()) is not None:
            raise not_agreed(source, _HOW_TO_AGREE)

    def network(self, progress: Progress | None = None) -> FaceNetwork:
        """The network of the chosen pack, which is downloaded if it is not there and its licence was agreed to.

        Raises: :class:`MissingPackageError` without insightface, :class:`FacePackError`, :class:`LicenseError`,
        :class:`DownloadError`.
        """
        with self._lock:
            pack = self._pack()
            if self._loaded is None or self._loaded[0] != pack:
                from celeb_basis.faces.insight import InsightFaceNetwork
                from celeb_basis.faces.packs import obtain_pack

                _check_packages()
                self.check_licence()
                obtained = obtain_pack(pack, progress=progress, agreed=pack in self._agreed)
                self._loaded = pack, InsightFaceNetwork(obtained.folder)
            return self._loaded[1]

    def status(self) -> dict[str, Any]:
        """What a page says before the first photo: the pack, whether it is there, its size, licence and remedy."""
        from celeb_basis.faces.packs import SOURCES, find_pack

        pack = self._pack()
        source = SOURCES.get(pack)
        told: dict[str, Any] = {
            "pack": pack,
            "present": True,
            "problem": "",
            "licence": source.licence if source else "",
            "terms": source.terms if source else "",
            "to_agree": False,
            "download_bytes": source.archive_bytes if source else 0,
        }
        try:
            _check_packages()
            find_pack(pack)
        except FacePackError as error:
            told |= {"present": False, "problem": "" if source else str(error)}
        except Exception as error:  # whatever is broken: the page must appear and say so
            told |= {"present": False, "problem": str(error)}
        told["to_agree"] = not told["problem"] and self._to_agree_to() is not None
        return told

    def _to_agree_to(self) -> PackSource | None:
        from celeb_basis.faces.packs import licence_to_agree_to

        pack = self._pack()
        return None if pack in self._agreed else licence_to_agree_to(pack)

    def find(self, photo: bytes | Pixels, name: str = "the photo") -> FoundFaces:
        """Every face of a photo, with warnings.

        Raises: :class:`PhotoError` for what is no picture; what :meth:`network` raises.
        """
        from celeb_basis.faces.portraits import choose_face, quality_warnings
        from celeb_basis.photos import open_photo

        picture = open_photo(photo, name=name) if isinstance(photo, bytes) else photo
        network = self.network()
        found = network.detect(picture)
        problem = ""
        try:
            choose_face(found, None, name)
        except FaceError as error:
            problem = str(error)
        faces = tuple(
            FoundFace(face, quality_warnings(picture, face, [face], network.align(picture, face.landmarks)))
            for face in found
        )
        return FoundFaces(picture, faces, problem)


def told_download(job: Job) -> Progress:
    """What tells ``job`` how far a download is, and ends it when the job is interrupted; what has arrived is kept."""

    def tell(done: int, total: int | None) -> None:
        job.check_interrupted()
        job.say("Downloading the face models", step=done, total=total or 0)

    return tell


def _check_packages() -> None:
    """Raise :class:`MissingPackageError` that says what to do in the WebUI, without importing anything."""
    from importlib.util import find_spec

    from celeb_basis.errors import MissingPackageError

    missing = [name for name in ("insightface", "onnxruntime", "onnx") if find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"The package {missing[0]} is missing, so no face can be found: restart the WebUI once while it is online and "
            "without --skip-install, and the extension installs it."
        )
