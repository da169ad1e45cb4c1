"""The checkpoint that AUTOMATIC1111's WebUI has loaded, as a :class:`celeb_basis.diffusion_model.DiffusionModel`.

:class:`FamilyHost` is what it shares with its forks.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from celeb_basis.diffusion_model import (
    ENCODER_NAMES,
    DiffusionModel,
    LatentDistribution,
    MemoryStats,
    ModelInfo,
    NoiseSchedule,
    check_batch,
    check_images,
    image_size,
)
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import CheckpointT, FamilyTextEncoder
from celeb_basis.hosts.a1111.model import A1111Checkpoint
from celeb_basis.hosts.a1111.model_patches import (
    HOST_CONTEXTS,
    ComputeContexts,
    ModelPatches,
    gradient_checkpointing,
    held_on_device,
    in_precision,
    move_to_device,
)
from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.hosts.held_weights import DTYPES
from celeb_basis.hosts.inpainting import MaskedImage
from celeb_basis.hosts.torch_utils import (
    ChannelsLast,
    channels_last_pays,
    frozen,
    memory_stats,
    preserved_random_state,
)

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.diffusion_model import Casting, Conditioning, GenerationRequest, PlaceholderTokens, Precision

ModeT = TypeVar("ModeT", bound="TrainingMode")


@dataclass(frozen=True)
class EncodedPrompts:
    """What :meth:`FamilyHost.encode_prompts` returns for :meth:`FamilyHost.predict`."""

    crossattn: torch.Tensor
    """``(N, 77 n, width)``."""
    vector: torch.Tensor | None
    """``(N, P + S)`` for SDXL: the pooled text and the size of the checkpoint's own square images."""


@dataclass(frozen=True)
class TrainingMode(ABC):
    """What :meth:`FamilyHost.prepare_for_training` changed, suspended while the program generates a preview."""

    model: weakref.ref[Any]
    """The program's model object that was changed."""

    @abstractmethod
    def suspend(self) -> None:
        """Before a preview: give back to the program what its generation cannot work with."""

    @abstractmethod
    def resume(self, checkpoint: Any) -> None:
        """After a preview: undo what it moved and enabled."""


