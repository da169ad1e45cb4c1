"""The check of generated faces, with a model that paints given gray levels and a network that reads them as faces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest
from celeb_basis.errors import HostError, SettingsError
from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels
from celeb_basis.names.filters import GeneratedFaceCheck, filter_names
from celeb_basis.names.lists import name_list

BLANK = 0
"""Gray level of a picture without a face; any other is an angle in degrees on the unit circle of faces."""


class Painter:
    """Paints picture ``i`` of a prompt in the gray level ``paint[prompt][i]``, one by one, in a mode that is not RGB."""

    def __init__(self, paint: dict[str, list[int]]) -> None:
        self.paint = paint
        self.requests: list[GenerationRequest] = []
        self.drawn = 0

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        self.requests.append(request)
        for grey in self.paint[request.prompt][: request.count]:
            self.drawn += 1
            yield Image.new("L", (16, 12), grey)


class PaintReader:
    """Finds two faces in every picture that is not blank; the largest, first one has the picture's gray level as its angle."""

    name = "paint"

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        assert picture.shape == (12, 16, 3)
        assert picture.dtype == np.uint8
        if picture[0, 0, 0] == BLANK:
            return []
        large = DetectedFace((0, 0, 8, 8), np.zeros((5, 2), np.float32), 0.9)
        return [large, DetectedFace((0, 0, 2, 2), np.ones((5, 2), np.float32), 0.99)]

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        assert not landmarks.any(), "the small face was chosen"
        return np.full((112, 112, 3), picture[0, 0, 0], np.uint8)

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        angles = np.deg2rad([float(crop[0, 0, 0]) for crop in aligned])
        vectors = np.zeros((len(aligned), 512), np.float32)
        vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
        return vectors


def _check(painter: Painter, **options: Any) -> GeneratedFaceCheck:
    return GeneratedFaceCheck(cast("DiffusionModel", painter), cast("FaceNetwork", PaintReader()), **options)


def test_the_same_face_twice_passes() -> None:
    painter = Painter({"a photo of Tom Hanks": [10, 70]})  # 60 degrees apart: cosine 0.5
    assert _check(painter, seed=7, steps=11)("Tom Hanks") is None
    (request,) = painter.requests
    assert (request.prompt, request.count, request.seed, request.steps) == ("a photo of Tom Hanks", 2, 7, 11)
    assert not request.placeholder_tokens


def test_the_threshold_applies_to_the_cosine_and_the_reason_names_it() -> None:
    painter = Painter({"a photo of Tom Hanks": [10, 70]})
    assert _check(painter, same_face=0.49)("Tom Hanks") is None
    reason = _check(painter, same_face=0.51)("Tom Hanks")
    assert reason == "a different face each time (cosine similarity 0.50, required 0.51)"


def test_more_pictures_are_compared_pair_by_pair() -> None:
    painter = Painter({"a photo of Tom Hanks": [10, 70, 100]})
    mean = np.cos(np.deg2rad([60, 90, 30])).mean()
    assert f"cosine similarity {mean:.2f}" in (_check(painter, pictures=3, same_face=0.9)("Tom Hanks") or "")


def test_a_picture_without_a_face_ends_the_generation() -> None:
    painter = Painter({"a photo of Tom Hanks": [10, BLANK, 10, 10]})
    assert _check(painter, pictures=4)("Tom Hanks") == "no face in generated picture 2 of 4"
    assert painter.drawn == 2


def test_one_picture_only_needs_a_face() -> None:
    painter = Painter({"a photo of Tom Hanks": [10], "a photo of Nobody Here": [BLANK]})
    check = _check(painter, pictures=1)
    assert check("Tom Hanks") is None
    assert check("Nobody Here") == "no face in generated picture 1 of 1"


def test_vectors_that_are_not_numbers_fail() -> None:
    class Broken(PaintReader):
        def embed(self, aligned: Sequence[Pixels]) -> Floats:
            return np.full((len(aligned), 512), np.nan, np.float32)

    painter = Painter({"a photo of Tom Hanks": [10, 10]})
    check = GeneratedFaceCheck(cast("DiffusionModel", painter), cast("FaceNetwork", Broken()))
    assert "different face" in (check("Tom Hanks") or "")


def test_template_braces_and_progress() -> None:
    seen: list[tuple[str, str | None]] = []
    painter = Painter({"{soft} light on A{0} B": [10, 10]})
    check = _check(painter, template="{soft} light on {}", progress=lambda name, verdict: seen.append((name, verdict)))
    assert check("A{0} B") is None
    assert seen == [("A{0} B", None)]


def test_a_model_that_stops_early_is_an_error() -> None:
    with pytest.raises(HostError, match="1 of 2 pictures"):
        _check(Painter({"a photo of Tom Hanks": [10]}))("Tom Hanks")


@pytest.mark.parametrize(
    "options",
    [
        {"template": "a photo"},
        {"template": "{} and {}"},
        {"pictures": 0},
        {"same_face": 1.5},
        {"same_face": float("nan")},
        {"steps": 0},
        {"seed": -1},
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        _check(Painter({}), **options)


def test_it_is_a_face_check_of_the_filter() -> None:
    painter = Painter({"a photo of Tom Hanks": [10, 20], "a photo of Uma Thurman": [10, 200]})
    ids = {"Tom Hanks": [1, 2], "Uma Thurman": [3, 4], "Cher": [5]}
    filtered = filter_names(
        name_list(ids, "test"), lambda texts: [ids[text] for text in texts], face_check=_check(painter)
    )
    assert filtered.names == ("Tom Hanks",)
    assert [item.kind for item in filtered.dropped] == ["face", "too few tokens"]
