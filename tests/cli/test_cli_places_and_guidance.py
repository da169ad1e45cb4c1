"""``generate`` with places and with face guidance, end to end in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celeb_basis.faces.guidance import FaceGuidance
from celeb_basis.faces.network import DetectedFace
from celeb_basis.identities.identity import load_identity, save_identity
from celeb_basis.miniature import PHOTOS


@pytest.mark.usefixtures("library")
def test_places_are_drawn_and_written(celeb: Callable[..., Any], parts: Any, tmp_path: Path) -> None:
    words = [
        "generate",
        "<ada> and a cat",
        "--model",
        parts.model,
        "--steps",
        2,
        "--output",
        tmp_path / "out",
        "--json",
    ]
    plain = celeb(*words).json["pictures"][0]["file"]
    placed = celeb(*words, "--place", "<Ada>=right", "--place", "a cat=0,0.1,0.5,1", "--places-until", 0.6)
    assert placed.err.count("warning") == 0
    with Image.open(plain) as before, Image.open(placed.json["pictures"][0]["file"]) as after:
        assert np.abs(np.asarray(before, int) - np.asarray(after, int)).max() > 0
        assert 'Places: "Ada: right; a cat: 0 0.1 0.5 1", Places until: 0.6' in after.text["parameters"]
        assert "Places" not in before.text["parameters"]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("places", "said"),
    [
        (["ada=left", "a cat=left"], "have the same place"),
        (["ada=0,0,1.5,1"], "reaches out of the image"),
        (["ada=left", "ben=right"], "does not name ben"),
        (["ada=left", "a=0.5,0,0.9,1", "cat=0.9,0,1,1"], "too small for a face"),
        (["ada"], "cannot be read"),
    ],
)
def test_places_that_cannot_be_are_said_and_left_out(
    celeb: Callable[..., Any], parts: Any, tmp_path: Path, places: list[str], said: str
) -> None:
    words = ["generate", "<ada> and a cat", "--model", parts.model, "--steps", 1, "--output", tmp_path / "out"]
    plain = celeb(*words, "--json").json["pictures"][0]["file"]
    answer = celeb(*words, *(word for one in places for word in ("--place", one)))
    assert answer.code == 0
    assert said in answer.err
    assert "generated without places" in answer.err
    with Image.open(plain) as before, Image.open(answer.out.split("\n")[0]) as after:
        assert (np.asarray(before) == np.asarray(after)).all()
        assert "Places" not in after.text["parameters"]


def pixels(path: str) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_face_guidance_changes_images_and_is_written(
    celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = load_identity(library / "ada.safetensors")
    # The portraits of this model are too small for the detector.
    portrait = replace(learned.metadata, thumbnail=(PHOTOS / "stranger1.png").read_bytes())
    save_identity(replace(learned, name="eve", metadata=portrait), tmp_path / "eve.safetensors")
    words = ["generate", "a photo of <eve>", "--identity", tmp_path / "eve.safetensors", "--model", parts.model]
    words += ["--steps", 3, "--output", tmp_path / "out", "--json"]
    plain = celeb(*words).json["pictures"][0]["file"]
    off = celeb(*words, "--face-guidance", 0).json["pictures"][0]["file"]
    assert pixels(plain) == pixels(off)
    # The images of this model show no faces: here is one.
    points = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]], np.float32)

    def one_face(_: FaceGuidance, picture: Any) -> list[DetectedFace]:
        side = float(picture.shape[0])
        return [DetectedFace((0, 0, side, side), points * side, 0.9)]

    monkeypatch.setattr(FaceGuidance, "found", one_face)
    guided = celeb(*words, "--face-guidance", 0.5, "--faces", parts.faces)
    assert guided.err.count("warning") == 0
    with Image.open(plain) as before, Image.open(guided.json["pictures"][0]["file"]) as after:
        assert np.abs(np.asarray(before, int) - np.asarray(after, int)).max() > 0
        assert "Face guidance: 0.5" in after.text["parameters"]
        assert "Face guidance" not in before.text["parameters"]


@pytest.mark.parametrize(("source", "said"), [("invented", "was invented"), ("blended", "is a blend")])
def test_face_guidance_for_someone_without_a_photo_is_said_and_left_out(
    celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path, source: Any, said: str
) -> None:
    learned = load_identity(library / "ada.safetensors")
    nobody = replace(learned, name="nobody", metadata=replace(learned.metadata, source=source))
    save_identity(nobody, tmp_path / "nobody.safetensors")
    words = ["generate", "a photo of <nobody>", "--identity", tmp_path / "nobody.safetensors", "--model", parts.model]
    words += ["--steps", 2, "--output", tmp_path / "out", "--json"]
    plain = celeb(*words).json["pictures"][0]["file"]
    answer = celeb(*words, "--face-guidance", 1, "--faces", parts.faces)
    assert answer.code == 0
    assert f"nobody {said}" in answer.err
    assert "generated without face guidance" in answer.err
    drawn = answer.json["pictures"][0]["file"]
    assert pixels(plain) == pixels(drawn)
    with Image.open(drawn) as after:
        assert "Face guidance" not in after.text["parameters"]


def test_face_guidance_out_of_range(celeb: Callable[..., Any], parts: Any, tmp_path: Path) -> None:
    answer = celeb("generate", "a cat", "--model", parts.model, "--output", tmp_path / "out", "--face-guidance", 1.5)
    assert answer.code == 2
    assert "--face-guidance must be from 0 to 1." in answer.err
