"""Where reForge's modules lie: text encoders and denoiser together on the device while gradients flow, free of LoRAs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.reforge.shim import reforge_module

if TYPE_CHECKING:
    import torch


def hold_on_device(model: Any) -> None:
    """Bring text encoders and denoiser to the device as the checkpoint has them.

    The patchers that reForge keeps as the original ones know of no LoRA: loading them takes what was merged into the
    weights out again. What was loaded while reForge drew, in torch's inference mode, is made ready for gradients.

    Raises: :class:`HostError` if the denoiser has no room on the device as a whole.
    """
    originals = model.forge_objects_original
    patchers = [originals.unet, originals.clip.patcher]
    reforge_module("ldm_patched.modules.model_management").load_models_gpu(patchers)
    for patcher in patchers:
        if getattr(patcher.model, "model_lowvram", False):
            raise HostError(
                "reForge has room for a part of the checkpoint only: close what else uses the graphics card, or choose a "
                "smaller checkpoint, to learn."
            )
    make_ordinary(patcher.model for patcher in patchers)


def make_ordinary(modules: Iterable[torch.nn.Module]) -> None:
    """Put ordinary tensors in the place of parameters and buffers that were made in torch's inference mode, in which no
    gradient may pass them. The values are the same; a tensor that several modules share stays shared."""
    import torch

    made: dict[int, Any] = {}
    with torch.inference_mode(False), torch.no_grad():
        for part in (part for module in modules for part in module.modules()):
            for held in (part._parameters, part._buffers):
                for name, tensor in held.items():
                    if tensor is None or not tensor.is_inference():
                        continue
                    if id(tensor) not in made:
                        copy = tensor.clone()
                        if isinstance(tensor, torch.nn.Parameter):
                            copy = torch.nn.Parameter(copy, requires_grad=False)
                        made[id(tensor)] = copy
                    held[name] = made[id(tensor)]
