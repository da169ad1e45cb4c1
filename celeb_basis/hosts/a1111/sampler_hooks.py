"""What is wrapped around the WebUI's denoiser, which all samplers call: places of people, and face guidance.

**Places**: each region's prompt is encoded as one more part of a composed prompt (AND). The WebUI evaluates the parts of a
composed prompt in one batch and adds up their differences to the negative prompt, each with a weight that is a number. Here
the weight is a mask of the latents' size. So every sampler, hires fix, img2img, batches, LoRA and the host's own options
work as they do with AND.

**Face guidance**: the clean latents that follow from the denoiser's output are moved, and the output with them. The sampler
runs without gradients, in some programs in inference mode, which is left for that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from celeb_basis.errors import CelebBasisError, HostError, PlacesError
from celeb_basis.faces.guidance import GuidedBatch
from celeb_basis.hosts.a1111.model import A1111Checkpoint, Decode
from celeb_basis.hosts.a1111.modules import FunctionPatches, host_module, owner_of, replaced
from celeb_basis.hosts.torch_utils import leave_inference_mode
from celeb_basis.prompts.places import Places, regions_of
from celeb_basis.regions import Region, acts, region_weights
from celeb_basis.sampling import clean_prediction, output_for

_log = logging.getLogger(__name__)

_PLACES, _GUIDANCE = "celeb_basis_places", "celeb_basis_face_guidance"
"""The attributes of the host's processing object that hold the places and the face guidance."""
_OF_TIMESTEPS = "CFGDenoiserTimesteps"
"""The class of the denoiser that samplers of timesteps call."""
_ARGUMENTS = ("uncond", "cond", "cond_scale", "s_min_uncond", "image_cond")
"""Of the denoiser's ``forward``, after the latents and the noise level."""


class PartWeight(float):
    """The weight of a part of a composed prompt before the latents' size and the step are known.

    To code that takes it for a number, the shared prompt has its weight and the regions have none.
    """

    regions: Sequence[Region] = ()
    place: int = -1
    """Which region; -1 for the shared prompt."""
    of_part: float = 1.0
    """The weight that the prompt itself gives to the part."""
    until: float = 1.0

    @classmethod
    def make(cls, regions: Sequence[Region], place: int, of_part: float, until: float) -> PartWeight:
        """The weight of one part."""
        made = cls(of_part if place < 0 else 0.0)
        made.regions, made.place, made.of_part, made.until = regions, place, of_part, until
        return made


class MaskedWeight(float):
    """A weight that differs from position to position.

    As a number it is an equal share of the part's weight, for hosts that ask for the sum of all weights.
    """

    mask: torch.Tensor
    """``(1, h, w)``, to be multiplied with ``(C, h, w)`` predictions."""

    def __mul__(self, other: Any) -> Any:
        return self.mask * other

    __rmul__ = __mul__