class FamilyHost(DiffusionModel, ABC, Generic[CheckpointT, ModeT]):
    """Stable Diffusion 1.x, 2.x or XL through the checkpoint that a program has loaded; its weights are never copied.

    The model itself is looked up at every use and never kept. Once the program has switched to another checkpoint, every
    use raises :class:`HostError`. The caller holds the program's queue lock for as long as it works with this.

    Raises:
        HostError: If no checkpoint is loaded, or one that needs more than a prompt.
    """

    checkpoint_type: type[CheckpointT]
    casting: Casting = "autocast"

    def __init__(self) -> None:
        checkpoint = self.checkpoint_type.current()
        checkpoint.check()
        self._file, self._name = checkpoint.file, checkpoint.name
        self._schedule = checkpoint.schedule
        self._family = checkpoint.family
        self._encoders = [
            FamilyTextEncoder(name, lambda: self._checkpoint, index)
            for index, name in enumerate(ENCODER_NAMES[self._family])
        ]
        self._training: ModeT | None = None
        self._masked: MaskedImage | None = None
        if checkpoint.is_inpainting:
            self._masked = MaskedImage(
                lambda images: self._checkpoint.encode_one_by_one(images), checkpoint.vae_scale_factor
            )

    @cached_property
    def info(self) -> ModelInfo:
        """Name, family, digest and image sizes."""
        checkpoint = self._checkpoint
        levels, channels = len(checkpoint.unet.channel_mult), int(getattr(checkpoint.unet, "in_channels", 4))
        return ModelInfo(
            name=self._name,
            family=self._family,
            sha256=checkpoint.sha256,
            resolution=checkpoint.resolution,
            size_multiple=checkpoint.vae_scale_factor * 2 ** (levels - 1),
            vae_scale_factor=checkpoint.vae_scale_factor,
            latent_channels=(channels - 1) // 2 if checkpoint.is_inpainting else channels,
        )

    @property
    def text_encoders(self) -> Sequence[FamilyTextEncoder]:
        """One or (SDXL) two."""
        return self._encoders

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule when this host was made."""
        return self._schedule

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser's weights are held in, or computed in where they are cast."""
        return self._checkpoint.dtype

    def memory(self) -> MemoryStats:
        """Read from the live model and the device."""
        checkpoint = self._checkpoint
        return memory_stats(
            checkpoint.unet,
            [checkpoint.unet, checkpoint.text_model],
            self.device,
            vae_scale_factor=checkpoint.vae_scale_factor,
            keeps_scores=checkpoint.keeps_attention_scores(self.device),
            casting=self.casting,
            vae=checkpoint.vae_memory,
        )

    def encode_images(self, pictures: torch.Tensor) -> LatentDistribution:
        """With the VAE that the user chose, one at a time."""
        check_images(pictures, self._checkpoint.vae_scale_factor)
        encoded = list(self.encode_one_by_one(picture[None] for picture in pictures))
        return LatentDistribution(torch.cat([one.mean for one in encoded]), torch.cat([one.std for one in encoded]))

    def encode_one_by_one(self, pictures: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """With the VAE that the user chose."""
        pictures = self._while_loaded(pictures)
        if self._masked is None:
            yield from self._checkpoint.encode_one_by_one(pictures)
        else:
            yield from self._masked.encode_too(pictures)

    def _while_loaded(self, pictures: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for picture in pictures:
            _ = self._checkpoint  # refuses once the program has switched
            yield picture

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """With the VAE that the user chose."""
        return self._checkpoint.decode_latents(latents)

    def release_vae(self) -> None:
        """Move the VAE off the device."""
        self._checkpoint.offload_vae()

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        """By the program's own code: its syntax, its chunks, its emphasis, its clip skip."""
        if not prompts:
            raise HostError("There are no prompts to encode: give at least one.")
        checkpoint = self._checkpoint
        with self._encoding(), checkpoint.inject(placeholder_tokens) as rewrite:
            side = self.info.resolution
            conditioning = checkpoint.encode_prompts([rewrite(prompt) for prompt in prompts], side, side)
        return EncodedPrompts(conditioning["crossattn"], conditioning.get("vector"))

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The denoiser's output, float32."""
        check_batch(latents, timesteps, len(conditioning.crossattn))
        masked = None if self._masked is None else self._masked.like(latents)
        return self._denoised(latents, timesteps, conditioning, masked)

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """By the program's own processing and DDIM, without its scripts; ends early if the user interrupts it."""
        if request.sampler != "ddim":
            raise HostError(f"The sampler {request.sampler} is for the command line and Python: choose ddim here.")
        size = image_size(request, self.info, self._checkpoint.vae_scale_factor, self.schedule.timesteps)
        for number in range(request.count):
            seed = (request.seed + number) % 2**32
            checkpoint = self._checkpoint
            with checkpoint.inject(request.placeholder_tokens) as rewrite, self._suspended():
                prompts = rewrite(request.prompt), rewrite(request.negative_prompt)
                image = checkpoint.generate_image(request, prompts, seed, size)
            if image is None:
                return
            yield image

    @abstractmethod
    def _encoding(self) -> AbstractContextManager[Any]:
        """The context in which prompts are encoded.

        Raises:
            HostError: For settings of the program that cannot be trained with.
        """

    @abstractmethod
    def _denoised(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: EncodedPrompts,
        masked: torch.Tensor | None,
    ) -> torch.Tensor:
        """The denoiser's output, float32.

        Args:
            latents: ``(N, C, h, w)`` noisy latents.
            timesteps: ``(N,)``.
            conditioning: The encoded prompts.
            masked: ``(N, 1 + C, h, w)`` for an inpainting denoiser: the mask and the latents of the masked image.
        """

    @property
    def _checkpoint(self) -> CheckpointT:
        """The loaded checkpoint as it is now, if it is still the same."""
        checkpoint = self.checkpoint_type.current()
        exchanged = self._training is not None and self._training.model() is not checkpoint.model
        if exchanged or checkpoint.file != self._file:
            raise HostError(
                f"{checkpoint.program} has switched from {self._name} to {checkpoint.name}: switch back, or start again "
                "with the checkpoint that is loaded now."
            )
        return checkpoint

    def _vector(self, conditioning: EncodedPrompts, latents: torch.Tensor) -> torch.Tensor | None:
        """SDXL's ``vector`` for images of the latents' size instead of the checkpoint's own."""
        vector = conditioning.vector
        if vector is None:
            return None
        checkpoint = self._checkpoint
        height, width = (side * checkpoint.vae_scale_factor for side in latents.shape[-2:])
        sizes = checkpoint.size_embedding(len(latents), width, height)
        return torch.cat([vector[:, : -sizes.shape[1]], sizes.to(vector)], dim=1)

    @contextmanager
    def _suspended(self) -> Iterator[None]:
        """While training: the program generates in its own ways, and training mode is resumed afterwards."""
        if self._training is not None:
            self._training.suspend()
        try:
            yield
        finally:
            trained = None if self._training is None else self._training.model()
            if self._training is not None and trained is not None:
                checkpoint = self.checkpoint_type.current_or_none()
                if checkpoint is not None and checkpoint.model is trained:
                    self._training.resume(checkpoint)


def has_fast_layout(device: torch.device, precision: Precision) -> bool:
    """Whether the original code's denoiser is faster in :class:`ChannelsLast`: measured on processors, expected on cards."""
    return device.type == "cpu" or channels_last_pays(device, DTYPES[precision])


def call_unet(
    unet: Any,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    crossattn: torch.Tensor,
    vector: torch.Tensor | None,
    masked: torch.Tensor | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Call the denoiser of a fork with its own copy of Stable Diffusion's code.

    Returns:
        The denoiser's output in float32, computed in ``dtype``.
    """
    given = latents if masked is None else torch.cat([latents, masked], dim=1)
    output: torch.Tensor = unet(
        given.to(device, dtype),
        timesteps.to(device).float(),
        context=crossattn.to(device, dtype),
        transformer_options={},
        **({} if vector is None else {"y": vector.to(device, dtype)}),
    )
    return output.float()


@dataclass(frozen=True)
class _A1111TrainingMode(TrainingMode):
    patches: ModelPatches
    contexts: ComputeContexts
    layout: ChannelsLast

    def suspend(self) -> None:
        self.layout.restore()
        self.contexts.suspend()
        if (model := self.model()) is not None:
            A1111Checkpoint(model).load_vae_for_generation()

    def resume(self, checkpoint: A1111Checkpoint) -> None:
        checkpoint.offload_vae()
        move_to_device(checkpoint)
        self.patches.disable()
        self.contexts.resume()
        self.layout.enable()


class A1111Host(FamilyHost[A1111Checkpoint, _A1111TrainingMode]):
    """Through AUTOMATIC1111's WebUI. As a context manager it puts the VAE back on leaving to where it was on entering."""

    checkpoint_type = A1111Checkpoint

    def __init__(self) -> None:
        super().__init__()
        self._vae_home: torch.device | None = None

    def __enter__(self) -> A1111Host:
        self._remember_vae()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._send_vae_home()

    @property
    def device(self) -> torch.device:
        """The device that the WebUI computes on."""
        device: torch.device = host_module("devices").device
        return device

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        """The checkpoint's own weights alone, frozen, on the device; the VAE goes home on leaving."""
        checkpoint = self._checkpoint
        patches = ModelPatches(checkpoint)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.callback(self._send_vae_home)
            self._remember_vae()
            stack.enter_context(held_on_device(checkpoint))
            stack.callback(patches.restore)
            patches.disable()
            contexts = stack.enter_context(in_precision(checkpoint, precision))
            stack.enter_context(frozen([checkpoint.model]))
            layout = ChannelsLast([checkpoint.unet] if has_fast_layout(self.device, precision) else [])
            stack.callback(layout.restore)
            layout.enable()
            stack.enter_context(gradient_checkpointing(checkpoint, checkpointing, contexts.blocks))
            stack.callback(setattr, self, "_training", self._training)
            self._training = _A1111TrainingMode(weakref.ref(checkpoint.model), patches, contexts, layout)
            yield

    def encode_one_by_one(self, pictures: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """With the VAE that the user chose, which stays on the device."""
        self._remember_vae()
        return super().encode_one_by_one(pictures)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """With the VAE that the user chose, which stays on the device."""
        self._remember_vae()
        return super().decode_latents(latents)

    def release_vae(self) -> None:
        """Move the VAE to the CPU."""
        self._remember_vae()
        super().release_vae()

    def _encoding(self) -> AbstractContextManager[Any]:
        check_emphasis("the WebUI's")
        return self._contexts.text()

    def _denoised(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: EncodedPrompts,
        masked: torch.Tensor | None,
    ) -> torch.Tensor:
        model, vector = self._checkpoint.model, self._vector(conditioning, latents)
        if vector is None:
            given: dict[str, Any] = {"c_crossattn": [conditioning.crossattn]}
        else:
            given = {"crossattn": conditioning.crossattn, "vector": vector}
        if masked is not None:
            given["c_concat"] = [masked.to(self.device)]
        with self._contexts.denoiser():
            output: torch.Tensor = model.apply_model(latents.to(self.device), timesteps.to(self.device), given)
        return output.float()

    @property
    def _contexts(self) -> ComputeContexts:
        return HOST_CONTEXTS if self._training is None else self._training.contexts

    def _remember_vae(self) -> None:
        if self._vae_home is None:
            self._vae_home = next(self._checkpoint.model.first_stage_model.parameters()).device

    def _send_vae_home(self) -> None:
        home, self._vae_home = self._vae_home, None
        checkpoint = A1111Checkpoint.current()
        if home is not None and checkpoint.file == self._file:
            checkpoint.model.first_stage_model.to(home)


def check_emphasis(whose: str) -> None:
    """Refuse the setting that has prompts read as they were long ago.

    Args:
        whose: The program, as in "Stable Diffusion's settings".

    Raises:
        HostError: If "Use old emphasis implementation" is on.
    """
    if host_module("shared").opts.use_old_emphasis_implementation:
        raise HostError(f'Disable "Use old emphasis implementation" in {whose} settings to learn.')
