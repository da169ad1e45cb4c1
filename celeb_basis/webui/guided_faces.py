"""*Face guidance* on the host's own pages: a slider, an entry of the API, and a parameter of the image."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError, HostError, PlacesError, printable
from celeb_basis.faces.guidance import FACE_GUIDANCE, FaceGuidance, GuidedBatch, open_recognizer
from celeb_basis.hosts.torch_utils import leave_inference_mode
from celeb_basis.identities.identity import Identity, load_identity
from celeb_basis.identities.photo_vectors import from_left_to_right, photo_vectors
from celeb_basis.prompts.places import regions_of
from celeb_basis.webui.infotext import PerPicture, Tokens, installed_tokens

if TYPE_CHECKING:
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.faces.network import Floats
    from celeb_basis.faces.recognizer import Recognizer
    from celeb_basis.regions import Region

_log = logging.getLogger(__name__)

ABOUT = (
    "Moves faces towards the photo that the person of the prompt was learned from, in the last third of the steps; 0 is off. "
    "An image takes several times as long, and needs more memory than without."
)
WITHOUT = "The image was generated without face guidance."
_NOBODY = "The prompt names nobody from your library, so there is no photo for face guidance."


def use_guidance_of_host(processing: Any, guidance: GuidedBatch | None) -> None:
    """Have the running program draw ``processing``'s next batch with ``guidance``."""
    from celeb_basis.hosts.detect import adapter

    adapter().use_guidance(processing, guidance)


def supported() -> bool:
    """Whether the running program's samplers can be reached."""
    from celeb_basis.hosts.detect import adapter

    return adapter().has_face_guidance


def chosen_face_models() -> InsightFaceNetwork:
    """The face models that are chosen in the settings.

    Raises:
        CelebBasisError: They are not installed, or their license was not agreed to.
    """
    from celeb_basis.webui.extension import service

    network: InsightFaceNetwork = service().faces.network()
    return network


@dataclass(frozen=True)
class _Prompt:
    """A prompt, and whom it names."""

    text: str
    people: tuple[Identity, ...]
    vectors: tuple[Floats | None, ...]
    """Of the people's photos."""
    sentences: tuple[str, ...]
    """Who is left alone, and why."""

    @property
    def guided(self) -> bool:
        """Whether anyone has a photo."""
        return any(one is not None for one in self.vectors)


class GuidedFaces:
    """What the extension's script does with the face guidance of a job.

    Args:
        use: Has the program draw with guidance.
        tokens: Answers the names in the host's prompts.
        face_models: Opens the face models.
    """

    def __init__(
        self,
        use: Callable[[Any, GuidedBatch | None], None] = use_guidance_of_host,
        tokens: Callable[[], Tokens | None] = installed_tokens,
        face_models: Callable[[], InsightFaceNetwork] = chosen_face_models,
    ) -> None:
        self._use, self._tokens, self._face_models = use, tokens, face_models
        self._opened: tuple[InsightFaceNetwork, Recognizer] | None = None

    def before_batch(self, processing: Any, strength: object = 0.0) -> None:
        """Called before each batch, once the host has its prompts. Guidance that is not possible is left out with a comment.

        Args:
            processing: The host's processing object.
            strength: 0 to 1; nothing is done for 0.
        """
        parameters: dict[str, Any] = processing.extra_generation_params
        parameters.pop(FACE_GUIDANCE, None)
        prompts: list[_Prompt] = []
        try:
            wanted = checked_strength(strength)
            prompts = self._prompts(processing) if wanted else []
            guided = any(one.guided for one in prompts)
            self._use(processing, self._batch(processing, prompts, wanted) if guided else None)
        except CelebBasisError as error:
            self._use(processing, None)
            _say(processing, [str(error), WITHOUT])
            return
        sentences = [*dict.fromkeys(sentence for one in prompts for sentence in one.sentences)]
        if guided:
            parameters[FACE_GUIDANCE] = _parameter(processing, prompts, f"{wanted:g}")
        elif sentences:
            sentences.append(WITHOUT)
        _say(processing, sentences)

    def after_job(self, processing: Any) -> None:
        """Called at the end of a job: what guidance has put on the graphics card leaves it."""
        self._use(processing, None)
        if self._opened is not None:
            self._opened[1].to("cpu")

    def _prompts(self, processing: Any) -> list[_Prompt]:
        tokens = self._tokens()
        if tokens is None:
            raise HostError("Names in prompts are off in this WebUI, so there is no photo for face guidance.")
        found = {text: self._prompt(text, tokens) for text in dict.fromkeys(map(str, processing.prompts))}
        return [found[str(text)] for text in processing.prompts]

    def _prompt(self, text: str, tokens: Tokens) -> _Prompt:
        named = tokens.mentioned(text)
        # What prompts keep in memory of people has no photo.
        people = tuple(load_identity(one.path) for one in named if one.available)
        unusable = [f"<{one.name}> cannot be used. {one.reason}" for one in named if not one.available]
        if not people:
            return _Prompt(text, (), (), tuple(unusable or [_NOBODY]))
        vectors, sentences = photo_vectors(people, self._face_models)
        return _Prompt(text, people, vectors, (*unusable, *sentences))

    def _batch(self, processing: Any, prompts: Sequence[_Prompt], strength: float) -> GuidedBatch:
        faces = self._face_models()
        if self._opened is None or self._opened[0] is not faces:
            with leave_inference_mode():  # or no gradient could pass its weights
                self._opened = faces, open_recognizer(faces)
        recognizer = self._opened[1]

        def images() -> list[FaceGuidance | None]:
            # Asked for while the image is generated, when it is known whether its people have places.
            return [
                FaceGuidance(faces, recognizer, _targets(one, processing), strength) if one.guided else None
                for one in prompts
            ]

        def stopped(reason: str) -> None:
            processing.extra_generation_params.pop(FACE_GUIDANCE, None)
            _say(processing, [reason, "From there on, the image was generated without face guidance."])

        return GuidedBatch(images, stopped)


