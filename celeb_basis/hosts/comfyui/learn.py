"""Learning a person in a node of ComfyUI's: from images on its wires to a person in the library."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from celeb_basis.errors import ExportError, TrainingError, printable
from celeb_basis.events import Event, Warned
from celeb_basis.exports.textual_inversion import export_identity
from celeb_basis.files import check_space, explained_os_errors, now
from celeb_basis.hosts.comfyui.app import NodeProgress, embeddings_folder, face_network, library, name_lists
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import Identity, identity_from_bytes
from celeb_basis.identities.library import Listing
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.prompts.syntax import check_new_name
from celeb_basis.settings import TrainingSettings, preset
from celeb_basis.training.run import PhotoInput, PortraitsFound, TrainingSession, TrainingTask, run_one

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel

_log = logging.getLogger(__name__)

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
    progress.say("Loading the face models")
    faces = face_network(request.faces, agreed=request.accept_face_license)
    names = name_lists(model.info.name)[0]
    session = TrainingSession(model, names, faces, known_faces=[CELEBRITY_FACES])
    note = request.consent_note.strip() or f"Consent was confirmed by the user on {now()[:10]}."
    task = TrainingTask((PhotoInput(name, photos),), request.settings(), consent=note)
    cancel = threading.Event()
    warnings: list[str] = []

    def on_event(_: TrainingTask, event: Event) -> None:
        progress.show(name, event)
        if isinstance(event, PortraitsFound):
            warnings.extend(
                text for of_person in event.portraits.values() for one in of_person for text in one.warnings
            )
        elif isinstance(event, Warned):
            warnings.append(event.message)
        if progress.interrupted():
            cancel.set()

    result = run_one(session, task, cancel, on_event)
    if not result.identities:
        progress.stop()
    identity = identity_from_bytes(result.identities[0])
    library().add(identity, replace=request.replace, begun=task.begun)
    for text in dict.fromkeys((*warnings, *result.warnings)):
        _log.warning("%s: %s", printable(name), printable(text))
    steps = f"<{name}> was learned in {result.steps} steps."
    progress.say(" ".join([steps, *dict.fromkeys((*warnings, *result.warnings))]))
    return identity


def _saved(photos: Sequence[Any], folder: Path) -> tuple[Path, ...]:
    """The images as files, since photos are opened one by one and in one way."""
    if not len(photos):
        raise TrainingError("There is no photo: connect an image of the person.")
    files = []
    for number, photo in enumerate(photos, 1):
        pixels = np.asarray(torch.as_tensor(photo)[..., :3].detach().cpu().float().clamp(0, 1) * 255)
        files.append(folder / f"image {number}.png")
        Image.fromarray(pixels.round().astype(np.uint8)).save(files[-1])
    return tuple(files)


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
