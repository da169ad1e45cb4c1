"""Which precision to learn in, and the loss scaling that half precision needs."""

from __future__ import annotations

from typing import Any

import torch

from celeb_basis.hosts.base import Precision
from celeb_basis.settings import PrecisionChoice

_BY_DTYPE: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}


def resolve_precision(choice: PrecisionChoice, dtype: torch.dtype) -> Precision:
    """``auto`` is what the model's weights are held in."""
    return _BY_DTYPE.get(dtype, "fp32") if choice == "auto" else choice


def make_scaler(device: torch.device, precision: Precision) -> Any:
    """A gradient scaler that is switched on for fp16 only: fp16's smallest numbers would swallow the gradients.

    Its starting scale is far below torch's 65,536: the loss's gradient passes through the whole model in fp16, and a
    scale too high costs a skipped step each time it is halved.
    """
    enabled = precision == "fp16"
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type, enabled=enabled, init_scale=1024.0)
    # torch before 2.3 has a scaler for CUDA only, and no fp16 to speak of on the CPU.
    return torch.cuda.amp.GradScaler(enabled=enabled and device.type == "cuda", init_scale=1024.0)
