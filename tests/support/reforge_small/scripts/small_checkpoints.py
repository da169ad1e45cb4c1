"""An extension for tests alone: reForge tells checkpoints by their full sizes, and reads the small SD1 with this.

Nothing of how it computes is changed; sizes are read from the weights instead of taken from its list.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from ldm_patched.modules import model_detection, sd, sd1_clip, supported_models, supported_models_base

_TEXT = "cond_stage_model.transformer.text_model."


class SmallSD15(supported_models.SD15):
    """SD1 of any width, with the miniature's number of heads, which weights do not show."""

    unet_extra_config: ClassVar[dict[str, int]] = {"num_heads": 4, "num_head_channels": -1}

    def clip_target(self, state_dict: dict[str, Any] | None = None) -> Any:
        model = functools.partial(SmallTextModel, _text_config(state_dict or {}))
        clip = functools.partial(sd1_clip.SD1ClipModel, clip_model=model)
        return supported_models_base.ClipTarget(sd1_clip.SD1Tokenizer, clip)


class SmallTextModel(sd1_clip.SDClipModel):
    """SD1's text encoder of any width."""

    def __init__(self, config: dict[str, Any], **options: Any) -> None:
        super().__init__(textmodel_json_config=config, return_projected_pooled=False, **options)


def _text_config(weights: dict[str, Any]) -> dict[str, Any]:
    width = weights[f"{_TEXT}embeddings.token_embedding.weight"].shape[1]
    layers = {key.split(".")[5] for key in weights if key.startswith(f"{_TEXT}encoder.layers.")}
    return {
        "vocab_size": weights[f"{_TEXT}embeddings.token_embedding.weight"].shape[0],
        "hidden_size": width,
        "intermediate_size": weights[f"{_TEXT}encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // 64,
        "hidden_act": "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 49407,
        "pad_token_id": 1,
        "projection_dim": width,
    }


_known = model_detection.model_config_from_unet_config


def _known_or_small(unet_config: dict[str, Any], state_dict: dict[str, Any] | None = None) -> Any:
    width = unet_config.get("context_dim")
    small = width is not None and width < 768 and unet_config.get("adm_in_channels") is None
    return SmallSD15(unet_config) if small else _known(unet_config, state_dict)


_make_vae = sd.VAE.__init__


def _make_any_vae(self: Any, sd: Any = None, device: Any = None, config: Any = None, **options: Any) -> None:
    if config is None and sd is not None and "decoder.conv_in.weight" in sd:
        widths: list[int] = []
        while (key := f"encoder.down.{len(widths)}.block.0.conv1.weight") in sd:
            widths.append(int(sd[key].shape[0]))
        if widths and widths != [128, 256, 512, 512]:
            config = {"params": {"ddconfig": _vae_config(sd, widths), "embed_dim": 4}}
    _make_vae(self, sd=sd, device=device, config=config, **options)


def _vae_config(weights: Any, widths: list[int]) -> dict[str, Any]:
    blocks = sum(f"encoder.down.0.block.{number}.conv1.weight" in weights for number in range(8))
    return {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": blocks,
        "attn_resolutions": [],
        "dropout": 0.0,
    }


model_detection.model_config_from_unet_config = _known_or_small
sd.VAE.__init__ = _make_any_vae
