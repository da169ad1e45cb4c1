"""ComfyUI, the program around the models: folders, progress and interruption, and learning people."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from PIL import Image

from celeb_basis.errors import (
    ExportError,
    HostError,
    LicenseError,
    MissingPackageError,
    NotFiniteError,
    TrainingError,
    printable,
)
from celeb_basis.events import DrawingNames, Event, Preparing, StepDone, Warned, follow
from celeb_basis.exports.textual_inversion import export_identity
from celeb_basis.faces.packages import install_command, missing_packages
from celeb_basis.faces.packs import obtain_pack
from celeb_basis.files import check_space, explained_os_errors, now, sha256_of_file
from celeb_basis.hosts.comfyui.modules import comfy_module, memory_management, no_interruption_by_layers
from celeb_basis.identities.folder_lock import sweep
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import Identity, identity_from_bytes
from celeb_basis.identities.library import Library, Listing, name_key
from celeb_basis.miniature import CELEBRITY_FACES, NAME, shipped_model_names
from celeb_basis.names.lists import NameList, shipped_names
from celeb_basis.prompts.syntax import check_new_name
from celeb_basis.settings import TrainingSettings, preset
from celeb_basis.training.run import PhotoInput, PortraitsFound, TrainingSession, TrainingTask
from celeb_basis.training.run_lock import is_running, running
from celeb_basis.training.state import StateSummary, read_summary, unfinished_runs

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.faces.network import FaceNetwork, Pixels

_log = logging.getLogger(__name__)

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
        self._stopped = False

    def say(self, text: str) -> None:
        """Show a line of text on the node, where this ComfyUI can."""
        server = getattr(comfy_module("server").PromptServer, "instance", None)
        send = getattr(server, "send_progress_text", None)
        if send is not None and self._node is not None:
            send(text, self._node)

    def show(self, name: str, event: Event) -> None:
        """Show an event of training on the node."""
        if isinstance(event, PortraitsFound):
            picture = Image.fromarray(next(iter(event.portraits.values()))[0].picture)
            self._update(0, 1, ("JPEG", picture, 256))
        elif isinstance(event, DrawingNames):
            self._report("Generating known celebrities, once for this checkpoint", event.done, event.total)
        elif isinstance(event, Preparing):
            self._report("Preparing the views", event.done, event.total)
        elif isinstance(event, StepDone):
            self._report(f"Learning {name}: step", event.step, event.total, _remaining(event.seconds_left))

    def _report(self, text: str, done: int, total: int, ending: str = "") -> None:
        self._update(done, total)
        self.say(f"{text} {done} of {total}{ending}")

    def _update(self, *values: Any) -> None:
        """Move the bar. ComfyUI ends the node there if the user has pressed Cancel; a run is to be saved first."""
        try:
            self._bar.update_absolute(*values)
        except memory_management().InterruptProcessingException:
            self._stopped = True

    def interrupted(self) -> bool:
        """Whether the user has pressed Cancel."""
        return self._stopped or bool(memory_management().processing_interrupted())

    def stop(self) -> NoReturn:
        """End the node as one that was interrupted."""
        memory_management().throw_exception_if_processing_interrupted()
        raise memory_management().InterruptProcessingException()


def _remaining(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f", {minutes}:{rest:02} left"


# Learning

NO_CONSENT = "Consent is missing: switch consent on if everyone in the photo has agreed to this, or it is you."


@dataclass(frozen=True)
class LearnRequest:
    """What the node's widgets ask for."""

    name: str
    photos: Sequence[Any]
    """Images ``(H, W, 3)`` of the person, numbers from 0 to 1."""
    preset: str = "balanced"
    steps: int = 0
    """Optimizer steps; 0 is the preset's."""
    size: int = 0
    """Side of the training images in pixels; 0 is the checkpoint's own."""
    consent: bool = False
    consent_note: str = ""
    replace: bool = False
    """Whether a person of this name is learned again; else the one in the library is used."""
    faces: str = "buffalo_l"
    accept_face_license: bool = False
    embedding: bool = True
    """Whether an embedding file is written as well."""

    def settings(self) -> TrainingSettings:
        """The preset with the changes that were asked for."""
        changes = {"steps": self.steps, "size": self.size}
        return preset(self.preset).changed({name: value for name, value in changes.items() if value})


