"""Group norm with SiLU of bfloat16 values by ``group_norm.c``: torch's own take half the time of a small UNet on a CPU."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniature.compiled import compiler, library

SOURCE = Path(__file__).with_name("group_norm.c")


def group_norm(norm: nn.GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
    """Group norm of ``(N, C, h, w)``, and SiLU after it, computed in float32 and returned as ``x`` is stored.

    Values in bfloat16 with channels last are computed by ``group_norm.c``, all others, and all where there is no C
    compiler, by torch in float32.
    """
    if x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last) and _can_compile():
        result: Tensor = _forward(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)[0]
        return result
    with torch.autocast("cpu", enabled=False):
        normed = F.group_norm(x.float(), norm.num_groups, norm.weight, norm.bias, norm.eps)
        return (F.silu(normed) if silu else normed).to(x.dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _can_compile() -> bool:
    return compiler() is not None


# Operators of torch's library and no autograd function, so that a compiled network need not be cut at every norm.
@torch.library.custom_op("celeb_basis_miniature::group_norm", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> tuple[Tensor, Tensor]:
    """The result, and ``(4, N, C)``: slope and level of each channel, mean and reciprocal deviation of its group."""
    x, weight, bias = x.contiguous(memory_format=torch.channels_last), weight.contiguous(), bias.contiguous()
    result, found = torch.empty_like(x), torch.empty(4, *x.shape[:2])
    _functions().group_norm(
        *map(_address, (x, weight, bias)),
        *_shape(x),
        groups,
        ctypes.c_float(eps),
        silu,
        *map(_address, (result, *found)),
    )
    return result, found


@torch.library.custom_op("celeb_basis_miniature::group_norm_gradient", mutates_args=())
def _gradient(
    above: Tensor, x: Tensor, weight: Tensor, found: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x``, and of weight and bias as ``(2, C)``."""
    above, x = (one.contiguous(memory_format=torch.channels_last) for one in (above, x))
    weight, moved = weight.contiguous(), torch.empty_like(x)
    summed, room = torch.zeros(2, len(weight)), torch.empty(4, len(weight))
    _functions().group_norm_gradient(
        *map(_address, (above, x, weight, *found)), *_shape(x), groups, silu, *map(_address, (moved, *summed, room))
    )
    return moved, summed


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> tuple[Tensor, Tensor]:
    del weight, bias, groups, eps, silu
    found = x.new_empty(4, *x.shape[:2], dtype=torch.float32)
    return torch.empty_like(x, memory_format=torch.channels_last), found


@_gradient.register_fake
def _(above: Tensor, x: Tensor, weight: Tensor, found: Tensor, groups: int, silu: bool) -> tuple[Tensor, Tensor]:
    del above, found, groups, silu
    return torch.empty_like(x, memory_format=torch.channels_last), weight.new_empty(2, len(weight))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, groups, _, silu = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.options = groups, silu


def _backward(ctx: Any, above: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    moved, summed = _gradient(above, *ctx.saved_tensors, *ctx.options)
    return moved, summed[0], summed[1], None, None, None


_forward.register_autograd(_backward, setup_context=_keep)


def _shape(x: Tensor) -> tuple[int, int, int]:
    count, channels, height, width = x.shape
    return count, height * width, channels


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _functions() -> ctypes.CDLL:
    return library(SOURCE, "Group norm")
