"""The face models of the chosen pack: loaded when a photo first needs them, downloaded once their license is agreed to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import FaceError, FacePackError
from celeb_basis.faces.face_search import find_faces
from celeb_basis.faces.network import Floats, Pixels
from celeb_basis.faces.packages import check_packages
from celeb_basis.faces.packs import SOURCES, PackSource, find_pack, licence_to_agree_to, not_agreed, obtain_pack
from celeb_basis.faces.portraits import quality_warnings
from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.photos import open_photo
from celeb_basis.webui.schemas import FoundFace, FoundFaces

if TYPE_CHECKING:
    from celeb_basis.download import Progress
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.webui.jobs import Job

_HOW_TO_AGREE = 'press "I agree" on the tab Celeb Basis, or send "accept_licence": true over the API'


class FaceModels:
    """One face network for all threads. When another pack is chosen in the settings, that one is loaded.

    Args:
        pack: Answers the name or folder of the pack that is chosen now.
    """

    def __init__(self, pack: Callable[[], str]) -> None:
        self._pack = pack
        self._others = other_programs_folders()
        self._lock = threading.Lock()
        self._loaded: tuple[str, InsightFaceNetwork] | None = None
        self._agreed: set[str] = set()

    def agree(self) -> None:
        """Note that the user was shown the license of the chosen pack and agrees to it."""
        self._agreed.add(self._pack())

    def check_license(self) -> None:
        """Raise unless the chosen pack is here, or may be downloaded.

        Raises:
            LicenseError: The pack would have to be downloaded, and its license was not agreed to.
        """
        if (source := self._to_agree_to()) is not None:
            raise not_agreed(source, _HOW_TO_AGREE)

    def network(self, progress: Progress | None = None) -> InsightFaceNetwork:
        """The network of the chosen pack, downloaded if it is missing and its license was agreed to.

        Raises:
            MissingPackageError: insightface or what it needs is not installed.
            FacePackError: The pack is incomplete or broken.
            LicenseError: The license was not agreed to.
            DownloadError: The download failed.
        """
        with self._lock:
            pack = self._pack()
            if self._loaded is None or self._loaded[0] != pack:
                from celeb_basis.faces.insight import InsightFaceNetwork

                check_packages()
                self.check_license()
                obtained = obtain_pack(pack, others=self._others, progress=progress, agreed=pack in self._agreed)
                self._loaded = pack, InsightFaceNetwork(obtained.folder)
            return self._loaded[1]

    @property
    def name(self) -> str | None:
        """Name of the chosen pack's network, as files name it; ``None`` until a photo has needed it."""
        loaded = self._loaded
        return loaded[1].name if loaded is not None and loaded[0] == self._pack() else None

    def status(self) -> dict[str, Any]:
        """What a page shows before the first photo: the pack, whether it is here, its size, its license, what to do."""
        pack = self._pack()
        source = SOURCES.get(pack)
        status: dict[str, Any] = {
            "pack": pack,
            "present": True,
            "problem": "",
            "licence": source.licence if source else "",
            "terms": source.terms if source else "",
            "to_agree": False,
            "download_bytes": source.archive_bytes if source else 0,
        }
        try:
            check_packages()
            find_pack(pack, others=self._others)
        except FacePackError as error:
            status |= {"present": False, "problem": "" if source else str(error)}
        except Exception as error:  # whatever is broken: the page must appear and say so
            status |= {"present": False, "problem": str(error)}
        status["to_agree"] = not status["problem"] and self._to_agree_to() is not None
        return status

    def find_faces(self, photo: bytes | Pixels, name: str = "the photo") -> FoundFaces:
        """Every face of a photo, with warnings about what may cost likeness.

        Raises:
            PhotoError: ``photo`` is no picture file.
            CelebBasisError: What :meth:`network` raises.
        """
        picture = open_photo(photo, name=name) if isinstance(photo, bytes) else photo
        network = self.network()
        search = find_faces(picture, network)
        problem = ""
        try:
            search.choose(None, name)
        except FaceError as error:
            problem = str(error)
        faces = []
        for face in search.faces:
            aligned = search.align(face, network)
            warnings = search.warnings + quality_warnings(search.picture, face, [face], aligned)
            faces.append(FoundFace(face, warnings, aligned))
        return FoundFaces(search.picture, tuple(faces), problem)

    def vector(self, face: FoundFace) -> Floats:
        """``(512,)`` face vector of a face from :meth:`find_faces`.

        Raises:
            CelebBasisError: What :meth:`network` raises.
        """
        assert face.aligned is not None
        vector: Floats = self.network().embed([face.aligned])[0]
        return vector

    def _to_agree_to(self) -> PackSource | None:
        pack = self._pack()
        return None if pack in self._agreed else licence_to_agree_to(pack, others=self._others)


def download_progress(job: Job) -> Progress:
    """A callback that shows a download's progress in ``job`` and ends it when the job is interrupted.

    What has arrived stays on the disk, and the next download goes on from there.
    """

    def report(done: int, total: int | None) -> None:
        job.check_interrupted()
        job.report("Downloading the face models", step=done, total=total or 0)

    return report


def other_programs_folders() -> tuple[Path, ...]:
    """Where other programs that use insightface store its packs, which are hundreds of megabytes.

    ReActor, ControlNet and the forks use ``models/insightface`` of the WebUI, or ``models/insightface/models``; ComfyUI, which
    often stands beside the WebUI, has a folder of the same name.
    """
    try:
        paths = host_module("paths")
        models, data = Path(paths.models_path), Path(paths.data_path)
    except Exception:  # no WebUI, or a fork without these
        return ()
    beside = (
        data.parent / "ComfyUI",
        data.parent / "ComfyUI_windows_portable" / "ComfyUI",
        data.parent.parent / "ComfyUI",
    )
    return tuple(dict.fromkeys(place / "insightface" for place in (models, *(one / "models" for one in beside))))