def learn(request: LearnRequest, model: Callable[[], DiffusionModel], progress: NodeProgress) -> tuple[Identity, str]:
    """Learn a person and add the person to the library, or use the one who is there.

    Args:
        request: What is asked for.
        model: Opens the connected models; only called if there is something to learn.
        progress: Shows the progress, and knows of the user's wish to stop.

    Returns:
        The person, and the text that names the embedding file in ComfyUI's own prompts; empty if none was written.

    Raises:
        TrainingError: Consent is missing.
        CelebBasisError: For whatever is wrong with the photos, the name or the models.
    """
    if not request.consent:
        raise TrainingError(NO_CONSENT)
    name, people = check_new_name(request.name), library()
    known = Listing(people.folder).find(name)
    if known is not None and not request.replace:
        identity = people.load(known[0])
        progress.say(f"<{identity.name}> is in the library already. To learn again, set existing to that.")
        return identity, _embedding_file(identity, request)
    check_space(people.folder)
    # ComfyUI runs nodes in inference mode, in which nothing can be learned.
    with torch.inference_mode(False), torch.enable_grad(), tempfile.TemporaryDirectory() as folder:
        photos = _saved(request.photos, Path(folder))
        identity = _learned(name, photos, request, model(), progress)
    return identity, _embedding_file(identity, request)


def _learned(
    name: str, photos: tuple[Path, ...], request: LearnRequest, model: DiffusionModel, progress: NodeProgress
) -> Identity:
    """Learn the person from the photos, or go on where that was cancelled."""
    note = request.consent_note.strip() or f"Consent was confirmed by the user on {now()[:10]}."
    names, state = name_lists(model.info.name)[0], _state_file(name, photos, request, model)
    cancel, begun = threading.Event(), time.time()
    warnings: list[str] = []

    def on_event(event: Event) -> None:
        progress.show(name, event)
        if isinstance(event, PortraitsFound):
            warnings.extend(
                text for of_person in event.portraits.values() for one in of_person for text in one.warnings
            )
        elif isinstance(event, Warned):
            warnings.append(event.message)
        if progress.interrupted():
            cancel.set()

    # A run is saved before it ends, which it does between two steps.
    with running(state, name), _noted(state, name), _explained_failure(state), no_interruption_by_layers():
        if (saved := _saved_run(state, name)) is not None:
            progress.say(f"Going on from step {saved.step} of {saved.steps}, where learning {name} was cancelled")
            begun = saved.begun
            session = TrainingSession(model, names, None)
            result = follow(session.resume(state, {}, cancel, consent=note), on_event)
        else:
            progress.say("Loading the face models")
            faces = face_network(request.faces, agreed=request.accept_face_license)
            session = TrainingSession(model, names, faces, known_faces=[CELEBRITY_FACES])
            people = (PhotoInput(name, photos),)
            task = TrainingTask(people, request.settings(), consent=note, state=state, begun=begun)
            result = follow(session.learn(task, cancel), on_event)
        if not result.identities:
            if result.state is not None:
                progress.say(
                    f"Cancelled at step {result.steps}: run it again with the same inputs, and it goes on from there."
                )
            progress.stop()
        identity = identity_from_bytes(result.identities[0])
        library().add(identity, replace=request.replace, begun=begun)
        _delete_runs(state)
    for text in dict.fromkeys((*warnings, *result.warnings)):
        _log.warning("%s: %s", printable(name), printable(text))
    steps = f"<{name}> was learned in {result.steps} steps."
    progress.say(" ".join([steps, *dict.fromkeys((*warnings, *result.warnings))]))
    return identity


