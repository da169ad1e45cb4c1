"""The precision of training, and the loss scaling that half precision needs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from celeb_basis.diffusion_model import Precision
from celeb_basis.settings import PrecisionChoice

_BY_DTYPE: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}


def resolve_precision(choice: PrecisionChoice, dtype: torch.dtype, device: torch.device) -> Precision:
    """The precision to train in: for ``auto`` the weights' own.

    But ``auto`` is fp32 instead of fp16 on a device without loss scaling, and fp16 instead of bf16 on a graphics card that
    computes bf16 only by detours.

    Args:
        choice: The setting.
        dtype: Dtype of the denoiser's weights.
        device: Where the model runs.
    """
    if choice != "auto":
        return choice
    own = _BY_DTYPE.get(dtype, "fp32")
    if own == "bf16" and not computes_bf16(device):
        own = "fp16"
    return "fp32" if own == "fp16" and not _can_scale(device) else own


def computes_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 by itself: NVIDIA's cards do from the generation of 2020 on (Ampere)."""
    if device.type != "cuda" or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) >= (8, 0)


def precision_note(precision: Precision, device: torch.device) -> str:
    """A sentence on what to know about a precision on a device; empty if there is nothing to know."""
    if precision == "bf16" and not computes_bf16(device):
        return "This graphics card has no bf16 of its own and is slow in it: set precision to fp16."
    if precision == "fp32" and device.type == "cuda":
        return (
            "A step in fp32 takes about twice as long as in fp16 or bf16, although TF32 is allowed while learning "
            "(an estimate: no card was measured)."
        )
    return ""


@contextmanager
def tf32_allowed(device: torch.device) -> Iterator[None]:
    """Let a graphics card compute float32's products and convolutions in TF32, with ten bits of mantissa, inside the context.

    Otherwise fp32 would take several times as long: the fast units of a card have no full float32.
    """
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def make_scaler(device: torch.device, precision: Precision) -> Any:
    """A gradient scaler, enabled for fp16 only, where small gradients would underflow; disabled where torch cannot scale.

    The initial scale is far below torch's 65,536: the loss's gradient passes through the whole model in fp16, and a scale
    that is too high costs a skipped step each time it is halved.
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
    """Whether scaled gradients can be unscaled on a device.

    Early versions of torch unscaled through float64, which Apple's devices do not have. This is tried out instead of
    comparing version numbers.
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
