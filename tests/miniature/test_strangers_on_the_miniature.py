"""Somebody whom the model never saw becomes a word, and the demo shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from celeb_basis.cli.main import main
from celeb_basis.demo.looking import look
from celeb_basis.demo.run import STRANGERS, load_model
from celeb_basis.executors.work import Interrupt, Job, PersonPhotos, follow
from celeb_basis.executors.worker import Worker
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.types import DetectedFace, Floats, Pixels
from celeb_basis.hosts.base import GenerationRequest, Host, TokenVectors
from celeb_basis.identities.format import identity_from_bytes
from celeb_basis.miniature.shipped import shipped_model_names
from celeb_basis.photos import open_photo
from celeb_basis.settings import LearnSettings

SEEDS = range(4)


def likeness(host: Host, faces: InsightFaceNetwork, vectors: TokenVectors, reference: Floats) -> float:
    """Mean cosine to the reference over some pictures; 0 where there is no face."""
    told = []
    for seed in SEEDS:
        request = GenerationRequest("a photo of <x>", words={"<x>": vectors}, seed=seed, steps=15, guidance=3.0)
        picture = np.asarray(next(iter(host.generate(request))))
        found = faces.detect(picture)
        told.append(float(faces.embed([faces.align(picture, found[0].landmarks)])[0] @ reference) if found else 0.0)
    return float(np.mean(told))


def test_a_learned_stranger_is_more_alike_than_the_mean_and_the_other(miniature_faces: InsightFaceNetwork) -> None:
    worker = Worker(load_model(), shipped_model_names(), miniature_faces)
    people = tuple(PersonPhotos(f"person{number}", (path,)) for number, path in enumerate(STRANGERS, 1))
    job = Job(people, LearnSettings(steps=150, components=192, views=32, early_stop=False))
    outcome = follow(worker.learn(job, Interrupt()), lambda _: None)
    learned = [identity_from_bytes(content).token_vectors() for content in outcome.identities]
    mean = [built.basis.mean for built in worker.built_bases(192)]
    for path, own, other in zip(STRANGERS, learned, reversed(learned), strict=True):
        photo = open_photo(path)
        face = miniature_faces.detect(photo)[0]
        reference = miniature_faces.embed([miniature_faces.align(photo, face.landmarks)])[0]
        seen = [likeness(worker.host, miniature_faces, vectors, reference) for vectors in (own, other, mean)]
        assert seen[0] > seen[1] + 0.05
        assert seen[0] > seen[2] + 0.05


def test_the_demo_shows_both_people(tmp_path: Path, capsys: pytest.CaptureFixture[str], miniature_folder: Path) -> None:
    del miniature_folder  # assembled, so that the demo finds it
    assert main(["demo", "--steps", "3", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "index.html" in told
    assert "person1.safetensors" in told
    assert "person2.safetensors" in told
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "&lt;person1&gt; and &lt;person2&gt;" in page
    assert "likeness" in page
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 10
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
    right_way = look(picture, ("ada", "ben"), vectors, TwoFaces([(25, 1), (2, 0)]))  # type: ignore[arg-type]
    assert right_way.likeness == 1.0
    assert right_way.note.startswith("likeness left: ada 1.00 (ben 0.00)")
    wrong_way = look(picture, ("ada", "ben"), vectors, TwoFaces([(25, 0), (2, 1)]))  # type: ignore[arg-type]
    assert wrong_way.likeness == 0.0
    assert look(picture, ("ada", "ben"), vectors, TwoFaces([(2, 0)])).note == "1 of 2 faces found"  # type: ignore[arg-type]
    assert look(picture, ("ada",), vectors, TwoFaces([])).likeness is None  # type: ignore[arg-type]
