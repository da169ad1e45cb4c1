"""Switching off what other parts of the host add to the denoiser and text encoders, and putting it all back."""

from __future__ import annotations

import logging
from typing import Any

from celeb_basis.hosts.webui.shim import host_module, lora_module

_log = logging.getLogger(__name__)

# Switched off by hand below: activating them with nothing would bring in the user's default ones.
_BUILT_IN = ("hypernet", "lora", "lyco")
# Where the host's built-in HyperTile, which computes attention tile by tile, keeps what it was last told of a module.
_HYPERTILE = "__webui_hypertile_params"


class Additions:
    """LoRAs of the last prompt, hypernetworks, UNet overrides, token merging, HyperTile and tiling, as they are now.

    :meth:`switch_off` may be called again at any time, as after a preview, which switches things on; :meth:`put_back`
    once at the end. Networks of other extensions are told to switch off; they are activated anew by the next prompt.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        shared, hijack, lora = host_module("shared"), host_module("sd_hijack").model_hijack, lora_module()
        option = host_module("sd_unet").current_unet_option
        self._unet = "None" if option is None else option.label
        self._merging = getattr(model, "applied_token_merged_ratio", 0)
        self._tiling = hijack.circular_enabled
        self._hypernetworks = shared.loaded_hypernetworks
        tiled = [part for part in model.modules() if hasattr(part, _HYPERTILE)]
        self._hypertile = [(kept, kept.enabled) for kept in (getattr(part, _HYPERTILE) for part in tiled)]
        self._loras = None if lora is None else list(lora.loaded_networks)

    def switch_off(self) -> None:
        """Nothing but the checkpoint's own weights computes from here on."""
        self._other_networks_off()
        host_module("sd_unet").apply_unet("None")
        host_module("sd_models").apply_token_merging(self._model, 0)
        host_module("sd_hijack").model_hijack.apply_circular(False)
        host_module("shared").loaded_hypernetworks = []
        for kept, _ in self._hypertile:
            kept.enabled = False
        self._apply_loras([])

    def put_back(self) -> None:
        """Everything as it was when this was made."""
        if self._loras is not None:
            self._apply_loras(self._loras)
        for kept, enabled in self._hypertile:
            kept.enabled = enabled
        host_module("shared").loaded_hypernetworks = self._hypernetworks
        host_module("sd_hijack").model_hijack.apply_circular(self._tiling)
        host_module("sd_models").apply_token_merging(self._model, self._merging)
        host_module("sd_unet").apply_unet(self._unet)

    def _apply_loras(self, wanted: list[Any]) -> None:
        lora = lora_module()
        if lora is None:
            return
        lora.loaded_networks[:] = wanted
        if host_module("shared").opts.lora_functional:
            return  # the layers add LoRAs to what they compute and leave their weights alone
        # The host would change the weights at each layer's next forward pass; then hashes would differ until then.
        import torch

        nn = torch.nn
        layers = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)  # what LoRAs can change
        with torch.no_grad():
            for part in self._model.modules():
                if isinstance(part, layers) and hasattr(part, "network_layer_name"):
                    lora.network_apply_weights(part)

    def _other_networks_off(self) -> None:
        networks = host_module("extra_networks").extra_network_registry
        others = [network for name, network in networks.items() if name not in _BUILT_IN]
        if not others:
            return
        processing = host_module("processing").StableDiffusionProcessingTxt2Img()
        processing.all_prompts = [""]
        for network in others:
            try:
                network.activate(processing, [])
            except Exception:  # another extension's fault is not the user's reason to stop; the host logs it as well
                _log.warning("The extra network %s could not be switched off.", network.name, exc_info=True)
