"""ComfyUI, the program around the models: folders, progress and interruption, learning people and naming them in prompts."""

from __future__ import annotations

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
    CelebBasisError,
    ExportError,
    IdentityError,
    LicenseError,
    MissingPackageError,
    TrainingError,
    printable,
)
from celeb_basis.events import DrawingNames, Event, Preparing, StepDone, Warned
from celeb_basis.exports.textual_inversion import export_identity
from celeb_basis.faces.packages import install_command, missing_packages
from celeb_basis.faces.packs import obtain_pack
from celeb_basis.files import check_space, explained_os_errors, now
from celeb_basis.hosts.comfyui.host import encode_scheduled, names_as_vectors
from celeb_basis.hosts.comfyui.model import ComfyClip, bases_for, fitted_to, info_of, name_lists, token_vectors
from celeb_basis.hosts.comfyui.modules import comfy_module, memory_management
from celeb_basis.hosts.torch_utils import leave_inference_mode
from celeb_basis.identities.blending import add_blend, blend
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import Identity, identity_from_bytes
from celeb_basis.identities.library import Library, Listing, name_key
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.prompts.syntax import NETWORKS, bracketed_in, check_new_name
from celeb_basis.prompts.unknown import likely_mistake
from celeb_basis.settings import TrainingSettings, preset
from celeb_basis.training.run import PhotoInput, PortraitsFound, TrainingSession, TrainingTask, run_one

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel, PlaceholderTokens
    from celeb_basis.faces.network import FaceNetwork

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


# People in prompts, and blends of them

_INPUTS = ("person", "person_2", "person_3")
"""The inputs for people, which are also how a prompt may name them."""


@dataclass(frozen=True)
class People:
    """The people whom prompts can name: those that are connected, and everyone in the library."""

    folder: Library
    connected: Mapping[str, Identity]
    """By the name of the input."""

    def find(self, typed: str) -> Identity | None:
        """Whom ``<typed>`` means; ``None`` for nobody.

        Raises:
            CelebBasisError: The person's file cannot be read.
        """
        wanted = name_key(typed.strip())
        for name, identity in self.connected.items():
            if wanted in (name_key(identity.name), name):
                return identity
        found = Listing(self.folder.folder).find(typed)
        return self.folder.load(found[0]) if found else None

    def in_prompt(self, prompt: str) -> Iterator[tuple[str, Identity]]:
        """Every name that a prompt holds, as typed, with whom it means."""
        for typed in dict.fromkeys(_names_in(prompt)):
            if (identity := self.find(typed)) is not None:
                yield typed, identity

    def tokens(self, prompt: str, clip: ComfyClip) -> PlaceholderTokens:
        """The placeholder tokens of a prompt with their vectors.

        Raises:
            IdentityError: A connected person is not named, or one is named who is not connected.
            WrongModelError: A person does not fit the CLIP.
        """
        named = dict(self.in_prompt(prompt))
        for typed in _names_in(prompt):
            if typed in _INPUTS and typed not in named:
                raise IdentityError(
                    f"The text names <{typed}>, but nobody is connected there: connect a person, or write <name> with the name "
                    "of one in the library."
                )
        for name, identity in self.connected.items():
            if all(other is not identity for other in named.values()):
                raise IdentityError(
                    f"The text does not name {identity.name!r}, who is connected: write <{name}> or <{identity.name}> where "
                    "the person is to be, or disconnect the input."
                )
        return {f"<{typed}>": token_vectors(identity, clip) for typed, identity in named.items()}

    def mistakes(self, prompt: str) -> tuple[str, ...]:
        """A sentence for each tag that nobody has but that is likely to be meant for a person of the library."""
        known = {name_key(name): name for name in self.folder.names()}
        found = {}
        for typed in _names_in(prompt):
            if self.find(typed) is None and (reason := likely_mistake(name_key(typed.strip()), known, {})):
                found[typed] = f"<{typed}> is read as text: {reason}"
        return tuple(found.values())


def _names_in(prompt: str) -> list[str]:
    """What stands in angle brackets, as far as it may be a name; not ``<lora:style:1>`` and the like."""
    parts = (content.partition(":") for content in bracketed_in(prompt))
    return [name for name, colon, _ in parts if not (colon and name.strip() in NETWORKS)]


def conditioning(
    prompt: str, clip: ComfyClip, connected: Mapping[str, Identity], warn: Callable[[str], None] = lambda _: None
) -> Any:
    """ComfyUI's CONDITIONING of a prompt with its people in place.

    Args:
        prompt: The prompt, in ComfyUI's syntax; ``<name>`` and ``<name:0.8>`` name a person.
        clip: The text encoders.
        connected: People who are connected to the node, by the name of the input.
        warn: Called with a sentence about every name that is likely to be a mistake.

    Raises:
        CelebBasisError: A person does not fit, or is connected and not named.
    """
    people = People(library(), connected)
    tokens = people.tokens(prompt, clip)
    for sentence in people.mistakes(prompt):
        _log.warning("%s", printable(sentence))
        warn(sentence)
    with names_as_vectors(clip, tokens) as rewrite:
        return encode_scheduled(clip, rewrite(prompt))


def state_of(prompt: str) -> str:
    """Changes whenever a file changes of someone whom the prompt names: ComfyUI then encodes it again."""
    listing = Listing(library().folder)
    found = (listing.find(typed) for typed in _names_in(prompt))
    return " ".join(stamp_of(Path(one[1])) for one in found if one is not None)


def stamp_of(path: Path) -> str:
    """Time and size of a file; empty if there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{path.name}:{status.st_mtime_ns}:{status.st_size}"


def stamp_of_person(name: str) -> str:
    """:func:`stamp_of` the file of a person in the library."""
    try:
        return stamp_of(library().path_of(name))
    except CelebBasisError:
        return ""


def blended(
    parts: Sequence[tuple[Identity, float]], clip: ComfyClip, *, name: str, keep_radius: bool, save: bool, replace: bool
) -> Identity:
    """The weighted mean of people.

    Args:
        parts: People with weights.
        clip: The text encoders in whose celeb basis they are blended.
        name: What the blend is called.
        keep_radius: Whether the blend is as distinct from the average as its parts.
        save: Whether it is added to the library.
        replace: Whether it replaces a person of that name there.

    Raises:
        IdentityError: The name is unusable or taken, or the weights are.
        WrongModelError: A part does not fit the CLIP.
    """
    name, begun = check_new_name(name), time.time()
    fitted = [(fitted_to(identity, clip), weight) for identity, weight in parts]
    with leave_inference_mode():
        bases = bases_for(fitted[0][0], clip)
        result = blend(fitted, bases, info_of(clip), name=name, keep_radius=keep_radius)
    if save:
        add_blend(library(), result, begun, replace=replace)
    return result
