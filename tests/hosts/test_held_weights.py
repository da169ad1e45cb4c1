"""Frozen weights in another dtype for a while: cast once, computed as autocast computes, and bit for bit back."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from support.models import make_host
from torch.utils._python_dispatch import TorchDispatchMode

from celeb_basis.errors import HostError
from celeb_basis.hosts.held_weights import HeldWeights, all_in, check_computes_in, held, ready_for_autocast


def _model(dtype: torch.dtype) -> torch.nn.Sequential:
    torch.manual_seed(0)
    first = torch.nn.Conv2d(8, 16, 3, padding=1)
    model = torch.nn.Sequential(first, torch.nn.GroupNorm(4, 16), torch.nn.Conv2d(16, 8, 1), first)
    model.register_buffer("table", torch.randn(5))
    model.register_buffer("ids", torch.arange(5))
    return model.requires_grad_(False).to(dtype)


def _digests(model: torch.nn.Module) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    return [
        (
            hashlib.sha256(bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())).hexdigest(),
            tensor.dtype,
            tensor.stride(),
        )
        for tensor in (*model.parameters(), *model.buffers())
    ]


_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("stored", _DTYPES)
@pytest.mark.parametrize("wanted", _DTYPES)
@pytest.mark.parametrize("kind", [all_in, ready_for_autocast])
def test_every_weight_comes_back_bit_for_bit(stored: torch.dtype, wanted: torch.dtype, kind: Any) -> None:
    """From one half precision to the other, rounding back alone would lose bits: fp16 has three more than bf16."""
    model = _model(stored)
    before = _digests(model)

    def learn(weights: HeldWeights) -> None:
        assert {part.weight.dtype for part in model if isinstance(part, torch.nn.Conv2d)} == {wanted}
        norm = wanted if kind is all_in else torch.float32
        assert (model[1].weight.dtype, model.table.dtype, model.ids.dtype) == (norm, norm, torch.int64)
        assert model[0].weight is model[3].weight
        for _ in range(2):  # as around previews
            weights.restore()
            assert _digests(model) == before
            weights.enable()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), held([model, model[0]], kind(wanted)) as weights:
        learn(weights)
    assert _digests(model) == before


def test_what_cannot_be_cast_any_more_for_want_of_memory_comes_back_as_well() -> None:
    model = _model(torch.float16)
    before = _digests(model)
    left = [2]

    def target(_part: torch.nn.Module, _tensor: torch.Tensor) -> torch.dtype:
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.bfloat16

    with pytest.raises(torch.OutOfMemoryError), held([model], target):
        pass
    assert _digests(model) == before


def test_a_model_that_its_program_has_discarded_stays_discarded() -> None:
    model = _model(torch.float16)
    weights = HeldWeights([model], all_in(torch.bfloat16))
    weights.enable()
    model.to("meta")  # as the WebUI does when it switches checkpoints
    weights.restore()
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


class _Casts(TorchDispatchMode):
    """Counts the numbers that are cast to another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.numbers += args[0].numel()
        return func(*args, **(kwargs or {}))


def test_autocast_computes_the_same_and_copies_no_weight() -> None:
    model = _model(torch.float32)
    images = torch.randn(1, 8, 4, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16), _Casts() as before:
        expected = model(images)
    precast = held([model], ready_for_autocast(torch.bfloat16))
    with precast, torch.autocast("cpu", dtype=torch.bfloat16), _Casts() as after:
        found = model(images)
    assert torch.equal(found, expected)
    assert before.numbers - after.numbers == 2 * 8 * 16 * 9 + 16 * 8 + 2 * 16 + 8, (
        "weights and biases, one of them twice"
    )


@pytest.mark.parametrize(
    ("stored", "precision"), [(torch.float16, "bf16"), (torch.float32, "bf16"), (torch.float32, "fp16")]
)
def test_a_step_in_another_half_precision_casts_no_weight_and_computes_as_a_checkpoint_loaded_in_it(
    stored: torch.dtype, precision: Any
) -> None:
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    latents, vectors = torch.randn(1, 4, 8, 8), torch.randn(2, 64) * 0.05

    def step(host: Any) -> tuple[torch.Tensor, int]:
        with host.prepare_for_training(precision), _Casts() as casts:
            conditioning = host.encode_prompts(["a <p>"], {"<p>": [vectors]})
            return host.predict(latents, torch.tensor([300]), conditioning), casts.numbers

    host = make_host("sd1", width=64)
    host._pipeline.to(stored)
    weights = sum(parameter.numel() for parameter in host._pipeline.unet.parameters())
    found, casts = step(host)
    assert casts < weights / 50
    loaded = make_host("sd1", width=64)
    loaded._pipeline.to(stored).to(wanted)
    assert torch.equal(found, step(loaded)[0])


def test_a_dtype_that_a_device_cannot_compute_in_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    check_computes_in(torch.device("cpu"), torch.bfloat16)

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(HostError, match=r"cannot compute in float16 on the device cpu: set precision to fp32"):
        check_computes_in(torch.device("cpu"), torch.float16)
