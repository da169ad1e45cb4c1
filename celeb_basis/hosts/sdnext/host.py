"""The checkpoint that SD.Next has loaded, as a :class:`celeb_basis.hosts.base.Host`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.devices import numbered
from celeb_basis.hosts.diffusers.checks import family_of
from celeb_basis.hosts.diffusers.host import DiffusersHost
from celeb_basis.hosts.sdnext.model import (
    check_loaded,
    checkpoint_name,
    loaded_pipeline,
    loaded_pipeline_or_none,
    sha256_of,
)
from celeb_basis.hosts.sdnext.placing import held_on_device
from celeb_basis.hosts.sdnext.shim import sdnext_module
from celeb_basis.hosts.webui.randomness import preserved_random_state

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.hosts.base import Conditioning, GenerationRequest, LatentDistribution, Precision, Words


class SDNextHost(DiffusersHost):
    """Stable Diffusion 1.x, 2.x or XL through the pipeline that SD.Next has loaded; its weights are never copied.

    Pictures are drawn by diffusers itself with the same parts. Once SD.Next has switched to another checkpoint, every use
    raises :class:`HostError`. The caller holds SD.Next's queue lock for as long as it works with this.

    Raises: :class:`HostError` if no checkpoint is loaded, or one that people cannot be learned on.
    """

    def __init__(self) -> None:
        loaded = loaded_pipeline()
        check_loaded(loaded)
        super().__init__(_plain(loaded), name=checkpoint_name(loaded), sha256=sha256_of(loaded))
        self._loaded = loaded

    @property
    def device(self) -> torch.device:
        """SD.Next's own: between pictures its offloading may keep the denoiser elsewhere."""
        return numbered(sdnext_module("devices").device)

    @contextmanager
    def learning(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        self._check_still_loaded()
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.enter_context(held_on_device(self._loaded))
            stack.enter_context(super().learning(precision, checkpointing=checkpointing))
            yield

    def encode_pictures(self, pictures: torch.Tensor) -> LatentDistribution:
        self._check_still_loaded()
        return super().encode_pictures(pictures)

    def encode_prompts(self, prompts: Sequence[str], words: Words) -> Conditioning:
        self._check_still_loaded()
        return super().encode_prompts(prompts, words)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self._check_still_loaded()
        return super().predict(latents, timesteps, conditioning)

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        self._check_still_loaded()
        with held_on_device(self._loaded):
            yield from super().generate(request)

    def _check_still_loaded(self) -> None:
        now = loaded_pipeline_or_none()
        if getattr(now, "unet", None) is not self._unet:
            raise HostError(
                f"SD.Next has switched from {self._name} to {'nothing' if now is None else checkpoint_name(now)}: switch "
                "back, or start anew with the checkpoint that is loaded now."
            )


def _plain(loaded: Any) -> Any:
    """diffusers' own text-to-image pipeline over the parts of ``loaded``, which SD.Next may have made for another task.

    The noise schedule is the checkpoint's, whichever sampler is chosen.
    """
    import diffusers

    parts = {name: getattr(loaded, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    parts["scheduler"] = getattr(loaded, "default_scheduler", None) or loaded.scheduler
    if family_of(loaded) != "sdxl":
        nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return diffusers.StableDiffusionPipeline(**parts, **nothing)
    parts |= {name: getattr(loaded, name) for name in ("text_encoder_2", "tokenizer_2")}
    zeros = bool(loaded.config.get("force_zeros_for_empty_prompt", True))
    return diffusers.StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)


if TYPE_CHECKING:
    from celeb_basis.hosts.base import Host

    _FITS: type[Host] = SDNextHost  # the type checker's proof that the interface is met
