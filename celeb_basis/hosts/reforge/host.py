"""The checkpoint that reForge has loaded, as a :class:`celeb_basis.diffusion_model.DiffusionModel`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.host import (
    EncodedPrompts,
    FamilyHost,
    TrainingMode,
    call_unet,
    check_emphasis,
    has_fast_layout,
)
from celeb_basis.hosts.a1111.model_patches import (
    HOST_CONTEXTS,
    ComputeContexts,
    gradient_checkpointing,
    in_precision,
)
from celeb_basis.hosts.a1111.modules import host_module, replaced
from celeb_basis.hosts.reforge.model import ReForgeCheckpoint, attention_has_gradients
from celeb_basis.hosts.reforge.modules import reforge_module
from celeb_basis.hosts.torch_utils import ChannelsLast, clone_inference_tensors, frozen, preserved_random_state

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import Precision


class ModelPatches:
    """LoRAs and other patches of the last prompt, UNet overrides and tiling, as they are now.

    :meth:`disable` may be called again at any time, as after a preview, which enables things; :meth:`restore` once at the
    end.
    """

    def __init__(self, checkpoint: ReForgeCheckpoint) -> None:
        self._model = checkpoint.model
        option = host_module("sd_unet").current_unet_option
        self._unet = "None" if option is None else option.label
        self._tiling = self._model.tiling_enabled
        self._patched = self._model.forge_objects
        self._stack = ExitStack()

    def disable(self) -> None:
        """From here on, only the checkpoint's own weights compute."""
        host_module("sd_unet").apply_unet("None")
        reforge_module("modules_forge.forge_util").apply_circular_forge(self._model, False)
        self._model.forge_objects = self._model.forge_objects_original.shallow_copy()

    def freeze(self) -> None:
        """From here on, no text encoder is moved, and attention is of a kind that gradients pass."""
        # reForge checks before each prompt what has room on the device, and might send the denoiser away.
        for place in (reforge_module("modules_forge.forge_clip"), reforge_module("modules.sd_models_xl")):
            self._stack.enter_context(replaced(place, move_clip_to_gpu=_stay))
        attention = reforge_module("ldm_patched.ldm.modules.attention")
        if not attention_has_gradients():
            plain = attention.attention_pytorch
            self._stack.enter_context(replaced(attention, optimized_attention=plain, optimized_attention_masked=plain))

    def suspend(self) -> None:
        """Undo :meth:`freeze`, as for a preview."""
        self._stack.close()

    def restore(self) -> None:
        """Everything as it was when this was made."""
        self.suspend()
        self._model.forge_objects = self._patched
        reforge_module("modules_forge.forge_util").apply_circular_forge(self._model, self._tiling)
        host_module("sd_unet").apply_unet(self._unet)


def _stay() -> None:
    """In place of what would move a text encoder."""


@dataclass(frozen=True)
class _ReForgeTrainingMode(TrainingMode):
    patches: ModelPatches
    contexts: ComputeContexts
    layout: ChannelsLast

    def suspend(self) -> None:
        self.layout.restore()
        self.contexts.suspend()
        self.patches.suspend()

    def resume(self, checkpoint: ReForgeCheckpoint) -> None:
        checkpoint.offload_vae()
        self.patches.disable()
        move_to_device(checkpoint)
        self.patches.freeze()
        self.contexts.resume()
        self.layout.enable()


class ReForgeHost(FamilyHost[ReForgeCheckpoint, _ReForgeTrainingMode]):
    """Through reForge, which has the WebUI's text encoders, and a denoiser, a VAE and memory management of its own."""

    checkpoint_type = ReForgeCheckpoint

    @property
    def device(self) -> torch.device:
        """The device that reForge computes on."""
        device: torch.device = host_module("devices").device
        return device

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        """The checkpoint's own weights alone, frozen, on the device."""
        checkpoint = self._checkpoint
        patches = ModelPatches(checkpoint)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.callback(patches.restore)
            patches.disable()
            move_to_device(checkpoint)
            patches.freeze()
            contexts = stack.enter_context(in_precision(checkpoint, precision))
            stack.enter_context(frozen([checkpoint.model]))
            layout = ChannelsLast([checkpoint.unet] if has_fast_layout(self.device, precision) else [])
            stack.callback(layout.restore)
            layout.enable()
            stack.enter_context(gradient_checkpointing(checkpoint, checkpointing, contexts.blocks))
            stack.callback(setattr, self, "_training", self._training)
            self._training = _ReForgeTrainingMode(weakref.ref(checkpoint.model), patches, contexts, layout)
            yield

    def _encoding(self) -> AbstractContextManager[Any]:
        check_emphasis("reForge's")
        return self._contexts.text()

    def _denoised(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: EncodedPrompts,
        masked: torch.Tensor | None,
    ) -> torch.Tensor:
        checkpoint = self._checkpoint
        if self._training is None:
            move_to_device(checkpoint)
            dtype = checkpoint.dtype
        else:  # the weights were made what they are to be computed in
            dtype = checkpoint.weights_dtype
        vector = self._vector(conditioning, latents)
        with self._contexts.denoiser():
            return call_unet(
                checkpoint.unet,
                latents,
                timesteps,
                conditioning.crossattn,
                vector,
                masked,
                device=self.device,
                dtype=dtype,
            )

    @property
    def _contexts(self) -> ComputeContexts:
        return HOST_CONTEXTS if self._training is None else self._training.contexts


def move_to_device(checkpoint: ReForgeCheckpoint) -> None:
    """Move text encoders and denoiser to the device as the checkpoint has them, without LoRAs.

    The patchers that reForge keeps as the original ones know of no LoRA: loading them takes what was merged into the
    weights out again. What was loaded while reForge generated, in torch's inference mode, is made ready for gradients.

    Raises:
        HostError: If the denoiser has no room on the device as a whole.
    """
    originals = checkpoint.model.forge_objects_original
    patchers = [originals.unet, originals.clip.patcher]
    reforge_module("ldm_patched.modules.model_management").load_models_gpu(patchers)
    for patcher in patchers:
        if getattr(patcher.model, "model_lowvram", False):
            raise HostError(
                "reForge has room for a part of the checkpoint only: close what else uses the graphics card, or choose a "
                "smaller checkpoint, to learn."
            )
    clone_inference_tensors(patcher.model for patcher in patchers)
