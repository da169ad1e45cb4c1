"""bfloat16 on processors that are fast in it: the same networks, with norms and attention in float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from miniature.trainer.autoencoder import new_autoencoder
from miniature.trainer.denoiser import unet_config
from miniature.training import hardware
from miniature.training.denoiser import new_unet
from miniature.training.hardware import half_precision, ready_for_half
from miniature.training.muon import orthogonal


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
    plain = make()
    ready = ready_for_half(copy.deepcopy(plain))
    assert list(ready.state_dict()) == list(plain.state_dict())
    wanted = use(plain)
    assert torch.allclose(use(ready), wanted, rtol=1e-4, atol=1e-5)
    with half_precision():
        half = use(ready)
    assert 0 < float(((half - wanted).norm() / wanted.norm()).detach()) < 0.05


def test_gradients_in_bfloat16_point_the_same_way() -> None:
    unet = ready_for_half(new_unet(unet_config("small")))
    weights = list(unet.parameters())

    def gradient() -> Tensor:
        loss = predicted(unet).square().mean()
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, weights)])

    exact = gradient()
    with half_precision():
        half = gradient()
    assert half.dtype == torch.float32
    assert float(torch.cosine_similarity(exact, half, 0)) > 0.995


def test_matrices_are_orthogonalized_in_bfloat16_as_in_float32() -> None:
    matrices = torch.randn(2, 24, 60, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(orthogonal(matrices.bfloat16()).float())
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.25
