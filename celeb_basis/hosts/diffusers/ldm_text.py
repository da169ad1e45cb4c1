"""Text encoders as they lie in checkpoints of one file: CLIP's in transformers' own keys, OpenCLIP's in OpenCLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers.configs import Config, Family, text_config

if TYPE_CHECKING:
    import torch

Weights = Mapping[str, "torch.Tensor"]

_PROJECTION = "text_projection.weight"

OPEN_CLIP_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""OpenCLIP's names of a layer's parts and transformers' names of them; queries, keys and values are stacked there."""


@dataclass(frozen=True)
class TextPart:
    """Where a checkpoint holds a text encoder."""

    component: str
    """The component's name in diffusers."""
    prefix: str
    open_clip: bool


TEXT_PARTS: dict[Family, list[TextPart]] = {
    "sd1": [TextPart("text_encoder", "cond_stage_model.transformer.text_model.", False)],
    "sd2": [TextPart("text_encoder", "cond_stage_model.model.", True)],
    "sdxl": [
        TextPart("text_encoder", "conditioner.embedders.0.transformer.text_model.", False),
        TextPart("text_encoder_2", "conditioner.embedders.1.model.", True),
    ],
}


def text_weights(weights: Weights, part: TextPart, *, unused_layers: int) -> tuple[Config, dict[str, torch.Tensor]]:
    """The config of a text encoder and its weights under transformers' keys, with ``text_model.`` before them.

    Parameters:
        unused_layers: layers at the end to leave out; SD2 stops before its last one.

    Raises: :class:`HostError` if something is missing.
    """
    own = {key[len(part.prefix) :]: value for key, value in weights.items() if key.startswith(part.prefix)}
    try:
        return _from_open_clip(own, unused_layers) if part.open_clip else _from_clip(own)
    except (KeyError, IndexError, ValueError) as error:
        raise HostError(
            f"The checkpoint's text encoder is incomplete ({part.prefix}* lacks {error}): download it again."
        ) from error


def load_text_encoder(kind: Any, config: Config, weights: Weights, dtype: torch.dtype) -> torch.nn.Module:
    """A ``CLIPTextModel`` or ``CLIPTextModelWithProjection`` with exactly these weights.

    Raises: :class:`HostError` if they are not all there or of other sizes.
    """
    import torch

    with torch.device("meta"):
        model: Any = kind(kind.config_class(**config))
    if not hasattr(model, "text_model"):  # transformers from 5.6 on has no wrapper around CLIPTextModel
        weights = {key.removeprefix("text_model."): value for key, value in weights.items()}
    # A file may hold more than is used: SD2's has a projection, which only SDXL asks for.
    weights = {
        key: value.to(dtype) for key, value in weights.items() if key != _PROJECTION or key in model.state_dict()
    }
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise HostError(
            "The checkpoint's text encoder is incomplete or of an unknown kind: download it again."
        ) from error
    for name, buffer in list(model.named_buffers()):
        owner, _, key = name.rpartition(".")
        model.get_submodule(owner).register_buffer(key, torch.arange(buffer.shape[-1])[None], persistent=False)
    module: torch.nn.Module = model.eval()
    return module


def _from_clip(own: dict[str, torch.Tensor]) -> tuple[Config, dict[str, torch.Tensor]]:
    table = own["embeddings.token_embedding.weight"]
    layers = 1 + max(int(key.split(".")[2]) for key in own if key.startswith("encoder.layers."))
    config = text_config("quick_gelu", table.shape[1], layers)
    config |= {"vocab_size": table.shape[0], "intermediate_size": own["encoder.layers.0.mlp.fc1.weight"].shape[0]}
    found = {f"text_model.{key}": value for key, value in own.items() if not key.endswith("position_ids")}
    return config, found


def _from_open_clip(own: dict[str, torch.Tensor], unused: int) -> tuple[Config, dict[str, torch.Tensor]]:
    table, projection = own["token_embedding.weight"], own.get("text_projection")
    layers = 1 + max(int(key.split(".")[2]) for key in own if key.startswith("transformer.resblocks.")) - unused
    width = table.shape[1]
    config = text_config("gelu", width, layers, projection=None if projection is None else projection.shape[1])
    config |= {"vocab_size": table.shape[0]}
    config |= {"intermediate_size": own["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]}
    found = {
        "text_model.embeddings.token_embedding.weight": table,
        "text_model.embeddings.position_embedding.weight": own["positional_embedding"],
        "text_model.final_layer_norm.weight": own["ln_final.weight"],
        "text_model.final_layer_norm.bias": own["ln_final.bias"],
    }
    if projection is not None:
        found[_PROJECTION] = projection.T.contiguous()
    for layer in range(layers):
        there, here = f"transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            stacked = own[f"{there}.attn.in_proj_{kind}"]
            for name, piece in zip(("q_proj", "k_proj", "v_proj"), stacked.chunk(3), strict=True):
                found[f"{here}.self_attn.{name}.{kind}"] = piece.contiguous()
            for old, new in OPEN_CLIP_PARTS.items():
                found[f"{here}.{new}.{kind}"] = own[f"{there}.{old}.{kind}"]
    return config, found
