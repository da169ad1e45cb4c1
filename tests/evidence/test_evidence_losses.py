"""The losses and spaces on trial, against finite differences, scikit-image, insightface, and by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.bases import name_list, toy_bases, toy_pool
from support.toys import ToyHost

from benchmarks.evidence.face_loss import FaceLoss, aligned, alignment
from benchmarks.evidence.learners import (
    FreeLearner,
    IdentityLearner,
    StableIdentityLearner,
    TwoPhaseLearner,
    moved_into,
    two_phase_loss,
)
from benchmarks.evidence.lora import LowRank
from benchmarks.evidence.spaces import Space, make_bases
from celeb_basis.hosts.base import Prediction
from celeb_basis.learning.learner import Learner
from celeb_basis.learning.objective import add_noise, prediction_target
from celeb_basis.settings import LearnSettings

_MARKS = torch.tensor([[[0.36, 0.4], [0.62, 0.42], [0.5, 0.55], [0.38, 0.68], [0.6, 0.7]]])


def _learner(kind: type[Learner], prediction: Prediction = "epsilon", **changes: Any) -> Learner:
    host = ToyHost(prediction=prediction)
    pool = toy_pool(("ann", "bob"))
    people = tuple(replace(one, landmarks=_MARKS.expand(len(one.descriptions), -1, -1)) for one in pool.people)
    settings = LearnSettings(steps=6, components=8, early_stop=False, batch_size=8, mode="direct").changed(changes)
    learner = kind(host, toy_bases(host), replace(pool, people=people), settings)
    if isinstance(learner, IdentityLearner):
        learner.face_loss = FaceLoss(_decode, _network)
    return learner


def _decode(latents: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(latents[:, :3], scale_factor=8, mode="bilinear").tanh()


def _network(crops: torch.Tensor) -> torch.Tensor:
    weight = torch.randn(3 * 16, 512, generator=torch.Generator().manual_seed(0)).to(crops)
    small = torch.nn.functional.avg_pool2d(crops, 28).flatten(1)
    return torch.nn.functional.normalize(small @ weight, dim=1)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", [TwoPhaseLearner, StableIdentityLearner, IdentityLearner, FreeLearner])
def test_gradients_are_those_of_finite_differences(kind: type[Learner], prediction: Prediction) -> None:
    learner = _learner(kind, prediction)
    learner.host.denoiser.double()
    for encoder in learner.host.text_encoders:
        encoder.table, encoder.mix = encoder.table.double(), encoder.mix.double()
    learner._means = [one.double() for one in learner._means]
    learner._components = [one.double() for one in learner._components]
    draw = learner.draw()
    draw = replace(draw, clean=draw.clean.double(), noise=draw.noise.double())
    start = torch.randn(8, *learner.average.sums.shape[1:], dtype=torch.float64, generator=learner.generator)
    start.requires_grad_(True)
    loss = learner.loss(draw, start)
    (gradient,) = torch.autograd.grad(loss, start)
    way = torch.randn(start.shape, dtype=torch.float64, generator=learner.generator)
    step = 1e-5
    with torch.no_grad():
        slope = (learner.loss(draw, start + step * way) - learner.loss(draw, start - step * way)) / (2 * step)
    assert float(slope) != 0
    assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=2e-3, abs=1e-9)


@pytest.mark.parametrize("kind", [TwoPhaseLearner, StableIdentityLearner, IdentityLearner, FreeLearner])
def test_learners_learn_in_float32(kind: type[Learner]) -> None:
    learner = _learner(kind)
    events = list(learner.run())
    assert learner.step == learner.total == 12
    assert np.isfinite([event.loss for event in events[:-1]]).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_two_phases_by_hand(prediction: Prediction) -> None:
    schedule = ToyHost(prediction=prediction).schedule
    generator = torch.Generator().manual_seed(0)
    clean, noise, other = (torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    times = torch.tensor([599, 600])
    noisy = add_noise(schedule, clean, noise, times)
    # The output that would be right for another clean latent, or for another noise, with the same noisy latent.
    rate = schedule.alphas_cumprod[times].double().reshape(-1, 1, 1, 1)
    wrong_clean = clean + 0.1 * other
    implied = (noisy - rate.sqrt() * wrong_clean) / (1 - rate).sqrt()
    predicted = prediction_target(schedule, wrong_clean, implied, times)
    ones = torch.ones(2, 1, 8, 8, dtype=torch.float64)
    low, high = ((0.1 * other[0]) ** 2).mean(), ((implied - noise)[1] ** 2).mean()
    told = two_phase_loss(schedule, clean, noise, times, noisy, predicted, ones)
    assert float(told) == pytest.approx(float((low + high) / 2), rel=1e-5)


def test_moved_vectors_have_the_celebrities_statistics() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(3, 2, size=(2, 6))
    celebrities = random.normal(size=(30, 2, 6)) * 0.1 + 0.5
    expected = np.empty_like(vectors)
    for e in range(2):
        unit = (vectors[e] - vectors[e].mean()) / vectors[e].std(ddof=1)
        expected[e] = celebrities[:, e].std(axis=0, ddof=1) * unit + celebrities[:, e].mean(axis=0)
    moved = moved_into(torch.from_numpy(vectors), torch.from_numpy(celebrities))
    np.testing.assert_allclose(moved, expected, rtol=1e-10)


def test_alignment_is_scikit_images_and_crops_are_insightfaces() -> None:
    from insightface.utils import face_align
    from skimage.transform import SimilarityTransform

    random = np.random.default_rng(0)
    smooth = np.kron(random.integers(30, 226, (16, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    marks = (_MARKS[0].numpy() * 128 + random.normal(0, 1.5, (5, 2))).astype(np.float32)
    matrix = alignment(torch.from_numpy(marks[None]).double())[0]
    reference = SimilarityTransform()
    assert reference.estimate(marks, face_align.arcface_dst)
    np.testing.assert_allclose(matrix, np.linalg.inv(reference.params)[:2], atol=1e-3)
    crop = aligned(
        torch.from_numpy(smooth[None]).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(marks[None])
    )
    theirs = face_align.norm_crop(smooth, marks, image_size=112).astype(np.float32) / 127.5 - 1
    assert float(np.abs(crop[0].permute(1, 2, 0).numpy() - theirs).mean()) < 0.02


def test_spaces() -> None:
    host, names = ToyHost(), name_list(60)
    plain = make_bases(host, names, Space(), 8)[0]
    for space in (Space("random"), Space("free"), Space(positions=3), Space(names=20), Space(distinct=True)):
        basis = make_bases(host, names, space, 8)[0]
        assert basis.sha256 != plain.sha256
        gram = torch.einsum("ekd,eld->ekl", basis.components, basis.components)
        torch.testing.assert_close(gram, torch.eye(basis.size).expand_as(gram), atol=1e-4, rtol=0)
        assert basis.name_coefficients.shape == (len(basis.names), basis.positions, basis.size)
        torch.testing.assert_close(
            basis.project(basis.expand(basis.name_coefficients)), basis.name_coefficients, atol=1e-4, rtol=0
        )
    free = make_bases(host, names, Space("free"), 8)[0]
    assert free.size == free.width
    for row, name in enumerate(free.names):
        ids = host.text_encoders[0].tokenize([name])[0]
        torch.testing.assert_close(free.name_coefficients[row], host.text_encoders[0].table[ids], atol=1e-4, rtol=0)
    assert make_bases(host, names, Space("random"), 8)[0].size == 8
    assert len(make_bases(host, names, Space(names=20), 8)[0].names) == 20


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
