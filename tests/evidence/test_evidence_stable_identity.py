"""StableIdentity's parts against their definitions: views, masks, encoder, the loss in two phases; and that it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.bases import name_list
from support.evidence_testbeds import decode_toy, make_testbed, stranger
from support.toys import ToyModel

from benchmarks.evidence.methods import Milestone, Trained, text_output
from benchmarks.evidence.plan import CROSS_INITIALIZATION, MAIN, STABLE_IDENTITY, shortened
from benchmarks.evidence.precompute import Precomputed, Space, make_bases
from benchmarks.evidence.stable_identity import (
    HAIR,
    FaceEncoder,
    StableIdentityLearner,
    encode_masked_views,
    face_weights,
    masked_view,
    two_phase_loss,
)
from benchmarks.evidence.testbed import EvidenceTestbed
from celeb_basis.diffusion_model import NoiseSchedule, Prediction
from celeb_basis.faces.network import Portrait
from celeb_basis.method import add_noise, prediction_target

FACE = torch.tensor([[[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.6], [0.58, 0.6]]])


def _method(name: str) -> Trained:
    (found,) = (one for one in MAIN if one.name == name)
    assert isinstance(found, Trained)
    return found


@pytest.fixture
def testbed() -> EvidenceTestbed:
    random = np.random.default_rng(1)
    images = [np.repeat(np.repeat(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), 8, 0), 8, 1) for _ in range(2)]
    people = [stranger(f"s{number}", image) for number, image in enumerate(images)]
    return make_testbed(ToyModel(), name_list(40), people, decode_toy, latent_scale=0.5)


def _learned(testbed: EvidenceTestbed, method: Trained, folder: Any, share: float = 1.0) -> Milestone:
    shared = Precomputed(testbed, folder)
    (end,) = method.learn(shared, testbed.strangers, 0, (share,), None)
    return end


def test_weights_are_1_on_the_face_and_a_tenth_on_the_hair_and_0_beyond() -> None:
    weights = face_weights(FACE, 64, 64)[0, 0]
    assert weights[32, 32] == 1  # the nose
    assert weights[26, 26] == 1  # an eye
    assert weights[8, 32] == pytest.approx(HAIR)  # above the forehead
    assert weights[2, 2] == weights[60, 60] == 0
    assert float(weights.max()) == 1
    quarter = face_weights(FACE / 4, 64, 64)[0, 0]
    assert float(quarter.sum()) == pytest.approx(float(weights.sum()) / 16, rel=0.05)


def test_views_are_small_on_black_or_crops_and_landmarks_move_with_them() -> None:
    picture = np.full((64, 64, 3), 200, np.uint8)
    marks = np.array([[24, 24], [40, 24], [32, 32], [26, 42], [38, 42]])
    for x, y in marks[:2]:
        picture[y - 1 : y + 2, x - 1 : x + 2] = (255, 0, 0)
    person = Portrait(picture, marks.astype(np.float32), np.zeros(512, np.float32), "")
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(40):
        view, points = masked_view(person, generator)
        assert view.shape == (64, 64, 3)
        shown = view.astype(int)
        shares.append(float((shown.sum(-1) > 60).mean()))
        assert points[0, 0] < points[1, 0], "left stays left after a flip"
        for x, y in points[:2].round().astype(int):
            if 0 <= x < 64 and 0 <= y < 64:
                assert shown[y, x, 0] - shown[y, x, 1] > 60, "the eye is where the view says"
    crops = [share for share in shares if share == 1]
    small = [share for share in shares if share < 1]
    assert len(crops) >= 10
    assert len(small) >= 10
    assert min(small) >= 0.5**2 - 0.03


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_has_two_phases_and_is_zero_for_a_perfect_denoiser(prediction: Prediction) -> None:
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000), 0)
    schedule = NoiseSchedule(alphas, prediction)
    clean, noise, error = (torch.randn(1, 4, 6, 6) for _ in range(3))
    weights = torch.zeros(1, 1, 6, 6)
    weights[..., :3] = 1
    for time, high in ((599, False), (600, True)):
        times = torch.tensor([time])
        noisy = add_noise(schedule, clean, noise, times)
        perfect = prediction_target(schedule, clean, noise, times)
        assert float(two_phase_loss(schedule, clean, noise, times, noisy, perfect, weights)) < 1e-9
        loss = two_phase_loss(schedule, clean, noise, times, noisy, perfect + error, weights)
        a = float(alphas[time])
        of_noise, of_velocity = (1.0 if high else (1 - a) / a), (a if high else 1 - a)
        factor = of_noise if prediction == "epsilon" else of_velocity
        expected = factor * float((error[..., :3] ** 2).mean())
        assert float(loss) == pytest.approx(expected, rel=1e-3)
        outside = error.clone()
        outside[..., :3] = 0
        assert float(two_phase_loss(schedule, clean, noise, times, noisy, perfect + outside, weights)) < 1e-9


def test_the_encoder_gives_vectors_with_the_celebrities_statistics() -> None:
    generator = torch.Generator().manual_seed(0)
    celebrities = 3 + 0.1 * torch.randn(300, 2, 32, generator=generator) * torch.linspace(0.5, 2, 32)
    encoder = FaceEncoder(celebrities, generator)
    vectors = encoder(torch.nn.functional.normalize(torch.randn(64, 512, generator=generator), dim=-1))
    assert vectors.shape == (64, 2, 32)
    moved = (vectors - celebrities.mean(dim=0)) / celebrities.std(dim=0)
    torch.testing.assert_close(moved.flatten(1).mean(dim=1), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(moved.flatten(1).std(dim=1, unbiased=False), torch.ones(64), atol=1e-3, rtol=0)


def test_it_learns_each_person_alone_and_its_vectors_move(testbed: EvidenceTestbed, tmp_path: Any) -> None:
    method = shortened(_method(STABLE_IDENTITY), 4)
    assert isinstance(method, Trained)
    end = _learned(testbed, method, tmp_path)
    assert (end.step, end.evaluations) == (8, 8)
    assert set(end.token_vectors) == {"s0", "s1"}
    (one,), (other,) = end.token_vectors.values()
    assert one.shape == (2, 32)
    assert not torch.equal(one, other)
    faster = replace(method, settings=replace(method.settings, learning_rate=0.1))
    moved = _learned(testbed, faster, tmp_path).token_vectors["s0"][0]
    assert float((moved - one).norm()) > 0.01


def test_gradients_are_clipped_and_errors_divided_by_the_scale_of_the_latents(testbed: EvidenceTestbed) -> None:
    views = encode_masked_views(testbed, testbed.strangers, 0, 3)
    bases = make_bases(testbed.model, testbed.names, Space("free"), 0)
    settings = replace(_method(STABLE_IDENTITY).settings, components=bases[0].size, steps=2)

    def learner(scale: float) -> StableIdentityLearner:
        made = StableIdentityLearner(testbed.model, bases, views.pool, settings)
        made.use(views, scale)
        return made

    batches = [made.sample_batch() for made in (learner(1.0), learner(0.01))]
    losses = []
    for made, batch in zip((learner(1.0), learner(0.01)), batches, strict=True):
        coefficients = made.coefficients(batch)
        losses.append(float(made.loss(batch, coefficients).detach()))
    assert losses[1] == pytest.approx(100 * losses[0], rel=1e-4)
    made = learner(1e-6)
    next(made.run())
    total = torch.stack([p.grad.norm() for p in made.module.parameters() if p.grad is not None]).norm()
    assert float(total) == pytest.approx(1.0, rel=1e-3)


def test_cross_initialization_starts_at_the_text_encoders_output(sdxl_host: Any, tmp_path: Any) -> None:
    from celeb_basis.names.lists import name_list as names_of
    from celeb_basis.names.lists import shipped_names

    model = sdxl_host
    names = names_of([name for name in shipped_names().names if len(name.split()) == 2][:30], "some")
    bases = make_bases(model, names, Space("free"), 0)
    assert {basis.size for basis in bases} == {max(basis.width for basis in bases)}
    for number, basis in enumerate(bases):
        table = model.text_encoders[number].token_table().float()
        ids = [model.text_encoders[number].tokenize([name])[0][:2] for name in basis.names]
        mean = torch.stack([table[one] for one in ids]).mean(dim=0)
        torch.testing.assert_close(basis.expand(basis.name_coefficients).mean(dim=0), mean)
    person = stranger("s0", np.zeros((64, 64, 3), np.uint8))
    testbed = make_testbed(model, names, [person], decode_toy)
    means = [basis.expand(basis.name_coefficients).mean(dim=0) for basis in bases]
    outputs = text_output(Precomputed(testbed, tmp_path), means)
    assert [one.shape for one in outputs] == [one.shape for one in means]
    for number, (output, encoder) in enumerate(zip(outputs, model.text_encoders, strict=True)):
        states, _ = encoder.encode(["<mean>"], {"<mean>": means}, number, penultimate=True)
        torch.testing.assert_close(output, states[0, 1:3].float())
    method = _method(CROSS_INITIALIZATION)
    learner = method._learner(
        Precomputed(testbed, tmp_path), [person], encode_masked_views(testbed, [person], 0, 2).pool, 0, timed=False
    )
    begun = learner.token_vectors(learner.coefficients(learner.sample_batch())[0])
    for one, other in zip(begun, outputs, strict=True):
        torch.testing.assert_close(one, other)
