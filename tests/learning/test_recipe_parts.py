"""A recipe's parts, each against an independent reference: scikit-learn, finite differences, masks by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from support.bases import toy_bases
from support.toys import ToyHost

from celeb_basis.basis.basis import Basis
from celeb_basis.errors import LearningError, SettingsError
from celeb_basis.hosts.base import LatentDistribution, Prediction
from celeb_basis.learning.events import Finished
from celeb_basis.learning.face_weights import face_weights
from celeb_basis.learning.first_guess import fit_first_guess
from celeb_basis.learning.head import DirectCoefficients
from celeb_basis.learning.learner import Learner
from celeb_basis.learning.objective import add_noise, diffusion_loss, predicted_clean, prediction_target, weighted_mean
from celeb_basis.learning.recipe import Recipe
from celeb_basis.learning.state import resume_learner, save_state
from celeb_basis.settings import LearnSettings
from celeb_basis.views.pool import PersonViews, ViewPool

_FACE = torch.tensor([[[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.6], [0.58, 0.6]]])


def _pool(landmarks: bool = True) -> ViewPool:
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(2, 4, 8, 8, generator=generator)
    vectors = torch.nn.functional.normalize(torch.randn(2, 512, generator=generator), dim=-1)
    places = _FACE.expand(2, -1, -1) if landmarks else None
    person = PersonViews(
        "ann", b"png", LatentDistribution(mean, 0.05 * torch.ones_like(mean)), vectors, ("", ""), places
    )
    return ViewPool((person,), "none")


def _learner(basis: Basis, recipe: Recipe | None = None, landmarks: bool = True, **changes: object) -> Learner:
    settings = LearnSettings(steps=12, components=basis.size, early_stop=False).changed(changes)
    return Learner(ToyHost(), [basis], _pool(landmarks), settings, **({} if recipe is None else {"recipe": recipe}))


@pytest.fixture
def basis() -> Basis:
    return toy_bases(ToyHost(), components=6)[0]


def _run(learner: Learner) -> torch.Tensor:
    assert isinstance(list(learner.run())[-1], Finished)
    return learner.results()[0].coefficients[0]


@pytest.mark.parametrize("mode", ["head", "direct"])
def test_a_neutral_recipe_changes_not_a_bit(basis: Basis, mode: str) -> None:
    plain, neutral = _run(_learner(basis, mode=mode)), _run(_learner(basis, Recipe(), mode=mode))
    without_landmarks = _run(_learner(basis, Recipe(), landmarks=False, mode=mode))
    assert torch.equal(plain, neutral)
    assert torch.equal(plain, without_landmarks)


@pytest.mark.parametrize(
    "recipe", [Recipe(radius="celebrities"), Recipe(earliest=0.5), Recipe(hair=0.1, background=0.0)]
)
def test_every_part_does_something(basis: Basis, recipe: Recipe) -> None:
    assert not torch.equal(_run(_learner(basis)), _run(_learner(basis, recipe)))


def test_radius_is_the_names_own_root_mean_square(basis: Basis) -> None:
    learner = _learner(basis, Recipe(radius="celebrities"), mode="direct")
    lengths = learner.coefficients(learner.draw()).norm(dim=-1)
    names = basis.name_coefficients.numpy()
    for position in range(2):
        expected = np.sqrt(np.mean([np.sum(row[position] ** 2) for row in names]))
        np.testing.assert_allclose(lengths[:, 0, position].detach(), expected, rtol=1e-5)


@pytest.mark.parametrize(("earliest", "latest", "low", "high"), [(0.2, 0.5, 200, 499), (0.999, 1.0, 999, 999)])
def test_timesteps_stay_in_their_range(basis: Basis, earliest: float, latest: float, low: int, high: int) -> None:
    learner = _learner(basis, Recipe(earliest=earliest, latest=latest), batch_size=64)
    drawn = torch.cat([learner.draw().timesteps for _ in range(20)])
    assert low <= int(drawn.min()) <= int(drawn.max()) <= high
    assert int(drawn.max()) - int(drawn.min()) >= 0.9 * (high - low)


def test_values_out_of_range_are_refused() -> None:
    for wrong in ({"radius": "far"}, {"hair": 2.0}, {"background": float("nan")}, {"earliest": 0.5, "latest": 0.5}):
        with pytest.raises(SettingsError):
            Recipe(**wrong)  # type: ignore[arg-type]


def test_a_masked_loss_needs_to_know_where_the_face_is(basis: Basis) -> None:
    with pytest.raises(LearningError, match="ann's face"):
        _learner(basis, Recipe(background=0.0), landmarks=False)


def test_a_state_keeps_its_recipe_and_goes_on_to_the_same_bits(basis: Basis, tmp_path: Path) -> None:
    recipe = Recipe(radius="celebrities", earliest=0.1, latest=0.9, hair=0.1, background=0.2)
    whole = _run(_learner(basis, recipe))
    learner = _learner(basis, recipe)
    for event in learner.run():
        if getattr(event, "step", 0) == 5:
            learner.interrupt()
    save_state(learner, tmp_path / "state.safetensors")
    again = resume_learner(tmp_path / "state.safetensors", ToyHost(), [basis])
    assert again.recipe == recipe
    assert torch.equal(_run(again), whole)


def test_face_weights_by_hand() -> None:
    weights = face_weights(_FACE, 40, 40, hair=0.5, background=0.25)[0, 0]
    # Eyes' middle (0.5, 0.4), mouth's 0.2 below, eyes 0.2 apart: the face's oval is centred on y = 0.48, half as wide as
    # 0.23 and half as high as 0.29; the head's on y = 0.42, 0.32 and 0.42. A place is 1/40, its centre at half of that.
    seen = {
        (19, 19): 1.0,  # the middle of the face
        (19, 11): 1.0,  # x = 0.2875, within 0.27 to 0.73
        (19, 9): 0.5,  # x = 0.2375: beside the face
        (19, 3): 0.25,  # x = 0.0875: beyond the hair
        (5, 19): 0.5,  # y = 0.1375: above the brow
        (32, 19): 0.5,  # y = 0.8125: under the chin
        (36, 19): 0.25,  # y = 0.9125
        (0, 0): 0.25,
    }
    assert {place: round(float(weights[place]), 4) for place in seen} == seen
    torch.testing.assert_close(weights, weights.flip(1))


def test_a_turned_face_has_turned_weights() -> None:
    turned = torch.stack([1 - _FACE[..., 1], _FACE[..., 0]], dim=-1)
    expected = torch.rot90(face_weights(_FACE, 16, 16, hair=0.1, background=0.0)[0, 0], -1)
    torch.testing.assert_close(face_weights(turned, 16, 16, hair=0.1, background=0.0)[0, 0], expected)


def test_a_tiny_face_is_not_lost() -> None:
    small = 0.9 + 0.06 * (_FACE - 0.5)
    weights = face_weights(small, 8, 8, background=0.0, hair=0.0)[0, 0]
    area = np.pi * 1.15 * 1.45 * (0.2 * 0.06) ** 2 * 64
    assert float(weights.sum()) == pytest.approx(area, rel=0.35)


def test_weighted_mean_by_hand() -> None:
    errors = torch.arange(8, dtype=torch.float64).reshape(1, 2, 2, 2)
    weights = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]]]], dtype=torch.float64)
    assert float(weighted_mean(errors, weights)) == pytest.approx((0 + 4 + 3 * 3 + 3 * 7) / 8)
    assert float(weighted_mean(errors, torch.zeros_like(weights))) == 0.0
    assert float(weighted_mean(errors, torch.ones_like(weights))) == pytest.approx(float(errors.mean()))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_predicted_clean_undoes_the_noising(prediction: Prediction) -> None:
    schedule = ToyHost(prediction=prediction).schedule
    clean, noise = torch.randn(4, 4, 8, 8).double(), torch.randn(4, 4, 8, 8).double()
    timesteps = torch.tensor([0, 250, 600, 900])
    noisy = add_noise(schedule, clean, noise, timesteps)
    perfect = prediction_target(schedule, clean, noise, timesteps)
    torch.testing.assert_close(predicted_clean(schedule, noisy, perfect, timesteps), clean)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_gradients_of_the_masked_loss_are_those_of_finite_differences(basis: Basis, prediction: Prediction) -> None:
    host = ToyHost(prediction=prediction)
    host.denoiser.double()
    generator = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    timesteps = torch.tensor([300])
    weights = face_weights(_FACE, 8, 8, hair=0.1, background=0.05).double()

    def loss(coefficients: torch.Tensor) -> torch.Tensor:
        vectors = basis.mean.double() + torch.einsum("ek,ekd->ed", coefficients, basis.components.double())
        conditioning = host.encode_prompts(["face of <p> person"], {"<p>": [vectors]}).double()
        return diffusion_loss(host, clean, noise, timesteps, conditioning, weights)

    start = torch.randn(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (start,), eps=1e-6, atol=1e-8, rtol=1e-4)


def test_the_first_guess_is_scikit_learns_ridge() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(40, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    told = vectors @ random.normal(size=(512, 12)) + 0.02 * random.normal(size=(40, 12)) + 0.3
    strengths = (1e-3, 1e-2, 1e-1, 1.0)
    missing = np.concatenate([vectors, np.full((1, 512), np.nan, np.float32)])
    guess = fit_first_guess(
        torch.from_numpy(missing), torch.from_numpy(np.concatenate([told, told[:1]])).reshape(41, 2, 6), strengths
    )
    errors = []
    for strength in strengths:
        left_out = cross_val_predict(Ridge(alpha=strength), vectors.astype(np.float64), told, cv=LeaveOneOut())
        errors.append(float(((left_out - told) ** 2).sum()))
    assert guess.strength == strengths[int(np.argmin(errors))]
    means = np.stack([np.delete(told, row, axis=0).mean(axis=0) for row in range(40)])
    assert guess.explained == pytest.approx(1 - min(errors) / float(((told - means) ** 2).sum()), abs=1e-5)
    other = random.normal(size=(3, 512)).astype(np.float32)
    expected = Ridge(alpha=guess.strength).fit(vectors.astype(np.float64), told).predict(other)
    np.testing.assert_allclose(guess(torch.from_numpy(other)).reshape(3, 12), expected, rtol=1e-3, atol=1e-3)


def test_too_few_faces_are_told() -> None:
    with pytest.raises(LearningError, match="Fewer than three"):
        fit_first_guess(torch.full((5, 512), float("nan")), torch.zeros(5, 2, 3))


def test_coefficients_begin_where_they_are_told(basis: Basis) -> None:
    learner = _learner(basis, mode="direct")
    assert isinstance(learner.model, DirectCoefficients)
    start = torch.nn.functional.normalize(torch.randn(1, 1, 2, 6), dim=-1)
    learner.model.begin_at(start)
    torch.testing.assert_close(learner.coefficients(learner.draw())[0], start[0])
