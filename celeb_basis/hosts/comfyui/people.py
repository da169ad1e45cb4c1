"""People in ComfyUI's workflows: their token vectors for a connected CLIP; naming, blending and inventing them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from celeb_basis.basis import BasisOptions, build_bases, fitting_components
from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.errors import CelebBasisError, IdentityError, NamesError, WrongModelError, printable
from celeb_basis.files import bases_cache
from celeb_basis.hosts.comfyui.app import library, name_lists, pixels_of
from celeb_basis.hosts.comfyui.host import encode_scheduled, names_as_vectors
from celeb_basis.hosts.comfyui.modules import comfy_module, ends_of, linked, upstream
from celeb_basis.hosts.torch_utils import leave_inference_mode
from celeb_basis.identities.blending import add_blend, blend
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.invention import InventionSettings, Inventor
from celeb_basis.identities.library import Library, Listing, name_key
from celeb_basis.names.lists import shipped_names
from celeb_basis.prompts.registry import Checkpoint, Fitting
from celeb_basis.prompts.syntax import NETWORKS, bracketed_in, check_new_name, likely_mistake
from celeb_basis.provenance import KEY, marked, sentence, workflow_sentence
from celeb_basis.settings import TrainingSettings

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import PlaceholderTokens
    from celeb_basis.hosts.comfyui.model import ComfyClip

_log = logging.getLogger(__name__)

# Token vectors of people for a CLIP


def info_of(clip: ComfyClip) -> ModelInfo:
    """What a CLIP alone says about its checkpoint. Its weights are not hashed: the celeb basis says who fits it."""
    return ModelInfo(name=clip.name, family=clip.family, sha256="", resolution=0)


def token_vectors(identity: Identity, clip: ComfyClip) -> list[torch.Tensor]:
    """A person's token vectors for a CLIP, one tensor ``(E, D)`` for each text encoder.

    Where the celeb basis is the one that the person was learned in, they are those of the file, bit for bit.

    Raises:
        WrongModelError: The person was learned on another family, or with other names.
    """
    fitted = fitted_to(identity, clip)
    same = fitted.metadata.basis_sha256 == identity.metadata.basis_sha256 and fitted.encoders == identity.encoders
    return list((identity if same else fitted).token_vectors())


def fitted_to(identity: Identity, clip: ComfyClip) -> Identity:
    """The person with vectors that are expanded in a CLIP's own celeb basis.

    Raises:
        WrongModelError: The person was learned on another family, or with other names.
    """
    with leave_inference_mode():
        fitting = Fitting(lambda: name_lists(clip.name), bases_cache())
        return fitting.fit(identity, Checkpoint(info_of(clip), lambda: clip.encoders))


def bases_for(identity: Identity, clip: ComfyClip) -> list[Any]:
    """The bases that a fitted identity is expanded in."""
    options = BasisOptions(components=int(identity.coefficients[0].shape[1]))
    for names in name_lists(clip.name):
        try:
            bases = [built.basis for built in build_bases(clip.encoders, names, options, cache=bases_cache())]
        except CelebBasisError:
            continue
        if tuple(basis.sha256 for basis in bases) == identity.metadata.basis_sha256:
            return bases
    raise IdentityError(
        f"{identity.name!r} is of another celeb basis than {clip.name} has: learn the person again to blend."
    )


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
    for mistake in people.mistakes(prompt):
        _log.warning("%s", printable(mistake))
        warn(mistake)
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


# Images say that they are AI-generated: ComfyUI's nodes write into a PNG file what a request has under "extra_pnginfo".

_PROMPT_NODE = "CelebBasisPersonToPrompt"
_OURS = "CelebBasis"


def register_mark() -> None:
    """Have ComfyUI's nodes write a mark into images of people; called once, when the nodes are loaded.

    It is added to each request before it is queued, so that it is there as well when all nodes before the one that saves
    are cached.
    """
    server = getattr(comfy_module("server").PromptServer, "instance", None)
    add = getattr(server, "add_on_prompt_handler", None)
    if add is not None:
        add(with_mark)


def with_mark(request: dict[str, Any]) -> dict[str, Any]:
    """A request for a workflow, with a sentence for its image files if it generates images of people."""
    prompt, extra = request.get("prompt"), request.get("extra_data") or {}
    texts = extra.get("extra_pnginfo") or {} if isinstance(extra, Mapping) else None
    if not isinstance(prompt, Mapping) or not isinstance(texts, Mapping) or not (text := mark_of(prompt)):
        return request
    return {**request, "extra_data": {**extra, "extra_pnginfo": {**texts, KEY: text}}}


def mark_of(prompt: Mapping[str, Any]) -> str:
    """What the image files of a workflow say about the people in them; empty if it generates none of people."""
    named = {node: _named_by(prompt, node) for node in prompt if _kind(prompt, node) == _PROMPT_NODE}
    if not any(names is not None for names in named.values()):
        return ""
    words: dict[str, None] = {}
    generated, others = False, False
    for end in ends_of(prompt):
        people = [names for node in upstream(prompt, end) if (names := named.get(node)) is not None]
        generated = generated or bool(people)
        others = others or not (people or _kind(prompt, end).startswith(_OURS))
        words.update(dict.fromkeys(sorted(f"<{name}>" for names in people for name in names)))
    if not generated:
        return ""
    return workflow_sentence(tuple(words)) if others else sentence(tuple(words))


def _named_by(prompt: Mapping[str, Any], node: str) -> tuple[str, ...] | None:
    """Names of the people in the text of a *Person to prompt*, as far as the workflow says; ``None`` if it names nobody."""
    inputs = prompt[node].get("inputs", {})
    above = linked(prompt[node], "text")
    texts = [inputs.get("text")] if above is None else _texts_of(prompt, upstream(prompt, above))
    typed = [name for text in texts if isinstance(text, str) for name in _names_in(text)]
    connected = {name: one for name in _INPUTS if (one := linked(prompt[node], name)) is not None}
    listing = Listing(library().folder)
    names = [_name_of(prompt, connected[name]) for name in typed if name in connected]
    for name in typed:
        if name not in connected and (found := listing.find(name)) is not None:
            names.append(found[0])
    if not connected and not names and above is None:
        return None
    return tuple(dict.fromkeys(name for name in names if name))


def _texts_of(prompt: Mapping[str, Any], nodes: set[str]) -> list[Any]:
    return [value for node in sorted(nodes) for value in prompt[node].get("inputs", {}).values()]


def _name_of(prompt: Mapping[str, Any], node: str) -> str:
    """The name of the person whom a node gives; empty if the workflow does not say it."""
    inputs = prompt.get(node, {}).get("inputs", {})
    found = [inputs.get(name) for name in ("name", "person") if isinstance(inputs.get(name), str)]
    return found[0].strip() if found else ""


def _kind(prompt: Mapping[str, Any], node: str) -> str:
    return str(prompt[node].get("class_type", "")) if isinstance(prompt[node], Mapping) else ""


# People who do not exist

EVERYONE, ANYWHERE = "women and men", "anywhere"
"""The choices that lean to no group of the list of names."""

_SEX, _REGION = 0, 1
"""Columns of the list of names."""


def leanings() -> tuple[list[str], list[str]]:
    """What invented people can lean to: women or men, and parts of the world; each with the choice of everyone first."""
    groups = shipped_names().groups()
    sexes, regions = ([name for name, column in groups.items() if column == one] for one in (_SEX, _REGION))
    return [EVERYONE, *reversed(sexes)], [ANYWHERE, *sorted(regions)]


@dataclass(frozen=True)
class InventRequest:
    """What the widgets of *Invent person* ask for."""

    seed: int
    count: int = 1
    """People, of this seed and those that follow it."""
    people: str = EVERYONE
    region: str = ANYWHERE
    leaning: float = 1.0
    distance: float = 1.0
    name: str = ""
    """What the person is called; by default a name that no celebrity has."""
    save: bool = False
    """Whether the person is added to the library."""
    replace: bool = False
    """Whether the person replaces one of that name there."""

    def settings(self) -> InventionSettings:
        """The same for any number of people."""
        groups = tuple(one for one in (self.people, self.region) if one not in (EVERYONE, ANYWHERE))
        return InventionSettings(groups=groups, leaning=self.leaning, distance=self.distance)


def invented(request: InventRequest, clip: ComfyClip, say: Callable[[str], None] = lambda _: None) -> list[Identity]:
    """Invent people who do not exist, from the celebrities' names alone.

    Args:
        request: What is asked for.
        clip: The text encoders, in whose celeb basis they are invented.
        say: Called with a text that lists them with their seeds and the celebrities who are most like them.

    Raises:
        IdentityError: One name is asked for several people, several are to be saved, or the name is taken or unusable.
        WrongModelError: The CLIP is that of SDXL's refiner.
        NamesError: The list of names has no groups, or the text encoders know too few of its names.
        BasisError: Likewise.
    """
    begun = time.time()
    name = check_new_name(request.name) if request.name.strip() else ""
    if request.count > 1 and (name or request.save):
        raise IdentityError(
            f"Here are {request.count} people, and one name or one place in the library is for one of them: set count to 1, "
            "and seed to that person's seed, which stands on the node."
        )
    with leave_inference_mode():
        inventor = _inventor(request, clip)
        people = [inventor.invent(request.seed + place, name=name) for place in range(request.count)]
        if request.save:
            people = [_added(people[0], request, inventor, begun)]
    listed = []
    for place, one in enumerate(people):
        celebrity, _ = inventor.nearest(one)
        listed.append(f"{place + 1}: {one.name}, seed {request.seed + place}, nearest to {celebrity}")
    say("\n".join([*listed, *([f"<{people[0].name}> is in the library."] if request.save else [])]))
    return people


def _inventor(request: InventRequest, clip: ComfyClip) -> Inventor:
    if clip.family == "sdxl" and len(clip.encoders) == 1:
        raise WrongModelError(
            "The clip is that of SDXL's refiner, which has one of the two text encoders: connect that of the base checkpoint."
        )
    names, settings = name_lists(clip.name)[0], request.settings()
    if settings.groups and not names.groups():
        raise NamesError(
            f"{names.source[:1].upper()}{names.source[1:]} do not say who is from where: set people to {EVERYONE} and region "
            f"to {ANYWHERE}, or connect the clip of another checkpoint."
        )
    options = BasisOptions(components=fitting_components(clip.encoders, TrainingSettings.components))
    bases = [built.basis for built in build_bases(clip.encoders, names, options, cache=bases_cache())]
    return Inventor(bases, info_of(clip), names, settings)


def _added(one: Identity, request: InventRequest, inventor: Inventor, begun: float) -> Identity:
    """Add a person to the library; who is there already is used. A suggested name that another has is not."""
    people, taken = library(), []
    while not request.replace and (found := Listing(people.folder).find(one.name)) is not None:
        there = people.load(found[0])
        if there.content_hash == one.content_hash:
            return there
        if request.name.strip():
            break  # the library refuses it, and says what to do
        taken.append(one.name)
        one = inventor.invent(request.seed, taken=taken)
    people.add(one, replace=request.replace, begun=begun)
    return one


def sheet_of(people: Sequence[Identity], images: Sequence[torch.Tensor]) -> tuple[torch.Tensor, str]:
    """A sheet of invented people to choose from: an image of each, with number and name.

    Args:
        people: The people.
        images: ``(N, H, W, 3)`` batches, all together one image of each person, in their order, numbers from 0 to 1.

    Returns:
        The sheet ``(1, H, W, 3)``, and in how many of the images a face was found, as a sentence; empty if that is unknown.

    Raises:
        IdentityError: There are more or fewer images than people.
    """
    from celeb_basis.evaluation.invented_sheet import faces_in, faces_sentence, invented_sheet

    pictures = [Image.fromarray(pixels_of(image)) for batch in images for image in batch]
    if len(pictures) != len(people) or not people:
        raise IdentityError(
            f"Here are {len(pictures)} images of {len(people)} people: connect one image of each, in the same order."
        )
    for one, picture in zip(people, pictures, strict=True):
        marked(picture, [f"<{one.name}>"])
    found = faces_in(pictures)
    sheet = np.asarray(invented_sheet(people, pictures, found), np.float32) / 255
    return torch.from_numpy(sheet)[None], faces_sentence(found, people[0].metadata.base_model)
