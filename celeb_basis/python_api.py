"""The public Python API: learn a person, open one, get token vectors for a checkpoint, see who is named in a prompt.

Import these names from ``celeb_basis`` itself, which loads this module on first use. The examples run one after the
other, from top to bottom; they use the miniature model and a photo that ships with the project.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import StoppedError
from celeb_basis.files import bases_cache
from celeb_basis.settings import TrainingSettings, if_prepared, preset

if TYPE_CHECKING:
    import torch

    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.evaluation.likeness import Likeness
    from celeb_basis.events import Event
    from celeb_basis.faces.network import FaceNetwork
    from celeb_basis.identities.identity import Identity
    from celeb_basis.identities.invention import InventionSettings
    from celeb_basis.method import Basis
    from celeb_basis.names.lists import NameList


def load_model(source: str | Path | Any, *, device: str = "auto", dtype: str = "auto") -> DiffusionModel:
    """Open a Stable Diffusion 1.x, 2.x or XL checkpoint with diffusers.

    Args:
        source: A folder of diffusers, one ``.safetensors`` file, ``"miniature"`` for the small model that ships, or a
            pipeline of diffusers that is loaded already; its weights are shared, not copied.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"``. Only for files and folders.
        dtype: ``"fp32"``, ``"bf16"``, ``"fp16"``, or ``"auto"``. Only for files and folders.

    Raises:
        HostError: For a model of another family.
        FileError: If there is no such file or folder.

    Example:
        >>> import celeb_basis
        >>> model = celeb_basis.load_model("miniature", device="cpu")
        >>> model.info.family
        'sd1'
    """
    from celeb_basis.hosts.diffusers import DiffusersHost, load_host
    from celeb_basis.miniature import NAME, shipped_model

    if not isinstance(source, (str, Path)):
        return DiffusersHost(source)
    if source == NAME:
        return load_host(shipped_model(), device=device, dtype=dtype, name=NAME)  # type: ignore[arg-type]
    return load_host(Path(source), device=device, dtype=dtype)  # type: ignore[arg-type]


def loaded_model() -> DiffusionModel:
    """The checkpoint that the WebUI, or the fork of it around us, has loaded.

    Hold the program's queue lock while you work with the model (``modules.call_queue.queue_lock`` in the WebUI).

    Raises:
        HostError: If no checkpoint is loaded, or it is of a family that has no celeb basis.
    """
    from celeb_basis.hosts.a1111.app import open_loaded_model
    from celeb_basis.hosts.detect import adapter

    return open_loaded_model(adapter().program())


def learn_person(
    name: str,
    photos: Sequence[str | Path],
    model: DiffusionModel,
    *,
    settings: str | TrainingSettings = "balanced",
    faces: str | Path | FaceNetwork = "buffalo_l",
    names: NameList | None = None,
    consent: str = "",
    on_event: Callable[[Event], None] = lambda _: None,
    cancel: threading.Event | None = None,
) -> Identity:
    """Learn a person from one photo or a few.

    Nothing of the model changes: every weight is frozen, and put back as it was.

    Args:
        name: What the person is called: ``<name>`` in prompts.
        photos: Image files; the largest face in each counts.
        model: From :func:`load_model` or :func:`loaded_model`.
        settings: A preset (``"quick"``, ``"balanced"``, ``"best"``, ``"paper"``), settings of your own, or ``"auto"``: quick
            if the checkpoint is prepared, else balanced.
        faces: A face model pack on this machine by name or folder, or a network that is open already.
        names: The celebrities' names for the basis; the shipped list, or the miniature's own for the miniature.
        consent: A note on the person's consent, stored in the identity.
        on_event: Called with every progress event.
        cancel: Set it from another thread to stop after the step under way.

    Returns:
        The identity; :func:`save_person` writes it.

    Raises:
        StoppedError: If ``cancel`` was set.
        CelebBasisError: For whatever is wrong with the photos or the model, as a sentence.

    Example:
        >>> from celeb_basis.miniature import PHOTOS
        >>> few = celeb_basis.TrainingSettings(steps=3, views=4)
        >>> ada = celeb_basis.learn_person("ada", [PHOTOS / "stranger1.png"], model, settings=few, faces="miniature")
        >>> ada.name, ada.coefficients[0].shape
        ('ada', (2, 128))
    """
    from celeb_basis.identities.identity import identity_from_bytes
    from celeb_basis.miniature import CELEBRITY_FACES
    from celeb_basis.prompts.syntax import check_new_name
    from celeb_basis.training.run import PhotoInput, TrainingSession, TrainingTask, run_one

    session = TrainingSession(model, names or _names_for(model), _network(faces), known_faces=[CELEBRITY_FACES])
    chosen, other = (preset(settings), if_prepared(settings, {})) if isinstance(settings, str) else (settings, None)
    person = PhotoInput(check_new_name(name), tuple(Path(photo) for photo in photos))
    task = TrainingTask((person,), chosen, consent=consent, if_prepared=other)
    result = run_one(session, task, cancel or threading.Event(), lambda _, event: on_event(event))
    if not result.identities:
        raise StoppedError(f"Learning {name} was canceled.")
    return identity_from_bytes(result.identities[0])


def measure_likeness(
    person: Identity,
    model: DiffusionModel,
    *,
    photos: Sequence[str | Path] = (),
    faces: str | Path | FaceNetwork = "buffalo_l",
    names: NameList | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Likeness:
    """Measure how alike a person's pictures are to the photo, on the scale of what the checkpoint can do.

    Four pictures of the person are generated, and at most four of celebrities, whose face vectors are kept in the cache.

    Args:
        person: From :func:`learn_person` or :func:`open_person`.
        model: From :func:`load_model` or :func:`loaded_model`.
        photos: Image files to compare with; the small picture in the identity if there are none.
        faces: As for :func:`learn_person`.
        names: As for :func:`learn_person`.
        on_event: Called with an event for every picture; those of the person are its ``image``.

    Returns:
        The figures, and sentences that say what they mean.

    Raises:
        FaceError: If no face is found in a photo.
        EvaluationError: If there is nothing to compare with.
        WrongModelError: If the person does not fit the model.

    Example:
        >>> pictures = []
        >>> found = celeb_basis.measure_likeness(ada, model, faces="miniature", on_event=pictures.append)
        >>> found.pictures, 4 <= len(pictures) <= 8
        (4, True)
    """
    from celeb_basis.errors import EvaluationError
    from celeb_basis.evaluation.likeness import measure_people, person_to_measure
    from celeb_basis.events import follow
    from celeb_basis.faces.portraits import portrait
    from celeb_basis.miniature import CELEBRITY_FACES
    from celeb_basis.photos import open_photo

    network, chosen = _network(faces), names or _names_for(model)
    portraits = [
        portrait(open_photo(Path(one)), network, size=model.info.resolution, source=Path(one).name) for one in photos
    ]
    measured = person_to_measure(_fitted(person, model, chosen), network, portraits)
    if measured is None:
        raise EvaluationError(f"{person.name} holds no picture with a face to compare with: give a photo.")
    work = measure_people(model, [measured], network, chosen, known_faces=[CELEBRITY_FACES])
    return follow(work, on_event)[0]


def invent_people(
    model: DiffusionModel,
    count: int = 9,
    *,
    seed: int = 0,
    settings: InventionSettings | None = None,
    more: Sequence[Identity] = (),
    less: Sequence[Identity] = (),
    names: NameList | None = None,
) -> list[Identity]:
    """Invent people who do not exist, from the celebrities' names alone: no photo, no training, no face network.

    Args:
        model: From :func:`load_model` or :func:`loaded_model`.
        count: How many.
        seed: Person ``i`` is that of ``seed + i``, whatever ``count`` is.
        settings: What they are like: the way, groups of names, the distance to the mean.
        more: People whom they are to resemble, such as some of an earlier call.
        less: People whom they are not to resemble.
        names: The celebrities' names; as for :func:`learn_person`.

    Returns:
        Identities with suggested names; :func:`save_person` writes one.

    Raises:
        NamesError: For a group that the list of names does not have.
        SettingsError: For a value out of its range.

    Example:
        >>> nobody, another = celeb_basis.invent_people(model, 2, seed=7)
        >>> nobody.metadata.source, nobody.coefficients[0].shape
        ('invented', (2, 128))
        >>> alike = celeb_basis.invent_people(model, 3, seed=20, more=[nobody], less=[another])
    """
    from celeb_basis.basis import fitting_components
    from celeb_basis.identities.invention import Inventor

    chosen = names or _names_for(model)
    components = fitting_components(model.text_encoders, TrainingSettings().components)
    inventor = Inventor(_bases(model, chosen, components), model.info, chosen, settings)
    people: list[Identity] = []
    for place in range(count):
        taken = [one.name for one in people]
        people.append(inventor.invent(seed + place, more=more, less=less, taken=taken))
    return people


def steer_person(
    identity: Identity,
    model: DiffusionModel,
    *,
    celebrities: Mapping[str, float] | None = None,
    groups: Mapping[str, float] | None = None,
    name: str | None = None,
    names: NameList | None = None,
) -> Identity:
    """Steer a person in the celebrities' space: more like celebrities or away from them, and along groups of names.

    Strengths are from -1 (away) to 1, in units of the celebrities' own spread. The distance to the mean celebrity stays,
    and with it the person's weight in a prompt.

    Args:
        identity: A learned, blended or invented person; made for another checkpoint of the family, it is expanded again.
        model: From :func:`load_model` or :func:`loaded_model`.
        celebrities: Strengths by names of the list.
        groups: Strengths by groups of the list, such as ``{"women": 0.4}``.
        name: What the result is called; as before by default.
        names: The celebrities' names that the person was made with; as for :func:`learn_person`.

    Returns:
        A new identity, saved like a blend; :func:`save_person` writes it.

    Raises:
        BasisError: For a celebrity who is not on the list; the message suggests similar names.
        NamesError: For a group that the list does not have.
        SettingsError: For a strength out of its range.
        WrongModelError: For another family of models, or another list of names.

    Example:
        >>> nobody = celeb_basis.invent_people(model, 1, seed=7)[0]
        >>> steered = celeb_basis.steer_person(nobody, model, celebrities={"Bob Ross": 0.4, "Bill Gates": -0.2})
        >>> steered.metadata.source, steered.metadata.settings["celebrities"]
        ('blended', [['Bob Ross', 0.4], ['Bill Gates', -0.2]])
    """
    from celeb_basis.identities.expand import expand_identity
    from celeb_basis.identities.steering import Steering, steer

    chosen = names or _names_for(model)
    steering = Steering(tuple((celebrities or {}).items()), tuple((groups or {}).items()))
    bases = _bases(model, chosen, int(identity.coefficients[0].shape[1]))
    return steer(expand_identity(identity, bases, model.info), steering, bases, model.info, chosen, name=name)


def save_person(identity: Identity, file: str | Path) -> None:
    """Write an identity file, through a temporary file that is renamed.

    Raises:
        FileError: If it cannot be written.

    Example:
        >>> celeb_basis.save_person(ada, "ada.safetensors")
    """
    from celeb_basis.identities.identity import save_identity

    save_identity(identity, Path(file))


def open_person(file: str | Path) -> Identity:
    """Read an identity file (``.safetensors``).

    Raises:
        FileError: If there is no such file.
        IdentityError: For another kind of file or a damaged one.

    Example:
        >>> celeb_basis.open_person("ada.safetensors").metadata.base_model
        'miniature'
    """
    from celeb_basis.identities.identity import load_identity

    return load_identity(Path(file))


def token_vectors(
    identity: Identity, model: DiffusionModel, *, names: NameList | None = None
) -> dict[str, torch.Tensor]:
    """A person's token vectors for a checkpoint.

    On the checkpoint that the person was learned on, they are those of the identity file. On another one of the same
    family they are expanded again from the coefficients, in that checkpoint's own celeb basis.

    Args:
        identity: The person.
        model: The checkpoint.
        names: The celebrities' names that the person was learned with; as for :func:`learn_person`.

    Returns:
        ``(E, D)`` float32 for each text encoder, by its name (``"clip_l"``, ``"clip_g"``, ``"clip_h"``).

    Raises:
        WrongModelError: For another family of models, or another list of names.

    Example:
        >>> vectors = celeb_basis.token_vectors(ada, model)
        >>> {encoder: tuple(tensor.shape) for encoder, tensor in vectors.items()}
        {'clip_l': (2, 192)}
        >>> request = celeb_basis.GenerationRequest(
        ...     "a photo of <ada>", placeholder_tokens={"<ada>": list(vectors.values())}, steps=2, guidance=3.0
        ... )
        >>> [image.size for image in model.generate(request)]
        [(192, 192)]
    """
    fitted = _fitted(identity, model, names or _names_for(model))
    return dict(zip(fitted.encoders, fitted.token_vectors(), strict=True))


def people_in_prompt(prompt: str, library: str | Path) -> tuple[str, ...]:
    """Names of the people in a library whom a prompt names, each once, in order.

    Args:
        prompt: Any prompt; ``<name>`` and ``<name:0.8>`` name a person, other tags in angle brackets are ignored.
        library: A folder of identity files.

    Example:
        >>> celeb_basis.people_in_prompt("<ada:0.9> and <ben>, <lora:style:1>", library=".")
        ('ada',)
    """
    from celeb_basis.identities.library import Listing
    from celeb_basis.prompts.syntax import cut

    listing = Listing(Path(library))
    pieces = cut(prompt, lambda text: listing.find(text.partition(":")[0]))
    return tuple(dict.fromkeys(piece[0] for piece in pieces if isinstance(piece, tuple)))


def _fitted(identity: Identity, model: DiffusionModel, names: NameList) -> Identity:
    """``identity`` with token vectors for ``model``."""
    from celeb_basis.prompts.registry import Checkpoint, Fitting

    fitting = Fitting(lambda: [names], bases_cache())
    return fitting.fit(identity, Checkpoint(model.info, lambda: model.text_encoders))


def _bases(model: DiffusionModel, names: NameList, components: int) -> list[Basis]:
    from celeb_basis.basis import BasisOptions, build_bases

    built = build_bases(model.text_encoders, names, BasisOptions(components), cache=bases_cache())
    return [one.basis for one in built]


def _names_for(model: DiffusionModel) -> NameList:
    from celeb_basis.miniature import NAME, shipped_model_names
    from celeb_basis.names.lists import shipped_names

    return shipped_model_names() if model.info.name == NAME else shipped_names()


def _network(faces: str | Path | FaceNetwork) -> FaceNetwork:
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.faces.packs import find_pack

    return InsightFaceNetwork(find_pack(faces).folder) if isinstance(faces, (str, Path)) else faces
