"""What the machine can do: processes that draw beside the training, and bfloat16 where that is fast."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniature.training.fused_norm import group_norm


def drawing_processes(count: int) -> ProcessPoolExecutor:
    """``count`` new processes with one core each."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_one_core)


def _one_core() -> None:
    import cv2

    # A parent that is killed cannot end them, and they would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def half_is_fast(device: str = "cpu") -> bool:
    """Whether bfloat16 pays: on a GPU, and on a CPU that multiplies in it. Other CPUs emulate it, twenty times as slow."""
    known = torch.cpu.get_capabilities()
    return device != "cpu" or bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def half_precision(device: str = "cpu") -> torch.autocast:
    """Context in which networks compute in bfloat16 where that is fast."""
    return torch.autocast(device, torch.bfloat16, enabled=half_is_fast(device))


def ready_for_half(model: Any, device: str = "cpu") -> Any:
    """Let a network compute norms and attention by other functions on a CPU with fast bfloat16; returns it.

    There the kernels of torch 2.13 for them are four to eight times as slow in bfloat16, which costs more than the
    convolutions gain. Norms are computed in float32, attention by plain products of matrices.
    """
    if device == "cpu" and half_is_fast():
        for part in model.modules():
            kind: type = type(part)
            if kind is nn.GroupNorm:
                part.__class__ = _Norm
            elif kind.__name__ == "ResnetBlock2D":
                part.__class__ = _class(kind, _block)
            elif kind.__name__ == "Upsample2D":
                part.__class__ = _class(kind, _upsampled)
        if hasattr(model, "set_attn_processor"):
            model.set_attn_processor(_Attention())
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation("eager")
    return model


class _Norm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return group_norm(self, x, silu=False)


@cache
def _class(base: type, forward: Callable[..., Tensor]) -> type:
    return type(base.__name__, (base,), {"forward": forward})


def _block(block: Any, x: Tensor, temb: Tensor | None = None) -> Tensor:
    """A residual block of diffusers, with its norms and activations at once."""
    hidden = block.conv1(group_norm(block.norm1, x, silu=True))
    if temb is not None:
        hidden = hidden + block.time_emb_proj(F.silu(temb))[:, :, None, None]
    hidden = block.conv2(group_norm(block.norm2, hidden, silu=True))
    result: Tensor = (x if block.conv_shortcut is None else block.conv_shortcut(x)) + hidden
    return result


def _upsampled(block: Any, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """An upsampling of diffusers to twice the size, or to ``size``, with its convolution.

    By copies and not by :func:`torch.nn.functional.interpolate`, whose gradient in bfloat16 is nothing in networks that
    torch 2.13 compiles for CPUs.
    """
    if size is None:
        count, channels, height, width = x.shape
        twice = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
        larger = twice.reshape(count, channels, 2 * height, 2 * width)
    else:
        larger = F.interpolate(x, size, mode="nearest")
    result: Tensor = block.conv(larger.contiguous(memory_format=torch.channels_last))
    return result


class _Attention:
    """Attention of diffusers, of ``(N, L, D)`` hidden states or of ``(N, D, h, w)`` ones with their own norm."""

    def __call__(
        self,
        attention: Any,
        hidden: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,  # noqa: ARG002 (diffusers passes it)
    ) -> Tensor:
        before = hidden
        if spatial := hidden.ndim == 4:
            hidden = hidden.flatten(2).mT
        if attention.group_norm is not None:
            hidden = attention.group_norm(hidden.mT).mT
        seen = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            projected.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for projected in (attention.to_q(hidden), attention.to_k(seen), attention.to_v(seen))
        )
        with torch.autocast("cpu", enabled=False):
            scores = (query * query.shape[-1] ** -0.5) @ key.mT
            shares = (scores if attention_mask is None else scores + attention_mask).softmax(-1)
            mixed = shares.to(value.dtype) @ value
        result: Tensor = attention.to_out[0](mixed.transpose(1, 2).flatten(2))
        if spatial:
            result = result.mT.reshape(before.shape)
        if attention.residual_connection:
            result = result + before
        return result if attention.rescale_output_factor == 1 else result / attention.rescale_output_factor
