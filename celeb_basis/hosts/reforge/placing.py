"""Where reForge's modules lie: text encoders and denoiser together on the device while gradients flow, free of LoRAs."""

from __future__ import annotations

from typing import Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.ordinary import make_ordinary
from celeb_basis.hosts.reforge.shim import reforge_module


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
