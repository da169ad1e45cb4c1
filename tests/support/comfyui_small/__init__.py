"""A custom node for ComfyUI in tests: lets its loader know small models, and answers hashes of weights.

ComfyUI tells models apart by the sizes of their parts, and has the sizes of text encoders and VAE in its code. Nothing of
ComfyUI's files is changed: its list of kinds gets an entry for each model that ``CELEB_BASIS_SMALL_MODELS`` describes.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import torch

MODELS = json.loads(Path(os.environ["CELEB_BASIS_SMALL_MODELS"]).read_text(encoding="utf-8"))


def _kind(described: dict[str, Any]) -> type:
    base = getattr(comfy.supported_models, described["base"])

    def model_type(self: Any, state_dict: Any, prefix: str = "") -> Any:  # noqa: ARG001
        kinds = comfy.model_base.ModelType
        return kinds.V_PREDICTION if described["velocity"] else kinds.EPS

    def clip_target(self: Any, state_dict: Any = {}) -> Any:  # noqa: B006
        target = base.clip_target(self, state_dict)
        ordinary = target.clip

        class SmallClipModel(ordinary):  # type: ignore[misc, valid-type]
            def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = {}) -> None:  # noqa: B006
                sizes = {f"{name}_model_config": config for name, config in described["text"].items()}
                super().__init__(device=device, dtype=dtype, model_options={**model_options, **sizes})

        return comfy.supported_models_base.ClipTarget(target.tokenizer, SmallClipModel)

    sizes = {"context_dim": described["context"], "model_channels": described["channels"]}
    kept = {key: base.unet_config[key] for key in ("use_linear_in_transformer",) if key in base.unet_config}
    attributes = {
        "unet_config": sizes | kept,
        "unet_extra_config": {**base.unet_extra_config, **described["heads"]},
        "model_type": model_type,
        "clip_target": clip_target,
    }
    return type(f"Small{described['base']}", (base,), attributes)


for one in MODELS:
    if not any(kind.__name__ == f"Small{one['base']}" for kind in comfy.supported_models.models):
        comfy.supported_models.models.insert(0, _kind(one))

_ordinary = comfy.sd.VAE.__init__


def _with_small_sizes(
    self: Any, sd: Any = None, device: Any = None, config: Any = None, dtype: Any = None, metadata: Any = None
) -> None:
    weight = (sd or {}).get("encoder.conv_in.weight")
    for described in MODELS:
        config_of = described["vae"]
        if weight is not None and weight.shape[0] == config_of["ddconfig"]["ch"]:
            config = {"params": config_of}
    _ordinary(self, sd=sd, device=device, config=config, dtype=dtype, metadata=metadata)


comfy.sd.VAE.__init__ = _with_small_sizes


def hashes(**modules: torch.nn.Module) -> dict[str, str]:
    """SHA-256 of the names, dtypes and bytes of every parameter and buffer of some modules."""
    found = {}
    for name, module in modules.items():
        digest = hashlib.sha256()
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        found[name] = digest.hexdigest()
    return found


class HashOfWeights:
    """All weights as ComfyUI computes with them, LoRAs included, and what is marked on them; never cached."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    FUNCTION = "hash_weights"
    CATEGORY = "tests"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",), "clip": ("CLIP",), "vae": ("VAE",)}, "optional": {"after": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: Any) -> bool:  # noqa: ARG003, N802
        return True

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:  # noqa: N802
        return float("nan")

    def hash_weights(self, model: Any, clip: Any, vae: Any, after: Any = None) -> dict[str, Any]:  # noqa: ARG002
        comfy.model_management.load_models_gpu([model, clip.patcher, vae.patcher])
        modules = {"unet": model.model.diffusion_model, "clip": clip.cond_stage_model, "vae": vae.first_stage_model}
        answer: dict[str, Any] = hashes(**modules)
        parts = [part for module in modules.values() for part in module.modules()]
        answer["forwards"] = sum("forward" in vars(part) for part in parts)
        answer["casts"] = sum("comfy_cast_weights" in vars(part) for part in parts)
        answer["wanted"] = sum(weight.requires_grad for module in modules.values() for weight in module.parameters())
        answer["inference"] = sum(
            weight.is_inference() for module in modules.values() for weight in module.parameters()
        )
        return {"ui": {"hashes": [json.dumps(answer)]}}


NODE_CLASS_MAPPINGS = {"TestHashOfWeights": HashOfWeights}
