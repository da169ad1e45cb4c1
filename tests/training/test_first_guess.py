"""The first guess against scikit-learn's ridge regression, and where training starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from support.bases import toy_bases, toy_pool
from support.toys import ToyModel

from celeb_basis.errors import TrainingError
from celeb_basis.faces.network import Portrait
from celeb_basis.method import DirectCoefficients, ScaledCoefficients
from celeb_basis.settings import Start, TrainingSettings
from celeb_basis.training.celebrity_faces import CelebrityFaces
from celeb_basis.training.first_guess import (
    first_guesses,
    fit_first_guess,
    guess_coefficients,
    guess_for_portraits,
    unexplained,
)
from celeb_basis.training.trainer import Trainer


def test_the_regression_is_scikit_learns_ridge() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(40, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = vectors @ random.normal(size=(512, 12)) + 0.02 * random.normal(size=(40, 12)) + 0.3
    strengths = (1e-3, 1e-2, 1e-1, 1.0)
    missing = np.concatenate([vectors, np.full((1, 512), np.nan, np.float32)])
    guess = fit_first_guess(
        torch.from_numpy(missing), torch.from_numpy(np.concatenate([known, known[:1]])).reshape(41, 2, 6), strengths
    )
    errors = []
    for strength in strengths:
        left_out = cross_val_predict(Ridge(alpha=strength), vectors.astype(np.float64), known, cv=LeaveOneOut())
        errors.append(float(((left_out - known) ** 2).sum()))
    assert guess.strength == strengths[int(np.argmin(errors))]
    means = np.stack([np.delete(known, row, axis=0).mean(axis=0) for row in range(40)])
    assert guess.explained == pytest.approx(1 - min(errors) / float(((known - means) ** 2).sum()), abs=1e-5)
    other = random.normal(size=(3, 512)).astype(np.float32)
    expected = Ridge(alpha=guess.strength).fit(vectors.astype(np.float64), known).predict(other)
    np.testing.assert_allclose(guess(torch.from_numpy(other)).reshape(3, 12), expected, rtol=1e-3, atol=1e-3)


def test_too_few_faces_are_an_error() -> None:
    with pytest.raises(TrainingError, match="fewer than three"):
        fit_first_guess(torch.full((5, 512), float("nan")), torch.zeros(5, 2, 3))


@pytest.mark.parametrize(("start", "kind"), [("random", DirectCoefficients), ("mean", ScaledCoefficients)])
def test_coefficients_start_where_they_are_initialized(
    start: Start, kind: type[DirectCoefficients | ScaledCoefficients]
) -> None:
    model = ToyModel()
    settings = TrainingSettings(components=6, mode="direct", start=start)
    trainer = Trainer(model, toy_bases(model, components=6), toy_pool(("ann",)), settings)
    assert isinstance(trainer.module, kind)
    if start == "mean":
        assert not trainer.coefficients(trainer.sample_batch()).any()
    known = torch.nn.functional.normalize(torch.randn(1, 1, 2, 6), dim=-1)
    trainer.module.initialize_from(known)
    torch.testing.assert_close(trainer.coefficients(trainer.sample_batch())[0], known[0])


@pytest.mark.parametrize("explained", [-0.03, 0.0, 1e-6])
def test_a_regression_that_explains_nothing_guesses_the_mean_of_that_encoder(explained: float) -> None:
    """The faces say something about the first encoder's coefficients and nothing about the second's."""
    bases = toy_bases(ToyModel((32, 48)), components=6)
    generator = torch.Generator().manual_seed(2)
    first = bases[0].name_coefficients.flatten(1)
    shown = first @ torch.randn(first.shape[1], 512, generator=generator)
    faces = CelebrityFaces(bases[0].names, torch.nn.functional.normalize(shown, dim=1))
    guesses = list(first_guesses(bases, faces))
    assert guesses[0].explained > 0.5
    assert guesses[0].informative
    guesses[1] = replace(guesses[1], explained=explained)
    assert not guesses[1].informative
    vector = faces.vectors[5]
    one, other = guess_coefficients(bases, guesses, vector)
    torch.testing.assert_close(one.norm(dim=-1), bases[0].radius)
    assert not other.any()
    person = Portrait(np.zeros((8, 8, 3), np.uint8), np.zeros((5, 2), np.float32), vector.numpy(), "")
    shared = guess_for_portraits(bases, guesses, [person], shared=True)
    torch.testing.assert_close(shared[0], one)
    assert "clip_g" in unexplained(bases, guesses)
    assert "clip_l" not in unexplained(bases, guesses)
    nothing = [replace(guess, explained=-0.2) for guess in guesses]
    assert not guess_for_portraits(bases, nothing, [person], shared=True).any()
    assert not guess_for_portraits(bases, nothing, [person], shared=False).any()
    assert unexplained(bases, [guesses[0], replace(guesses[1], explained=0.1)]) == ""


def test_not_a_number_explains_nothing() -> None:
    """All coefficients are the same: there is no variance to explain."""
    vectors = torch.nn.functional.normalize(torch.randn(6, 512), dim=1)
    assert not fit_first_guess(vectors, torch.ones(6, 2, 3)).informative


def test_faces_that_have_nothing_to_do_with_the_names_explain_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        vectors = torch.nn.functional.normalize(torch.randn(200, 512, generator=generator), dim=1)
        assert not fit_first_guess(vectors, torch.randn(200, 2, 32, generator=generator)).informative
