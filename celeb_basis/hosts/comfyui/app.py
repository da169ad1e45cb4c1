"""ComfyUI, the program around the models: its folders, and progress and interruption of its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from celeb_basis.errors import LicenseError, MissingPackageError
from celeb_basis.events import DrawingNames, Event, Preparing, StepDone
from celeb_basis.faces.packages import install_command, missing_packages
from celeb_basis.faces.packs import obtain_pack
from celeb_basis.hosts.comfyui.modules import comfy_module, memory_management
from celeb_basis.identities.library import Library
from celeb_basis.miniature import NAME, shipped_model_names
from celeb_basis.names.lists import NameList, shipped_names
from celeb_basis.training.run import PortraitsFound

if TYPE_CHECKING:
    from celeb_basis.faces.network import FaceNetwork

PEOPLE = "celeb_basis"
"""ComfyUI's name for the folders of people, also in ``extra_model_paths.yaml``."""


def register_folders() -> None:
    """Let ComfyUI know the folder of people, unless the user has set one; called once, when the nodes are loaded."""
    paths = comfy_module("folder_paths")
    paths.add_model_folder_path(PEOPLE, str(Path(paths.models_dir) / PEOPLE))


def library() -> Library:
    """The people: those of the first folder that ComfyUI has for them.

    It is ``models/celeb_basis``, or what ``extra_model_paths.yaml`` sets, which may be another program's library.
    """
    return Library(Path(comfy_module("folder_paths").get_folder_paths(PEOPLE)[0]))


def embeddings_folder() -> Path:
    """Where embedding files of people are written: below ComfyUI's own folder, which it searches with all below it."""
    return Path(comfy_module("folder_paths").get_folder_paths("embeddings")[0]) / PEOPLE


def name_lists(checkpoint: str) -> list[NameList]:
    """The lists of celebrities' names that people may have been learned with, the one for ``checkpoint`` first."""
    lists = [shipped_names(), shipped_model_names()]
    return lists[::-1] if checkpoint == NAME else lists


def face_network(pack: str, *, agreed: bool) -> FaceNetwork:
    """The face models of a pack, downloaded if they are missing and their license was accepted.

    Packs of other nodes are found in ``models/insightface``.

    Raises:
        MissingPackageError: insightface or what it needs is not installed.
        LicenseError: The pack would have to be downloaded, and its license was not accepted.
        FacePackError: The pack is incomplete or broken.
        DownloadError: The download failed.
    """
    if missing := missing_packages():
        raise MissingPackageError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, so no face can be found: run "
            f"{install_command(*missing)} and start ComfyUI again."
        )
    from celeb_basis.faces.insight import InsightFaceNetwork

    try:
        obtained = obtain_pack(pack, others=_insightface_folders(), agreed=agreed)
    except LicenseError as error:
        how = str(error).replace("set CELEB_BASIS_ACCEPT_LICENCE to its name", "switch accept_face_license on")
        raise LicenseError(how) from error
    return InsightFaceNetwork(obtained.folder)


def _insightface_folders() -> tuple[Path, ...]:
    """Where other nodes store face model packs, which are hundreds of megabytes."""
    paths = comfy_module("folder_paths")
    known: Mapping[str, Any] = paths.folder_names_and_paths
    named = [Path(place) for place in known.get("insightface", ([],))[0]]
    return tuple(dict.fromkeys([Path(paths.models_dir) / "insightface", *named]))


class NodeProgress:
    """Progress of one node on the page, and the user's wish to stop it.

    Args:
        node: The node's id; ``None`` shows nothing.
    """

    def __init__(self, node: str | None) -> None:
        self._node = node
        self._bar = comfy_module("comfy.utils").ProgressBar(1, node_id=node)

    def say(self, text: str) -> None:
        """Show a line of text on the node, where this ComfyUI can."""
        server = getattr(comfy_module("server").PromptServer, "instance", None)
        send = getattr(server, "send_progress_text", None)
        if send is not None and self._node is not None:
            send(text, self._node)

    def show(self, name: str, event: Event) -> None:
        """Show an event of training on the node."""
        if isinstance(event, PortraitsFound):
            from PIL import Image

            picture = Image.fromarray(next(iter(event.portraits.values()))[0].picture)
            self._bar.update_absolute(0, 1, ("JPEG", picture, 256))
        elif isinstance(event, DrawingNames):
            self._report("Generating known celebrities, once for this checkpoint", event.done, event.total)
        elif isinstance(event, Preparing):
            self._report("Preparing the views", event.done, event.total)
        elif isinstance(event, StepDone):
            self._report(f"Learning {name}: step", event.step, event.total, _remaining(event.seconds_left))

    def _report(self, text: str, done: int, total: int, ending: str = "") -> None:
        self._bar.update_absolute(done, total)
        self.say(f"{text} {done} of {total}{ending}")

    def interrupted(self) -> bool:
        """Whether the user has pressed Cancel."""
        return bool(memory_management().processing_interrupted())

    def stop(self) -> NoReturn:
        """End the node as one that was interrupted."""
        memory_management().throw_exception_if_processing_interrupted()
        raise memory_management().InterruptProcessingException()


def _remaining(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f", {minutes}:{rest:02} left"
