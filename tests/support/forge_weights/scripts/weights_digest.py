"""An extension for Forge in tests: ``/test/weights`` answers a digest of every weight of the loaded checkpoint."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from modules import script_callbacks, shared


def digests() -> dict[str, str]:
    """By part; before the first checkpoint is loaded there is none."""
    objects = getattr(shared.sd_model, "forge_objects_original", None)
    if objects is None:
        return {}
    parts = {
        "unet": objects.unet.model.diffusion_model,
        "text encoders": objects.clip.cond_stage_model,
        "vae": objects.vae.first_stage_model,
    }
    return {name: _digest(part) for name, part in parts.items()}


def _digest(part: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted((*part.named_parameters(), *part.named_buffers())):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def add_route(_page: Any, app: Any) -> None:
    app.add_api_route("/test/weights", digests, methods=["GET"])


script_callbacks.on_app_started(add_route)
