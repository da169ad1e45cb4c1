"""Spaces to learn in, coefficients of any length, and low-rank additions, against finite differences and by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.bases import name_list, toy_bases, toy_pool
from support.toys import ToyHost

from benchmarks.evidence.learners import FreeLearner
from benchmarks.evidence.lora import LowRank
from benchmarks.evidence.spaces import Space, make_bases
from celeb_basis.diffusion_model import Prediction
from celeb_basis.settings import TrainingSettings


def _learner(prediction: Prediction = "epsilon") -> Any:
    model = ToyHost(prediction=prediction)
    settings = TrainingSettings(steps=6, components=8, early_stop=False, batch_size=8, mode="direct")
    return FreeLearner(model, toy_bases(model), toy_pool(("ann", "bob")), settings)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_gradients_are_those_of_finite_differences(prediction: Prediction) -> None:
    trainer = _learner(prediction)
    trainer.model.denoiser.double()
    for encoder in trainer.model.text_encoders:
        encoder.table, encoder.mix = encoder.table.double(), encoder.mix.double()
    trainer._means = [one.double() for one in trainer._means]
    trainer._components = [one.double() for one in trainer._components]
    draw = trainer.draw()
    draw = replace(draw, clean=draw.clean.double(), noise=draw.noise.double())
    start = torch.randn(8, *trainer.average.sums.shape[1:], dtype=torch.float64, generator=trainer.generator)
    start.requires_grad_(True)
    loss = trainer.loss(draw, start)
    (gradient,) = torch.autograd.grad(loss, start)
    way = torch.randn(start.shape, dtype=torch.float64, generator=trainer.generator)
    step = 1e-5
    with torch.no_grad():
        slope = (trainer.loss(draw, start + step * way) - trainer.loss(draw, start - step * way)) / (2 * step)
    assert float(slope) != 0
    assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=2e-3, abs=1e-9)


def test_it_learns_in_float32() -> None:
    trainer = _learner()
    events = list(trainer.run())
    assert trainer.step == trainer.total == 12
    assert np.isfinite([event.loss for event in events[:-1]]).all()


def test_spaces() -> None:
    model, names = ToyHost(), name_list(60)
    plain = make_bases(model, names, Space(), 8)[0]
    for space in (Space("random"), Space("free"), Space(names=20), Space(distinct=True)):
        basis = make_bases(model, names, space, 8)[0]
        assert basis.sha256 != plain.sha256
        gram = torch.einsum("ekd,eld->ekl", basis.components, basis.components)
        torch.testing.assert_close(gram, torch.eye(basis.size).expand_as(gram), atol=1e-4, rtol=0)
        assert basis.name_coefficients.shape == (len(basis.names), basis.positions, basis.size)
        torch.testing.assert_close(
            basis.project(basis.expand(basis.name_coefficients)), basis.name_coefficients, atol=1e-4, rtol=0
        )
    free = make_bases(model, names, Space("free"), 8)[0]
    assert free.size == free.width
    for row, name in enumerate(free.names):
        ids = model.text_encoders[0].tokenize([name])[0]
        torch.testing.assert_close(free.name_coefficients[row], model.text_encoders[0].table[ids], atol=1e-4, rtol=0)
    assert make_bases(model, names, Space("random"), 8)[0].size == 8
    assert len(make_bases(model, names, Space(names=20), 8)[0].names) == 20


def test_low_rank_additions_are_matrix_products_and_leave_nothing_behind() -> None:
    denoiser = torch.nn.Module()
    denoiser.to_q = torch.nn.Linear(6, 5)
    denoiser.other = torch.nn.Linear(6, 5)
    low_rank = LowRank(denoiser, 2, torch.Generator().manual_seed(0))
    x = torch.randn(3, 6)
    plain = denoiser.to_q(x)
    with low_rank.added():
        assert torch.equal(denoiser.to_q(x), plain)  # nothing at first
        torch.nn.init.normal_(low_rank.up[0])
        weight = denoiser.to_q.weight + low_rank.up[0] @ low_rank.down[0]
        torch.testing.assert_close(denoiser.to_q(x), x @ weight.T + denoiser.to_q.bias)
    assert len(low_rank.layers) == 1
    assert torch.equal(denoiser.to_q(x), plain)
