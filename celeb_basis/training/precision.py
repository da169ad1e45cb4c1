"""Which precision to learn in, and the loss scaling that half precision needs."""

from __future__ import annotations

import functools
from typing import Any

import torch

from celeb_basis.diffusion_model import Precision
from celeb_basis.settings import PrecisionChoice

_BY_DTYPE: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}


def resolve_precision(choice: PrecisionChoice, dtype: torch.dtype, device: torch.device) -> Precision:
    """``auto`` is what the model's weights are held in; fp32 in place of fp16 on a device without loss scaling."""
    if choice != "auto":
        return choice
    held = _BY_DTYPE.get(dtype, "fp32")
    return "fp32" if held == "fp16" and not _can_scale(device) else held


def make_scaler(device: torch.device, precision: Precision) -> Any:
    """A gradient scaler that is switched on for fp16 only: fp16's smallest numbers would swallow the gradients. It is off
    where torch cannot scale.

    Its starting scale is far below torch's 65,536: the loss's gradient passes through the whole model in fp16, and a
    scale too high costs a skipped step each time it is halved.
    """
    enabled = precision == "fp16" and _can_scale(device)
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type, enabled=enabled, init_scale=1024.0)
    return torch.cuda.amp.GradScaler(enabled=enabled, init_scale=1024.0)


def _can_scale(device: torch.device) -> bool:
    if not hasattr(torch.amp, "GradScaler"):
        return device.type == "cuda"  # torch before 2.3 has a scaler for CUDA only
    return device.type != "mps" or _gradients_come_back(device.type)


@functools.cache
def _gradients_come_back(kind: str) -> bool:
    """Whether scaled gradients can be scaled back on a device.

    On Apple's that went through float64 at first, which they do not have; from which version on it does not is not
    remembered here, but tried out.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            parameter = torch.zeros(1, device=kind).requires_grad_()
            scaler = torch.amp.GradScaler(kind, init_scale=2.0)
            loss: Any = scaler.scale(parameter.sum())
            loss.backward()
            scaler.unscale_(torch.optim.SGD([parameter], lr=1.0))
            return parameter.grad is not None and float(parameter.grad) == 1.0
    except (TypeError, RuntimeError):
        return False