def checked_strength(strength: object) -> float:
    """The strength of the slider or the API; nothing is 0.

    Raises:
        HostError: It is not a number from 0 to 1.
    """
    try:
        wanted = float(strength or 0.0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        wanted = -1.0
    if not 0 <= wanted <= 1:
        raise HostError(f"Face guidance of {str(strength)[:40]!r} is not possible: choose 0 to 1.")
    return wanted


def _targets(prompt: _Prompt, processing: Any) -> list[Floats | None]:
    """The vectors from left to right."""
    from celeb_basis.hosts.a1111.sampler_hooks import places_of

    regions: Sequence[Region] = ()
    if (places := places_of(processing)) is not None:
        with contextlib.suppress(PlacesError):  # then the image has none
            regions = regions_of(prompt.text, places)
    vectors = {one.name: vector for one, vector in zip(prompt.people, prompt.vectors, strict=True)}
    return [vectors[one.name] for one in from_left_to_right(prompt.people, regions)]


def _parameter(processing: Any, prompts: Sequence[_Prompt], text: str) -> str | PerPicture:
    """The parameter's value, where images of the batch differ for each of them."""
    if all(one.guided for one in prompts):
        return text
    before = int(getattr(processing, "iteration", 0)) * int(getattr(processing, "batch_size", 1))
    return PerPicture((None,) * before + tuple(text if one.guided else None for one in prompts))


def _say(processing: Any, sentences: Sequence[str]) -> None:
    if sentences:
        text = " ".join(sentences)
        _log.warning("%s", text)
        processing.comment(printable(text))


def controls(tab: str) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """The control on a page of the host.

    Args:
        tab: ``"txt2img"`` or ``"img2img"``.

    Returns:
        The components whose values the script gets, and what restores each from the parameters of an image.
    """
    from celeb_basis.webui.ui.components import own

    gradio: Any = importlib.import_module("gradio")
    slider = own(
        gradio.Slider(0, 1, 0, step=0.05, label="Face guidance", info=ABOUT, elem_id=f"celeb_basis_face_guidance_{tab}")
    )
    return [slider], [(slider, _pasted)]


def _pasted(parameters: Mapping[str, Any]) -> float:
    """An image without guidance switches it off."""
    try:
        return checked_strength(parameters.get(FACE_GUIDANCE))
    except HostError:
        return 0.0


def pasted_names() -> Sequence[str]:
    """Keys of the parameters that the host passes on with an image that is sent to another page."""
    return [FACE_GUIDANCE]
