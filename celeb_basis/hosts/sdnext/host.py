"""The checkpoint that SD.Next has loaded, as a :class:`celeb_basis.diffusion_model.DiffusionModel`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import ADVICE
from celeb_basis.hosts.diffusers.digests import sha256_of_weights
from celeb_basis.hosts.diffusers.host import DiffusersHost
from celeb_basis.hosts.diffusers.pipelines import check_pipeline, family_of
from celeb_basis.hosts.sdnext.modules import loaded_pipeline_or_none, sdnext_module
from celeb_basis.hosts.torch_utils import clone_inference_tensors, preserved_random_state, with_index

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.diffusion_model import (
        Conditioning,
        GenerationRequest,
        LatentDistribution,
        PlaceholderTokens,
        Precision,
        TensorCall,
    )


class SDNextCheckpoint:
    """The checkpoint that SD.Next has loaded, read from the pipeline around it.

    SD.Next makes a new pipeline for each task, around the same denoiser and text encoders.

    Args:
        pipeline: A pipeline of diffusers.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    @classmethod
    def current_or_none(cls) -> SDNextCheckpoint | None:
        """The checkpoint that is loaded now, or ``None``. Loads nothing."""
        pipeline = loaded_pipeline_or_none()
        return None if pipeline is None else cls(pipeline)

    @classmethod
    def current(cls) -> SDNextCheckpoint:
        """The checkpoint that is loaded now.

        Raises:
            HostError: If no checkpoint is loaded.
        """
        if (checkpoint := cls.current_or_none()) is None:
            raise HostError(
                "SD.Next has no checkpoint loaded: choose one at the top of its page, and try again once it is loaded."
            )
        return checkpoint

    def check(self) -> None:
        """Raise :class:`HostError` unless a gradient can pass the pipeline, and its prompt alone says what it generates."""
        if not self.is_stable_diffusion:
            kind = type(self.pipeline).__name__
            raise HostError(f"{self.name} is not a Stable Diffusion 1, 2 or XL ({kind}): {ADVICE}.")
        check_pipeline(self.pipeline)
        for part in (self.pipeline.unet, *self.text_models):
            if hasattr(part, "_orig_mod"):
                raise HostError("The checkpoint is compiled: disable model compile in SD.Next's settings to learn.")
            weights = list(part.parameters())
            if getattr(part.config, "quantization_config", None) or not all(one.is_floating_point() for one in weights):
                raise HostError("The checkpoint is quantized: disable quantization in SD.Next's settings to learn.")
        if getattr(sdnext_module("lora.lora_common"), "previously_loaded_networks", None):
            raise HostError(
                "The LoRA of the last image is still in the checkpoint: generate one image without any, then learn."
            )

    @property
    def is_stable_diffusion(self) -> bool:
        """Whether it is a Stable Diffusion 1, 2 or XL of diffusers, by its parts."""
        return all(getattr(self.pipeline, name, None) is not None for name in ("unet", "text_encoder", "tokenizer"))

    @property
    def family(self) -> str:
        """``"sd1"``, ``"sd2"`` or ``"sdxl"``; of others, the name of the pipeline's class."""
        return family_of(self.pipeline) if self.is_stable_diffusion else type(self.pipeline).__name__.lower()

    @property
    def name(self) -> str:
        """What users call the checkpoint: its file's or folder's name without the suffix."""
        described = getattr(self.pipeline, "sd_checkpoint_info", None)
        name = str(getattr(described, "name", None) or getattr(self.pipeline, "sd_model_checkpoint", None) or "model")
        return Path(name).stem if name.endswith(".safetensors") else Path(name).name

    @property
    def sha256(self) -> str | None:
        """Hex digest of the weights that it was loaded from, cached on disk; ``None`` where they cannot be found."""
        described = getattr(self.pipeline, "sd_checkpoint_info", None)
        if known := getattr(described, "sha256", None):
            return str(known)
        for place in (getattr(described, "path", None), getattr(described, "filename", None)):
            if place and Path(str(place)).exists():
                return sha256_of_weights(Path(str(place)))
        return None

    @property
    def text_models(self) -> list[Any]:
        """The text encoders, one or (SDXL) two."""
        second = getattr(self.pipeline, "text_encoder_2", None)
        return [self.pipeline.text_encoder] if second is None else [self.pipeline.text_encoder, second]

    def plain_pipeline(self) -> Any:
        """A text-to-image pipeline of diffusers over the same parts; SD.Next may have made its own for another task.

        The noise schedule is the checkpoint's, whichever sampler is chosen.
        """
        loaded = self.pipeline
        parts = {name: getattr(loaded, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
        parts["scheduler"] = getattr(loaded, "default_scheduler", None) or loaded.scheduler
        if self.family != "sdxl":
            nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            return diffusers.StableDiffusionPipeline(**parts, **nothing)
        parts |= {name: getattr(loaded, name) for name in ("text_encoder_2", "tokenizer_2")}
        zeros = bool(loaded.config.get("force_zeros_for_empty_prompt", True))
        return diffusers.StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)

    @contextmanager
    def held_on_device(self) -> Iterator[None]:
        """Text encoders and denoiser on the device inside the context, whatever SD.Next would move between its steps.

        What SD.Next made in torch's inference mode is made ready for gradients.
        """
        models, device = sdnext_module("sd_models"), sdnext_module("devices").device
        parts = [self.pipeline.unet, *self.text_models]
        offloading = bool(getattr(self.pipeline, "has_accelerate", False))
        if offloading:
            models.disable_offload(self.pipeline)
        homes = [next(part.parameters()).device for part in parts]
        try:
            for part in parts:
                part.to(device)
            clone_inference_tensors(parts)
            yield
        finally:
            for part, home in zip(parts, homes, strict=True):
                part.to(home)
            if offloading:
                # Balanced offloading assumes that its hooks are still there unless it is forced.
                models.set_diffuser_offload(self.pipeline, force=True)


class SDNextHost(DiffusersHost):
    """Stable Diffusion 1.x, 2.x or XL through the pipeline that SD.Next has loaded; its weights are never copied.

    Images are generated by diffusers itself with the same parts. Once SD.Next has switched to another checkpoint, every use
    raises :class:`HostError`. The caller holds SD.Next's queue lock for as long as it works with this.

    Raises:
        HostError: If no checkpoint is loaded, or one that cannot be trained through.
    """

    def __init__(self) -> None:
        self._checkpoint = checkpoint = SDNextCheckpoint.current()
        checkpoint.check()
        super().__init__(checkpoint.plain_pipeline(), name=checkpoint.name, sha256=checkpoint.sha256)

    @property
    def device(self) -> torch.device:
        """SD.Next's own: between images its offloading may keep the denoiser elsewhere."""
        return with_index(sdnext_module("devices").device)

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        """With SD.Next's offloading disabled."""
        self._check_still_loaded()
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.enter_context(self._checkpoint.held_on_device())
            stack.enter_context(super().prepare_for_training(precision, checkpointing=checkpointing))
            yield

    def encode_one_by_one(self, images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """As diffusers does, if the checkpoint is still loaded."""
        self._check_still_loaded()
        return super().encode_one_by_one(images)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """As diffusers does, if the checkpoint is still loaded."""
        self._check_still_loaded()
        return super().decode_latents(latents)

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        """As diffusers does, if the checkpoint is still loaded."""
        self._check_still_loaded()
        return super().encode_prompts(prompts, placeholder_tokens)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """As diffusers does, if the checkpoint is still loaded."""
        self._check_still_loaded()
        return super().predict(latents, timesteps, conditioning)

    def denoiser_call(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> TensorCall | None:
        """None: SD.Next may have put in attention of its own, or hooks that move weights."""
        del latents, timesteps, conditioning
        return None

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """As diffusers does, if the checkpoint is still loaded."""
        self._check_still_loaded()
        with self._checkpoint.held_on_device():
            yield from super().generate(request)

    def _check_still_loaded(self) -> None:
        now = SDNextCheckpoint.current_or_none()
        if now is None or getattr(now.pipeline, "unet", None) is not self._unet:
            raise HostError(
                f"SD.Next has switched from {self._name} to {'nothing' if now is None else now.name}: switch back, or "
                "start again with the checkpoint that is loaded now."
            )
