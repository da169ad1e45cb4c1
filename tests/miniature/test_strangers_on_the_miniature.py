"""Somebody whom the model never saw becomes a word, and the demo shows it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from celeb_basis.cli.demo import STRANGERS
from celeb_basis.cli.demo_run import face_similarity, load_model
from celeb_basis.cli.main import main
from celeb_basis.diffusion_model import DiffusionModel, TokenVectors
from celeb_basis.events import follow
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import DetectedFace, Floats, Pixels
from celeb_basis.faces.portraits import portrait
from celeb_basis.identities.identity import identity_from_bytes, load_identity
from celeb_basis.method import add_noise, prediction_target
from celeb_basis.miniature import shipped_model_names
from celeb_basis.photos import open_photo
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.run import PhotoInput, TrainingSession, TrainingTask

DRAWS = 96


@torch.no_grad()
def denoising_error(model: DiffusionModel, latent: torch.Tensor, vectors: TokenVectors) -> float:
    """Mean squared error of the predicted velocity for one picture's latent, over the same noises and timesteps."""
    generator = torch.Generator().manual_seed(5)
    errors = []
    for times in torch.linspace(250, 900, DRAWS).long().split(16):
        clean = latent.expand(len(times), -1, -1, -1)
        noise = torch.randn(clean.shape, generator=generator)
        conditioning = model.encode_prompts(["a photo of <x>"] * len(times), {"<x>": vectors})
        predicted = model.predict(add_noise(model.schedule, clean, noise, times), times, conditioning)
        errors.append((predicted - prediction_target(model.schedule, clean, noise, times)).square().mean())
    return float(torch.stack(errors).mean())


def latent_of(model: DiffusionModel, path: Path, faces: InsightFaceNetwork) -> torch.Tensor:
    """``(1, C, h, w)`` of a photo's portrait."""
    shown = portrait(open_photo(path), faces, size=model.info.resolution).picture
    return model.encode_images(torch.from_numpy(shown).permute(2, 0, 1)[None].float() / 127.5 - 1).mean


def test_a_learned_stranger_is_denoised_better_than_by_the_mean_or_as_the_other(
    miniature_faces: InsightFaceNetwork,
) -> None:
    worker = TrainingSession(load_model(), shipped_model_names(), miniature_faces)
    people = tuple(PhotoInput(f"person{number}", (path,)) for number, path in enumerate(STRANGERS, 1))
    job = TrainingTask(people, TrainingSettings(steps=150, views=32, early_stop=False))
    latents = [latent_of(worker.model, path, miniature_faces) for path in STRANGERS]
    outcome = follow(worker.learn(job, threading.Event()))
    assert not any("components" in warning for warning in outcome.warnings), "nobody has chosen their number"
    learned = [identity_from_bytes(content).token_vectors() for content in outcome.identities]
    mean = [built.basis.mean for built in worker.built_bases(128)]
    for latent, own, other in zip(latents, learned, reversed(learned), strict=True):
        by_own, by_other, by_mean = (denoising_error(worker.model, latent, one) for one in (own, other, mean))
        assert by_own < 0.9 * by_other
        assert by_own < 0.9 * by_mean


def test_the_demo_shows_both_people(tmp_path: Path, capsys: pytest.CaptureFixture[str], miniature_folder: Path) -> None:
    del miniature_folder  # assembled, so that the demo finds it
    assert main(["demo", "--steps", "3", "--output", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "index.html" in output
    assert "person1.safetensors" in output
    assert "person2.safetensors" in output
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "&lt;person1&gt; and &lt;person2&gt;" in page
    assert "similarity person1" in page
    assert "For comparison: anybody 0." in page
    assert "the model&#39;s own celebrities 0." in page
    assert load_identity(tmp_path / "people" / "person1.safetensors").metadata.base_model == "miniature"
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 13
    for layout in ("webui", "diffusers"):
        assert (tmp_path / "exports" / layout / "person2.safetensors").is_file()


class TwoFaces:
    """Faces as given; a face's vector says which of the axes it is."""

    name = "two"

    def __init__(self, boxes: list[tuple[float, float]]) -> None:
        self._boxes = boxes

    def detect(self, picture: Pixels) -> list[DetectedFace]:  # noqa: ARG002
        return [
            DetectedFace((left, 0.0, left + 10, 10.0), np.full((5, 2), axis, np.float32), 1.0)
            for left, axis in self._boxes
        ]

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:  # noqa: ARG002
        return np.full((112, 112, 3), int(landmarks[0, 0]), np.uint8)

    def embed(self, faces: list[Pixels]) -> Floats:
        return np.eye(2, dtype=np.float32)[[int(face[0, 0, 0]) for face in faces]]


def test_people_are_compared_from_left_to_right() -> None:
    vectors = {"ada": np.array([1.0, 0.0], np.float32), "ben": np.array([0.0, 1.0], np.float32)}
    picture = np.zeros((20, 40, 3), np.uint8)
    right_way = face_similarity(picture, ("ada", "ben"), vectors, TwoFaces([(25, 1), (2, 0)]))  # type: ignore[arg-type]
    assert right_way.mean == 1.0
    assert right_way.note.startswith("similarity left: ada 1.00 (ben 0.00)")
    wrong_way = face_similarity(picture, ("ada", "ben"), vectors, TwoFaces([(25, 0), (2, 1)]))  # type: ignore[arg-type]
    assert wrong_way.mean == 0.0
    assert face_similarity(picture, ("ada", "ben"), vectors, TwoFaces([(2, 0)])).note == "1 of 2 faces found"  # type: ignore[arg-type]
    assert face_similarity(picture, ("ada",), vectors, TwoFaces([])).mean is None  # type: ignore[arg-type]
