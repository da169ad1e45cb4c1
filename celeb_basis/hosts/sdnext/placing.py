"""Where SD.Next's modules lie: text encoders and denoiser together on the device while gradients flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celeb_basis.hosts.ordinary import make_ordinary
from celeb_basis.hosts.sdnext.model import text_parts
from celeb_basis.hosts.sdnext.shim import sdnext_module


@contextmanager
def held_on_device(pipeline: Any) -> Iterator[None]:
    """Text encoders and denoiser on the device, whatever SD.Next would move between its steps; its own ways afterwards.

    What SD.Next made in torch's inference mode is made ready for gradients.
    """
    models, device = sdnext_module("sd_models"), sdnext_module("devices").device
    parts = [pipeline.unet, *text_parts(pipeline)]
    offloading = bool(getattr(pipeline, "has_accelerate", False))
    if offloading:
        models.disable_offload(pipeline)
    homes = [next(part.parameters()).device for part in parts]
    try:
        for part in parts:
            part.to(device)
        make_ordinary(parts)
        yield
    finally:
        for part, home in zip(parts, homes, strict=True):
            part.to(home)
        if offloading:
            # Balanced offloading believes that its hooks are still there unless it is forced.
            models.set_diffuser_offload(pipeline, force=True)
