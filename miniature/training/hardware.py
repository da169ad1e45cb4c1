"""What the machine can do: processes that draw beside the training, and bfloat16 where that is fast."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def drawing_processes(count: int) -> ProcessPoolExecutor:
    """``count`` new processes with one core each."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_one_core)


def _one_core() -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def half_is_fast(device: str = "cpu") -> bool:
    """Whether bfloat16 pays: on a GPU, and on a CPU that multiplies in it. Other CPUs emulate it, twenty times as slow."""
    known = torch.cpu.get_capabilities()
    return device != "cpu" or bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def half_precision(device: str = "cpu") -> torch.autocast:
    """Context in which networks compute in bfloat16 where that is fast."""
    return torch.autocast(device, torch.bfloat16, enabled=half_is_fast(device))


def ready_for_half(model: Any, device: str = "cpu") -> Any:
    """Let a network compute norms and attention in float32 on a CPU with fast bfloat16; returns it.

    There the kernels of torch 2.13 for them are four to eight times as slow in bfloat16, which costs more than the
    convolutions gain. Attention of transformers is computed by plain products of matrices.
    """
    if device == "cpu" and half_is_fast():
        for part in model.modules():
            if type(part) is nn.GroupNorm:
                part.__class__ = _Norm
        if hasattr(model, "set_attn_processor"):
            model.set_attn_processor(_Attention())
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation("eager")
    return model


class _Norm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            normed = F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)
        return normed.to(x.dtype)


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
            mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attention_mask)
        result: Tensor = attention.to_out[0](mixed.transpose(1, 2).flatten(2).to(query.dtype))
        if spatial:
            result = result.mT.reshape(before.shape)
        if attention.residual_connection:
            result = result + before
        return result / attention.rescale_output_factor
