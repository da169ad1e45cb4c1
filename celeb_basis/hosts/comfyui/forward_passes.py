"""What is changed in ComfyUI's models while they are trained through: weights, casts, attention and forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import replaced
from celeb_basis.hosts.comfyui.modules import comfy_module, comfy_part, memory_management
from celeb_basis.hosts.torch_utils import NormalWeights, frozen, on_a_copy, recomputed

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import Precision
    from celeb_basis.hosts.comfyui.model import ComfyModel

_CASTS = "comfy_cast_weights"
"""ComfyUI's switch of a layer that casts its weights to the dtype of its input."""

_ALL = 1e20
"""Bytes to ask ComfyUI for, so that it unloads everything else: how much a backward pass needs is not known to it."""


class TrainingMode:
    """Models that gradients can pass, between :meth:`enable` and :meth:`restore`.

    ComfyUI loads weights in torch's inference mode, and no gradient may pass such tensors. It also computes with attention
    that has no backward pass, and adds to tensors in place that the backward pass needs as they were.

    Args:
        model: The models, which ComfyUI's memory management has as they are.
        dtype: What the denoiser computes in.
        checkpointing: Whether the denoiser's blocks compute their activations again in the backward pass.
    """

    def __init__(self, model: ComfyModel, dtype: torch.dtype, *, checkpointing: bool) -> None:
        self.dtype = dtype
        self._model, self._checkpointing = model, checkpointing
        self._changes = ExitStack()

    def enable(self) -> None:
        """Load denoiser and text encoders, with their LoRAs, and change what has to be changed."""
        modules = [self._model.unet, self._model.text.text_model]
        try:
            load_for_training(self._model)
            stack = self._changes
            stack.enter_context(casting(self._model.unet, self.dtype))
            weights = NormalWeights(modules)
            stack.callback(weights.restore)
            weights.enable()
            stack.enter_context(frozen(modules))
            stack.enter_context(gradients_through(*modules, checkpointing=self._checkpointing))
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Everything as ComfyUI has it."""
        changes, self._changes = self._changes, ExitStack()
        changes.close()


def load_for_training(model: ComfyModel) -> None:
    """Have ComfyUI load denoiser and text encoders as a whole, and unload everything else."""
    with torch.inference_mode():
        memory_management().load_models_gpu(model.patchers, memory_required=_ALL, force_full_load=True)


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of a precision.

    Raises:
        HostError: For fp16 on the CPU.
    """
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if wanted == torch.float16 and device.type == "cpu":
        raise HostError("The CPU cannot compute in fp16: set precision to fp32 or bf16.")
    return wanted


@contextmanager
def casting(module: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Layers whose weights are stored in another dtype than ``dtype`` cast them to that of their input."""
    with ExitStack() as stack:
        for part in module.modules():
            others = any(weight.dtype != dtype for weight in part.parameters(recurse=False))
            if others and getattr(part, _CASTS, None) is False:
                stack.enter_context(replaced(part, **{_CASTS: True}))
        yield


@contextmanager
def gradients_through(unet: torch.nn.Module, text_model: torch.nn.Module, *, checkpointing: bool) -> Iterator[None]:
    """A denoiser and text encoders whose backward pass is right. Nothing that is computed changes.

    Args:
        unet: ComfyUI's denoiser.
        text_model: The module that holds all text encoders.
        checkpointing: Whether the denoiser's blocks compute their activations again in the backward pass.
    """
    attention = comfy_module("comfy.ldm.modules.attention")
    with_gradients = comfy_part("comfy.ldm.modules.attention", "attention_pytorch")
    layer = comfy_part("comfy.clip_model", "CLIPLayer")
    block = comfy_part("comfy.ldm.modules.attention", "BasicTransformerBlock")
    resnet = comfy_part("comfy.ldm.modules.diffusionmodules.openaimodel", "ResBlock")
    with ExitStack() as stack:
        stack.enter_context(
            replaced(attention, optimized_attention=with_gradients, optimized_attention_masked=with_gradients)
        )
        for part in text_model.modules():
            if isinstance(part, layer):
                # What they normalize is added to in place afterwards.
                for norm in (part.layer_norm1, part.layer_norm2):
                    stack.enter_context(replaced(norm, forward=on_a_copy(norm.forward)))
        for part in unet.modules():
            if isinstance(part, resnet):
                stack.enter_context(replaced(part, use_checkpoint=False))  # ComfyUI's own fails with frozen weights
            if checkpointing and isinstance(part, (block, resnet)):
                stack.enter_context(replaced(part, forward=recomputed(_method(part))))
        yield


def _method(part: Any) -> Any:
    return part.forward