# A run that was cancelled, saved until the same inputs are run again

_STATE = ".safetensors"


def _state_file(name: str, photos: Sequence[Path], request: LearnRequest, model: DiffusionModel) -> Path:
    """Where a run is saved: the same file for the same person, library, photos, settings and checkpoint.

    The runs of one person in one library differ in the last part of their names alone.
    """
    whose = _digest(name_key(name), str(library().folder.resolve()))
    settings = json.dumps(request.settings().as_dict(), sort_keys=True)
    what = _digest(settings, request.faces, model.info.sha256, *map(sha256_of_file, photos))
    # The name is for people who look into the folder. In some scripts 64 characters would fill a whole file name.
    return unfinished_runs() / f"{name[:32]}-{whose}-{what}{_STATE}"


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def _saved_run(state: Path, name: str) -> StateSummary | None:
    """What is saved of the run; ``None`` if it has to begin, because nothing is, or the person was deleted since."""
    sweep(state.parent)
    if not state.is_file():
        return None
    try:
        saved = read_summary(state)
    except TrainingError:  # damaged
        saved = None
    if saved is None or library().was_deleted(name, saved.begun):
        state.unlink(missing_ok=True)
        return None
    return saved


@contextlib.contextmanager
def _noted(state: Path, name: str) -> Iterator[None]:
    """While there is a saved run, deleting the person finds it, in whatever program."""
    record = GeneratedFiles(library().folder)
    record.note([state], "unfinished run", [name], changes=True)
    try:
        yield
    finally:
        if not state.is_file():
            record.forget([one for one in record.all() if one.path == state.absolute()])


@contextlib.contextmanager
def _explained_failure(state: Path) -> Iterator[None]:
    """Errors that leave a saved run say how to go on here. A run whose numbers overflowed would only do so again."""
    try:
        yield
    except NotFiniteError as error:
        state.unlink(missing_ok=True)
        raise NotFiniteError(str(error).partition(f" To go on from there, resume {state}")[0]) from error
    except (TrainingError, HostError) as error:
        text = str(error).replace(f"resume {state}", "run the node again with the same inputs")
        raise type(error)(text) from error


def _delete_runs(state: Path) -> None:
    """Delete what is saved of the person's runs, of this one and of those with other photos or settings."""
    kin = state.name.rpartition("-")[0]
    runs = [one for one in state.parent.glob(f"{glob.escape(kin)}-*{_STATE}") if one == state or not is_running(one)]
    for path in runs:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    record, gone = GeneratedFiles(library().folder), {path.absolute() for path in runs}
    record.forget([one for one in record.all() if one.path in gone])


def _saved(photos: Sequence[Any], folder: Path) -> tuple[Path, ...]:
    """The images as files, since photos are opened one by one and in one way."""
    if not len(photos):
        raise TrainingError("There is no photo: connect an image of the person.")
    files = []
    for number, photo in enumerate(photos, 1):
        files.append(folder / f"image {number}.png")
        Image.fromarray(pixels_of(photo)).save(files[-1])
    return tuple(files)


def pixels_of(image: Any) -> Pixels:
    """One of ComfyUI's images ``(H, W, 3)``, numbers from 0 to 1, as bytes; a fourth channel is left out."""
    numbers = np.asarray(torch.as_tensor(image)[..., :3].detach().cpu().float().clamp(0, 1) * 255)
    pixels: Pixels = numbers.round().astype(np.uint8)
    return pixels


def _embedding_file(identity: Identity, request: LearnRequest) -> str:
    """Write the person's embedding file, and answer how a prompt names it."""
    if not request.embedding:
        return ""
    folder = embeddings_folder()
    with explained_os_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        (path,) = export_identity(identity, folder, "comfyui")
    except ExportError as error:
        raise ExportError(f"{error} Or switch write_embedding off.") from error
    GeneratedFiles(library().folder).note([path], "embedding", [identity.name])
    return f"embedding:{path.stem}"