class SamplerHooks:
    """The wrappers around the host's functions; without places and guidance they pass every call through."""

    def __init__(self) -> None:
        self.installed = False
        self._patches = FunctionPatches(self)

    def install(self) -> None:
        """Wrap the host's functions.

        Raises:
            HostError: In a host that lacks one of them. It then stays as it was.
        """
        self.installed = True
        for place, name, around in self.wrapped():
            if name not in vars(place):
                self.uninstall()
                raise HostError(
                    f"This WebUI has no {name}, which places of people and face guidance need: use AUTOMATIC1111's WebUI 1.10."
                )
            self._patches.wrap(place, name, around)

    def uninstall(self) -> None:
        """Put the host back as it was. A second call does nothing."""
        self._patches.undo()
        self.installed = False

    def wrapped(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """The functions of the host that are wrapped."""
        processing = host_module("processing").StableDiffusionProcessing
        return [
            (processing, "get_conds_with_caching", self._conditioning),
            (denoiser_class(), "forward", self._forward),
        ]

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Around the encoding of a region's prompt: the image's parameters name nobody once more."""
        hijack = host_module("sd_hijack").model_hijack
        with replaced(hijack, extra_generation_params=dict(getattr(hijack, "extra_generation_params", {}))):
            yield

    def _conditioning(
        self,
        original: Any,
        processing: Any,
        function: Any,
        prompts: Any,
        steps: Any,
        caches: Any,
        *more: Any,
        **named: Any,
    ) -> Any:
        shared = original(processing, function, prompts, steps, caches, *more, **named)
        places = places_of(processing)
        if places is None or not hasattr(shared, "batch"):  # the negative prompt's has none
            return shared
        if getattr(processing.sd_model, "cond_stage_key", "") == "edit":
            processing.comment("Places of people do not act on this checkpoint, which edits images by instructions.")
            return shared
        of_prompts = [self._regions(processing, prompt, places) for prompt in prompts]
        conditioned = []
        for number in range(len(places.placements)):
            texts = [regions[number].prompt for regions in of_prompts]
            copied = host_module("prompt_parser").SdConditioning(texts, copy_from=prompts)
            with self.encoding():
                # A cache of its own: the host's is for the shared prompt.
                conditioned.append(original(processing, function, copied, steps, [[None, None]], *more, **named))
        batch = [
            _parts(
                [shared.batch[row], *(one.batch[row] for one in conditioned)],
                [PartWeight.make(of_prompts[row], place, 1.0, places.until) for place in range(-1, len(conditioned))],
            )
            for row in range(len(prompts))
        ]
        return type(shared)(shape=shared.shape, batch=batch)

    def _regions(self, processing: Any, prompt: str, places: Places) -> Sequence[Region]:
        """The regions of one prompt; where it does not name everyone, regions that change nothing."""
        try:
            return regions_of(prompt, places)
        except PlacesError as error:
            sentence = f"{error} The image was generated without places."
            _log.warning("%s", sentence)
            processing.comment(sentence)
            return [Region(prompt, one.box) for one in places.placements]

    def _forward(self, original: Any, denoiser: Any, x: Any, sigma: Any, *given: Any, **named: Any) -> Any:
        named = {**dict(zip(_ARGUMENTS, given, strict=False)), **named}
        named["cond"] = _at_step(named["cond"], denoiser, x)
        guidance: GuidedBatch | None = getattr(denoiser.p, _GUIDANCE, None)
        if guidance is None:
            return original(denoiser, x, sigma, **named)
        at, share = _evaluation_of(denoiser), _share_taken(denoiser, sigma)
        output = original(denoiser, x, sigma, **named)
        if not guidance.acts(*at):
            return output
        with leave_inference_mode():
            guided: torch.Tensor = self._guided(guidance, output, denoiser, x, sigma, at, share)
        return guided

    def decoder(self, latents: torch.Tensor) -> AbstractContextManager[Decode]:
        """The loaded checkpoint's VAE decoder, with gradients.

        Args:
            latents: Those of a batch, which are decoded one by one.
        """
        return A1111Checkpoint.current().decoding_with_gradients(latents)

    def _guided(
        self,
        guidance: GuidedBatch,
        output: torch.Tensor,
        denoiser: Any,
        x: torch.Tensor,
        sigma: torch.Tensor,
        at: tuple[int, int],
        share: float,
    ) -> torch.Tensor:
        """The denoiser's output from which the guided clean latents follow; itself where none is moved."""
        # What was made in inference mode can carry no gradients; its copies can.
        predicted = output.clone().float()
        levels = _levels(denoiser, sigma)
        clean = predicted if levels is None else clean_prediction(predicted, x.clone().float(), *levels, "epsilon")
        changeable = None
        if denoiser.mask is not None and denoiser.nmask is not None:
            # Of an inpainted image, the rest is put back in the end.
            changeable = denoiser.nmask.clone().to(clean)
            clean = clean * changeable + denoiser.init_latent.clone().to(clean) * denoiser.mask.clone().to(clean)
        try:
            with self.decoder(clean) as decode:
                moved = guidance.correct(clean, *at, decode)
        except torch.cuda.OutOfMemoryError:
            guidance.stop("Face guidance needs more memory than is free at this size: generate smaller images.")
            return output
        except CelebBasisError as error:
            guidance.stop(str(error))
            return output
        if moved is clean:
            return output
        change = share * (moved - clean) if changeable is None else share * (moved - clean) * changeable
        changed = (
            predicted + change if levels is None else output_for(change, 0 * change, predicted, *levels, "epsilon")
        )
        return changed.to(output.dtype)


def denoiser_class() -> Any:
    """The class of the host's denoiser with guidance, which all samplers call."""
    return host_module("sd_samplers_cfg_denoiser").CFGDenoiser


def set_places(processing: Any, places: Places | None, kind: type[SamplerHooks] = SamplerHooks) -> None:
    """Have the host's processing object draw its next images with ``places``.

    Raises:
        HostError: In a host that lacks one of the functions that are needed.
    """
    if places is not None:
        install(kind)
    setattr(processing, _PLACES, places)


def set_guidance(processing: Any, guidance: GuidedBatch | None, kind: type[SamplerHooks] = SamplerHooks) -> None:
    """Have the host's processing object draw its next batch with ``guidance``.

    Raises:
        HostError: In a host that lacks one of the functions that are needed.
    """
    if guidance is not None:
        install(kind)
    setattr(processing, _GUIDANCE, guidance)


def places_of(processing: Any) -> Places | None:
    """The places that the host's processing object is drawing with."""
    places: Places | None = getattr(processing, _PLACES, None)
    return places


def _step_of(denoiser: Any) -> tuple[int, int]:
    """The denoiser's call that is next, from 0, and how many are expected; a sampler may take more."""
    return int(denoiser.step), int(denoiser.total_steps or denoiser.steps or 1)


def _evaluation_of(denoiser: Any) -> tuple[int, int]:
    """As :func:`_step_of`, without the calls that samplers of timesteps are expected to make and do not."""
    step, steps = _step_of(denoiser)
    if _is_of_timesteps(denoiser):
        steps -= 1 if denoiser.init_latent is None else 2
    return step, max(1, steps)


def _share_taken(denoiser: Any, sigma: torch.Tensor) -> float:
    """How much of a move of the clean latents a sampler can take in this call without enlarging it.

    A sampler of two evaluations in a step goes on by differences over the second one's noise level. Where the levels lie far
    apart, as in the last of few steps, Heun's would enlarge a move by a multiple.
    """
    options = getattr(getattr(denoiser.sampler, "config", None), "options", None) or {}
    if not options.get("second_order"):
        return 1.0
    level = float(sigma.flatten()[0])
    if int(denoiser.step) % 2 == 0:
        denoiser.celeb_basis_level = level
        return 1.0
    first = getattr(denoiser, "celeb_basis_level", level)
    return 1.0 / max(1.0, first / level - level / first) if level > 0 else 1.0


def _is_of_timesteps(denoiser: Any) -> bool:
    return any(kind.__name__ == _OF_TIMESTEPS for kind in type(denoiser).__mro__)


def _levels(denoiser: Any, sigma: torch.Tensor) -> tuple[float, float] | None:
    """Scales of clean latents and noise in what a denoiser of timesteps is given; ``None`` for one of k-diffusion.

    The first kind (DDIM, PLMS, UniPC) is given a timestep and predicts the noise, whatever the checkpoint predicts; the
    second is given the standard deviation and predicts the clean latents.
    """
    if not _is_of_timesteps(denoiser):
        return None
    signal = denoiser.inner_model.inner_model.alphas_cumprod
    at = min(max(0, round(float(sigma.flatten()[0]))), len(signal) - 1)
    share = float(signal[at])
    return math.sqrt(share), math.sqrt(1.0 - share)


def _parts(composed: Sequence[Sequence[Any]], weights: Sequence[PartWeight]) -> list[Any]:
    """One image's parts: those of the shared prompt, then those of each region's."""
    return [
        type(part)(part.schedules, PartWeight.make(weight.regions, weight.place, float(part.weight), weight.until))
        for parts, weight in zip(composed, weights, strict=True)
        for part in parts
    ]


def _at_step(cond: Any, denoiser: Any, x: torch.Tensor) -> Any:
    """``cond`` with the weights of this step: masks, or the shared prompt alone once the places have ended."""
    batch = getattr(cond, "batch", None)
    if not batch or not isinstance(weight := batch[0][0].weight, PartWeight):
        return cond
    if not acts(weight.until, *_step_of(denoiser)):
        shared = [
            [type(part)(part.schedules, part.weight.of_part) for part in parts if part.weight.place < 0]
            for parts in batch
        ]
        return type(cond)(shape=cond.shape, batch=shared)
    masks: dict[tuple[Any, ...], torch.Tensor] = {}
    masked = [[type(part)(part.schedules, _masked(part.weight, x, masks)) for part in parts] for parts in batch]
    return type(cond)(shape=cond.shape, batch=masked)


def _masked(weight: PartWeight, x: torch.Tensor, masks: dict[tuple[Any, ...], torch.Tensor]) -> MaskedWeight:
    boxes = tuple(one.box for one in weight.regions)
    if boxes not in masks:
        regions = region_weights(boxes, *x.shape[-2:])
        masks[boxes] = torch.cat([1 - regions.sum(0, keepdim=True), regions]).to(x)
    made = MaskedWeight(weight.of_part / (len(boxes) + 1))
    made.mask = weight.of_part * masks[boxes][weight.place + 1][None]
    return made


def install(kind: type[SamplerHooks] = SamplerHooks) -> None:
    """Wrap the host's functions, unless they are.

    Raises:
        HostError: In a host that lacks one of them.
    """
    found = owner_of(denoiser_class(), "forward")
    if isinstance(found, kind):
        return
    if found is not None:  # of another copy of this package
        found.uninstall()
    kind().install()
