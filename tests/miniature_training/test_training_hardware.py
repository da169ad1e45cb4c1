"""bfloat16 on processors that are fast in it: the same networks, with norms in float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniature.training import fused_norm, hardware
from miniature.training.autoencoder import new_autoencoder
from miniature.training.fused_norm import group_norm
from miniature.training.hardware import half_precision, ready_for_half
from miniature.training.muon import orthogonal
from miniature.training.unet import new_unet, unet_config


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "half_is_fast", lambda *_: True)


def predicted(unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    states = torch.randn(2, 77, 192, generator=generator)
    result: Tensor = unet(latents, torch.tensor([10, 700]), states).sample.float()
    return result


def reconstructed(model: Any) -> Tensor:
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    result: Tensor = model.decode(model.encode(pictures).latent_dist.mean).sample.float()
    return result


@pytest.mark.parametrize(
    ("make", "use"), [(lambda: new_unet(unet_config("small")), predicted), (new_autoencoder, reconstructed)]
)
def test_a_network_ready_for_half_is_the_same_and_stays_near_in_bfloat16(make: Any, use: Any) -> None:
    plain = make().to(memory_format=torch.channels_last)
    ready = ready_for_half(copy.deepcopy(plain))
    assert list(ready.state_dict()) == list(plain.state_dict())
    wanted = use(plain)
    assert torch.allclose(use(ready), wanted, rtol=1e-4, atol=1e-5)
    with half_precision():
        half = use(ready)
    assert 0 < float(((half - wanted).norm() / wanted.norm()).detach()) < 0.05


def test_gradients_in_bfloat16_point_the_same_way() -> None:
    unet = ready_for_half(new_unet(unet_config("small"))).to(memory_format=torch.channels_last)
    weights = list(unet.parameters())

    def gradient() -> Tensor:
        loss = predicted(unet).square().mean()
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, weights)])

    exact = gradient()
    with half_precision():
        half = gradient()
    assert half.dtype == torch.float32
    assert float(torch.cosine_similarity(exact, half, 0)) > 0.995


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("groups", "shape"), [(32, (3, 96, 5, 7)), (4, (2, 20, 1, 1)), (8, (1, 64, 16, 16))])
def test_the_compiled_group_norm_and_its_gradients_are_torchs(
    groups: int, shape: tuple[int, ...], silu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    # Far from zero, where a variance from sums of squares is the least exact.
    values, above = (torch.randn(shape, generator=generator) * 2 + shift for shift in (3.0, 0.0))
    half, above = (one.bfloat16().contiguous(memory_format=torch.channels_last) for one in (values, above))
    norm = nn.GroupNorm(groups, shape[1], eps=1e-5)
    nn.init.normal_(norm.weight, 1, 0.3, generator=generator)
    nn.init.normal_(norm.bias, 0, 0.5, generator=generator)

    def gradients(result: Tensor, x: Tensor, upstream: Tensor) -> list[Tensor]:
        return [one.float() for one in torch.autograd.grad(result, (x, norm.weight, norm.bias), upstream)]

    exact = half.double().requires_grad_()
    double = nn.GroupNorm(groups, shape[1], eps=1e-5).double()
    double.load_state_dict(norm.state_dict())
    wanted = double(exact)
    wanted = F.silu(wanted) if silu else wanted
    expected = torch.autograd.grad(wanted, (exact, double.weight, double.bias), above.double())
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(fused_norm, "compiler", lambda: None)
        x = half.clone().requires_grad_()
        found = group_norm(norm, x, silu=silu)
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.double(), wanted, rtol=1e-2, atol=1e-2)
        for one, other in zip(gradients(found, x, above), expected, strict=True):
            assert float((one.double() - other).norm()) <= 0.01 * float(other.norm()) + 1e-3


def test_a_network_is_compiled_without_being_cut_at_its_norms() -> None:
    unet = ready_for_half(new_unet(unet_config("small"))).to(memory_format=torch.channels_last)
    weights = list(unet.parameters())
    found = []
    for denoise in (unet, torch.compile(unet, backend="aot_eager", fullgraph=True)):
        with half_precision():
            result = predicted(denoise)
        gradients = torch.autograd.grad(result.float().square().mean(), weights)
        found.append((result.float(), torch.cat([one.flatten() for one in gradients])))
    (plain, expected), (compiled, gradient) = found
    assert torch.allclose(plain, compiled, rtol=0.05, atol=0.02)
    assert float(torch.cosine_similarity(expected, gradient, 0)) > 0.99


def test_a_networks_copy_computes_with_its_own_weights() -> None:
    unet = ready_for_half(new_unet(unet_config("small"))).to(memory_format=torch.channels_last)
    other = copy.deepcopy(unet)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert float(predicted(other).detach().abs().max()) == 0
    assert float(predicted(unet).detach().abs().max()) > 0


def test_matrices_are_orthogonalized_in_bfloat16_as_in_float32() -> None:
    matrices = torch.randn(2, 24, 60, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(orthogonal(matrices.bfloat16()).float())
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.25
