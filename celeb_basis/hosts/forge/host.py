"""The checkpoint that Forge has loaded, as a :class:`celeb_basis.diffusion_model.DiffusionModel`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from celeb_basis.hosts.a1111.host import EncodedPrompts, FamilyHost, TrainingMode, call_unet
from celeb_basis.hosts.forge.gradients import Casting, compute_dtype, gradients_through
from celeb_basis.hosts.forge.model import ForgeCheckpoint
from celeb_basis.hosts.forge.modules import forge_module, no_model_moves
from celeb_basis.hosts.torch_utils import NormalWeights, frozen, normal_tensor, preserved_random_state

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import Precision


@dataclass(frozen=True)
class _ForgeTrainingMode(TrainingMode):
    dtype: torch.dtype
    """What the denoiser computes in."""
    casting: Casting
    weights: NormalWeights

    def suspend(self) -> None:
        self.weights.restore()
        self.casting.restore()

    def resume(self, checkpoint: ForgeCheckpoint) -> None:
        checkpoint.offload_vae()
        move_to_device(checkpoint)
        self.casting.enable()
        self.weights.enable()


class ForgeHost(FamilyHost[ForgeCheckpoint, _ForgeTrainingMode]):
    """Through Forge, whose text encoders, denoiser, VAE and memory management are all its own."""

    checkpoint_type = ForgeCheckpoint
    casting = "layers"

    @property
    def device(self) -> torch.device:
        """The device that Forge computes on."""
        device: torch.device = forge_module("backend.memory_management").get_torch_device()
        return device

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        """The checkpoint's own weights, as normal tensors, frozen, on the device."""
        checkpoint = self._checkpoint
        unet, text_model = checkpoint.unet, checkpoint.text_model
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            dtype = compute_dtype(precision, self.device)
            # First, since Forge has layers cast whose weights it puts on the CPU for want of room.
            move_to_device(checkpoint)
            casting = Casting(unet, dtype)
            stack.callback(casting.restore)
            casting.enable()
            weights = NormalWeights([unet, text_model])
            stack.callback(weights.restore)
            weights.enable()
            stack.enter_context(frozen([unet, text_model]))
            stack.enter_context(gradients_through(unet, checkpointing=checkpointing))
            stack.callback(setattr, self, "_training", self._training)
            self._training = _ForgeTrainingMode(weakref.ref(checkpoint.model), dtype, casting, weights)
            yield

    def _encoding(self) -> AbstractContextManager[Any]:
        return self._computing()

    def _denoised(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: EncodedPrompts,
        masked: torch.Tensor | None,
    ) -> torch.Tensor:
        checkpoint = self._checkpoint
        with self._computing() as dtype:
            vector = self._vector(conditioning, latents)
            output = call_unet(
                checkpoint.unet,
                latents,
                timesteps,
                conditioning.crossattn,
                vector,
                masked,
                device=self.device,
                dtype=dtype,
            )
        return normal_tensor(output)

    @contextmanager
    def _computing(self) -> Iterator[torch.dtype]:
        """The model on the device, ready to compute; yields what its denoiser computes in.

        Outside of :meth:`prepare_for_training` nothing asks for gradients, so all is computed in inference mode, as by
        Forge itself.
        """
        if self._training is not None:
            with no_model_moves():
                yield self._training.dtype
            return
        checkpoint = self._checkpoint
        move_to_device(checkpoint)
        with torch.inference_mode(), no_model_moves():
            yield checkpoint.unet.computation_dtype


def move_to_device(checkpoint: ForgeCheckpoint) -> None:
    """Move text encoders and denoiser to the device, without the LoRAs of the last prompt; the next one brings its own.

    The patchers that Forge keeps as the original ones know of no LoRA: loading them takes what was merged into the weights
    out again.
    """
    originals = checkpoint.model.forge_objects_original
    with torch.inference_mode():
        forge_module("backend.memory_management").load_models_gpu([originals.unet, originals.clip.patcher])
        for engine in checkpoint.text_encoders:
            # As Forge does before it encodes; here, so that it does not happen to what stands in for the weights.
            embeddings = engine.text_encoder.transformer.text_model.embeddings
            embeddings.position_embedding.to(torch.float32)
            embeddings.token_embedding.to(torch.float32)
