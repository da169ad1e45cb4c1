"""Switching off what reForge's prompts and settings add to the denoiser and text encoders, and putting it all back."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from celeb_basis.hosts.reforge.model import attention_has_gradients
from celeb_basis.hosts.reforge.shim import reforge_module
from celeb_basis.hosts.webui.shim import host_module, replaced


class Additions:
    """LoRAs and other patches of the last prompt, UNet overrides and tiling, as they are now.

    :meth:`switch_off` may be called again at any time, as after a preview, which switches things on; :meth:`put_back`
    once at the end.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        option = host_module("sd_unet").current_unet_option
        self._unet = "None" if option is None else option.label
        self._tiling = model.tiling_enabled
        self._patched = model.forge_objects
        self._stack = ExitStack()

    def switch_off(self) -> None:
        """Nothing but the checkpoint's own weights computes from here on."""
        host_module("sd_unet").apply_unet("None")
        reforge_module("modules_forge.forge_util").apply_circular_forge(self._model, False)
        self._model.forge_objects = self._model.forge_objects_original.shallow_copy()

    def hold_still(self) -> None:
        """From here on no text encoder is moved, and attention is of a kind that gradients pass."""
        # reForge looks anew at what has room on the device before each prompt, and might send the denoiser away.
        for place in (reforge_module("modules_forge.forge_clip"), reforge_module("modules.sd_models_xl")):
            self._stack.enter_context(replaced(place, move_clip_to_gpu=_stay))
        attention = reforge_module("ldm_patched.ldm.modules.attention")
        if not attention_has_gradients():
            plain = attention.attention_pytorch
            self._stack.enter_context(replaced(attention, optimized_attention=plain, optimized_attention_masked=plain))

    def let_go(self) -> None:
        """What :meth:`hold_still` held goes its own ways again, as for a preview."""
        self._stack.close()

    def put_back(self) -> None:
        """Everything as it was when this was made."""
        self.let_go()
        self._model.forge_objects = self._patched
        reforge_module("modules_forge.forge_util").apply_circular_forge(self._model, self._tiling)
        host_module("sd_unet").apply_unet(self._unet)


def _stay() -> None:
    """In the place of what would move a text encoder."""
