"""Muon moves along the orthogonal part of the momentum, as an exact singular value decomposition gives it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from miniature.training.muon import Muon, orthogonal, split


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_orthogonal_keeps_singular_vectors_and_brings_values_near_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    left = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))[0]
    values = torch.linspace(1.0, 0.1, min(shape))
    moved = orthogonal((left * values @ right.T)[None])[0]
    inside = left.T @ moved @ right
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-3)
    assert float(inside.diagonal().min()) > 0.65
    assert float(inside.diagonal().max()) < 1.25


def test_a_first_step_is_the_orthogonal_gradient_with_an_update_of_adams_size() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(8, 4, 3, 3))
    weight.grad = torch.randn(8, 4, 3, 3)
    Muon([weight], lr=0.01).step()
    wanted = orthogonal(weight.grad.flatten(1)[None])[0]
    moved = weight.detach().flatten(1)
    assert torch.allclose(moved, -0.01 * 0.2 * 36**0.5 * wanted, atol=1e-6)
    assert 0.1 < float(moved.square().mean().sqrt()) / 0.01 < 0.25


def test_momentum_is_nesterovs() -> None:
    gradients = [torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    weight = nn.Parameter(torch.zeros(3, 5))
    optimizer = Muon([weight], lr=1.0, momentum=0.9)
    momentum, wanted = torch.zeros(3, 5), torch.zeros(3, 5)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        wanted -= 0.2 * 5**0.5 * orthogonal((0.1 * gradient + 0.9 * momentum)[None])[0]
    assert torch.allclose(weight.detach(), wanted, atol=1e-4)


def test_workers_change_nothing() -> None:
    def after(workers: ThreadPoolExecutor | None) -> list[torch.Tensor]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
        inner, _ = split(model)
        optimizer = Muon(inner, lr=0.01, weight_decay=0.1, workers=workers)
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(2, 4, 12, 12)).square().sum().backward()
            optimizer.step()
        return [value.detach() for value in inner]

    with ThreadPoolExecutor(2) as workers:
        assert all(torch.equal(a, b) for a, b in zip(after(None), after(workers), strict=True))


def test_split_leaves_vectors_and_named_parts_out() -> None:
    model = nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3), "body": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    inner, rest = split(model, ("conv_in",))
    assert [tuple(value.shape) for value in inner] == [(4, 4)]
    assert len(inner) + len(rest) == len(list(model.parameters()))
