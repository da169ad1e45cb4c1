"""Face guidance in the steps of the samplers: whom it moves towards, by how much, and when it leaves a step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_recognizer import network_file

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import HostError
from celeb_basis.faces.guidance import FULL_STEP, FaceGuidance
from celeb_basis.faces.network import DetectedFace, Floats, Pixels
from celeb_basis.faces.recognizer import Recognizer, align

PATTERN = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]], np.float32)


def face_at(left: float, side: float = 24.0) -> DetectedFace:
    return DetectedFace((left, 4.0, left + side, 4.0 + side), PATTERN * side + np.array([left, 4.0], np.float32), 0.9)


class Faces:
    """Finds the same faces in every picture."""

    name = "fixed"

    def __init__(self, *found: DetectedFace) -> None:
        self.found = list(found)
        self.pictures: list[Pixels] = []

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        self.pictures.append(picture)
        return sorted(self.found, key=lambda face: -face.area)

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        raise AssertionError("not needed", picture, landmarks)

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        raise AssertionError("not needed", aligned)


@pytest.fixture
def recognizer(tmp_path: Path) -> Recognizer:
    return Recognizer(network_file(tmp_path / "tiny.onnx"))


def target(seed: int) -> Floats:
    vector = np.random.default_rng(seed).normal(size=16).astype(np.float32)
    return vector / np.linalg.norm(vector)


def decode(latents: torch.Tensor) -> torch.Tensor:
    """Three channels, eight times as large."""
    return torch.tanh(torch.nn.functional.interpolate(latents[:, :3], scale_factor=8.0, mode="bilinear"))


LATENTS = torch.randn(1, 4, 8, 10, generator=torch.Generator().manual_seed(3))


def likeness(recognizer: Recognizer, latents: torch.Tensor, face: DetectedFace, wanted: Floats) -> float:
    with torch.no_grad():
        return float(recognizer(align(decode(latents), face.landmarks))[0] @ torch.from_numpy(wanted))


def test_a_face_becomes_more_like_the_person(recognizer: Recognizer) -> None:
    face, wanted = face_at(20), target(0)
    guidance = FaceGuidance(Faces(face), recognizer, [wanted], 0.2)
    moved = guidance(LATENTS, 9, 10, decode)
    assert likeness(recognizer, moved, face, wanted) > likeness(recognizer, LATENTS, face, wanted) + 1e-3
    assert moved.dtype == LATENTS.dtype
    assert not moved.requires_grad


def test_a_step_is_as_long_as_the_strength_says_whatever_the_networks_scale(recognizer: Recognizer) -> None:
    face, wanted = face_at(20), target(0)
    before = max(0.0, likeness(recognizer, LATENTS, face, wanted))
    share = 24 * 24 / (64 * 80)
    for strength in (0.1, 1.0):
        moved = FaceGuidance(Faces(face), recognizer, [wanted], strength)(LATENTS, 9, 10, decode)
        # Root mean square, if all of it is in the face.
        length = float((moved - LATENTS).norm()) / (share * LATENTS.numel()) ** 0.5 / float(LATENTS.std())
        assert length == pytest.approx(strength * FULL_STEP * (1 - before), rel=1e-3)
    scaled = FaceGuidance(Faces(face), recognizer, [wanted], 1.0)(10 * LATENTS, 9, 10, lambda one: decode(one / 10))
    torch.testing.assert_close(scaled, 10 * moved, rtol=1e-3, atol=1e-3)


def test_faces_are_taken_from_left_to_right_in_the_order_of_the_people(recognizer: Recognizer) -> None:
    left, right = face_at(2, 30), face_at(44, 34)
    one, other = target(1), target(2)
    moved = FaceGuidance(Faces(left, right, face_at(30, 5)), recognizer, [one, other], 0.1)(LATENTS, 9, 10, decode)
    gains = [
        likeness(recognizer, moved, face, who) - likeness(recognizer, LATENTS, face, who)
        for face, who in ((left, one), (right, other))
    ]
    assert min(gains) > 0


def test_who_has_no_vector_is_left_alone(recognizer: Recognizer) -> None:
    left, right = face_at(2, 30), face_at(44, 34)
    moved = FaceGuidance(Faces(left, right), recognizer, [None, target(2)], 0.1)(LATENTS, 9, 10, decode)
    assert likeness(recognizer, moved, right, target(2)) > likeness(recognizer, LATENTS, right, target(2))
    torch.testing.assert_close(moved[..., :3], LATENTS[..., :3])


@pytest.mark.parametrize(
    ("found", "targets", "strength", "step"),
    [
        ([], [target(0)], 1.0, 9),
        ([face_at(20)], [target(0), target(1)], 1.0, 9),
        ([face_at(20)], [None], 1.0, 9),
        ([face_at(20)], [target(0)], 0.0, 9),
        ([face_at(20)], [target(0)], 1.0, 6),
    ],
)
def test_steps_without_guidance_are_left_exactly_as_they_are(
    recognizer: Recognizer, found: list[DetectedFace], targets: list[Floats | None], strength: float, step: int
) -> None:
    assert FaceGuidance(Faces(*found), recognizer, targets, strength)(LATENTS, step, 10, decode) is LATENTS


def test_the_last_third_is_guided_and_at_least_the_last_step(recognizer: Recognizer) -> None:
    guidance = FaceGuidance(Faces(), recognizer, [target(0)], 1.0)
    assert [step for step in range(10) if guidance.acts(step, 10)] == [7, 8, 9]
    assert [step for step in range(2) if guidance.acts(step, 2)] == [1]
    assert guidance.acts(0, 1)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, 0.0])
def test_a_gradient_that_is_not_finite_skips_the_step(recognizer: Recognizer, broken: float) -> None:
    guidance = FaceGuidance(Faces(face_at(20)), recognizer, [target(0)], 1.0)
    assert guidance(LATENTS, 9, 10, lambda latents: decode(latents) * broken) is LATENTS


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strengths_out_of_range(recognizer: Recognizer, strength: float) -> None:
    with pytest.raises(HostError, match="choose 0 to 1"):
        FaceGuidance(Faces(), recognizer, [target(0)], strength)


# In the samplers

REQUEST = GenerationRequest("a cat", count=2, seed=3, steps=6, guidance=3.0)


def pictures(model: Any, request: GenerationRequest) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(one, np.int16) for one in model.generate(request)])


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "rbf"])
@pytest.mark.parametrize(
    "family", ["sd1", pytest.param("sd2", marks=pytest.mark.slow), pytest.param("sdxl", marks=pytest.mark.slow)]
)
def test_every_sampler_goes_on_from_what_was_moved(
    request: pytest.FixtureRequest, recognizer: Recognizer, family: str, sampler: Any
) -> None:
    model = request.getfixturevalue(f"{family}_host")
    asked = replace(REQUEST, sampler=sampler)
    side = model.info.resolution
    faces = Faces(face_at(2, side / 2))
    plain = pictures(model, asked)
    off = FaceGuidance(faces, recognizer, [target(0)], 0.0)
    assert (pictures(model, replace(asked, refine=off)) == plain).all()
    assert not faces.pictures
    guided = pictures(model, replace(asked, refine=replace(off, strength=1.0)))
    assert len(faces.pictures) == 2 * 2  # two images, the last third of six steps
    assert (guided != plain).any(axis=(1, 2, 3)).all()
    assert (pictures(model, asked) == plain).all()


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_what_a_refinement_gives_is_what_is_drawn(sd1_host: Any, sampler: Any) -> None:
    """With the same clean latents in every step, every sampler ends at them."""
    shape = (1, 4, *(sd1_host.info.resolution // sd1_host.info.vae_scale_factor,) * 2)
    wanted = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    drawn = pictures(sd1_host, replace(REQUEST, count=1, sampler=sampler, refine=lambda *_: wanted))
    decoded = ((sd1_host.decode_latents(wanted)[0].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).numpy()
    assert np.abs(drawn[0] - decoded).mean() < 4


def test_the_decoder_that_refinements_get_is_differentiable(sd1_host: Any) -> None:
    """Its gradient is that of finite differences, and nothing of the VAE stays changed."""
    found: list[tuple[float, float]] = []

    def refine(clean: torch.Tensor, step: int, steps: int, decode: Any) -> torch.Tensor:
        del steps
        if step:
            return clean
        with torch.enable_grad():
            latents = clean.detach().float().requires_grad_()
            pixels = decode(latents)
            weights = torch.linspace(-1, 1, pixels.numel()).reshape(pixels.shape)
            (gradient,) = torch.autograd.grad((pixels.float() * weights).sum(), latents)
        direction = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            ends = [(decode(clean + sign * 1e-2 * direction).float() * weights).sum() for sign in (1, -1)]
        found.append((float((gradient * direction).sum()), float(ends[0] - ends[1]) / 2e-2))
        return clean

    pictures(sd1_host, replace(REQUEST, count=1, refine=refine))
    ((by_gradient, by_difference),) = found
    assert by_gradient == pytest.approx(by_difference, rel=0.05)
    assert not any(getattr(one, "gradient_checkpointing", False) for one in sd1_host._vae.module.modules())
