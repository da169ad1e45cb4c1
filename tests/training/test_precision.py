"""The precision that ``auto`` chooses, and where losses are scaled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from celeb_basis.training import precision
from celeb_basis.training.precision import make_scaler, resolve_precision

CPU, APPLE = torch.device("cpu"), torch.device("mps")


@pytest.fixture(autouse=True)
def cleared_cache() -> Iterator[None]:
    precision._gradients_come_back.cache_clear()
    yield
    precision._gradients_come_back.cache_clear()


def old_torch(*_: object) -> None:
    """The error of unscaling through float64 on Apple's devices."""
    raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16"), (torch.float16, "fp16")]
)
def test_auto_is_the_dtype_of_the_model(dtype: torch.dtype, expected: str) -> None:
    assert resolve_precision("auto", dtype, CPU) == expected
    assert resolve_precision("bf16", dtype, CPU) == "bf16"
    assert make_scaler(CPU, resolve_precision("auto", dtype, CPU)).is_enabled() == (expected == "fp16")


def test_scaling_is_also_tried_out_in_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        assert precision._gradients_come_back("cpu")
    precision._gradients_come_back.cache_clear()
    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", old_torch)
    assert not precision._gradients_come_back("cpu")


def test_apple_devices_train_in_float32_if_torch_cannot_scale_there(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **_: zeros(*size))  # on the processor, which stands for Apple's
    with monkeypatch.context() as patch:
        patch.setattr(torch.amp.GradScaler, "unscale_", old_torch)
        assert resolve_precision("auto", torch.float16, APPLE) == "fp32"
        assert resolve_precision("auto", torch.bfloat16, APPLE) == "bf16"
        assert resolve_precision("fp16", torch.float16, APPLE) == "fp16", "an explicit choice is respected"
        assert not make_scaler(APPLE, "fp16").is_enabled()
    precision._gradients_come_back.cache_clear()
    assert resolve_precision("auto", torch.float16, APPLE) == "fp16"
    assert make_scaler(APPLE, "fp16").is_enabled()
