"""Identity, Prompt and Detect against values computed by hand and scipy's intervals."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from celeb_basis.errors import EvaluationError
from celeb_basis.evaluation import ImageToEvaluate, evaluate_images, write_result
from celeb_basis.evaluation.metrics import mean_estimate, share_estimate
from celeb_basis.faces.network import DetectedFace, Floats, Pixels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image


def at_angle(degrees: float, length: float = 1.0) -> Floats:
    """A face vector whose cosine with the first axis is known."""
    vector = np.zeros(512, dtype=np.float32)
    vector[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vector * np.float32(length)


REFERENCE = at_angle(0)[None]


@dataclass
class PlannedFaces:
    """A face network that finds, in a picture whose every pixel is ``i``, the faces planned for ``i``: (area's side,
    angle of the vector). It hands them out smallest first, to see that the largest is chosen by size."""

    plan: dict[int, list[tuple[float, float]]]
    name: str = "planned"

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        faces = sorted(self.plan[int(picture[0, 0, 0])])
        return [
            DetectedFace((0, 0, side, side), np.full((5, 2), angle, dtype=np.float32), 0.9) for side, angle in faces
        ]

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        assert picture.shape[2] == 3
        return np.full((112, 112, 3), landmarks[0, 0], dtype=np.uint8)

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        return np.stack([at_angle(float(one[0, 0, 0])) for one in aligned])


@dataclass
class PlannedClip:
    answers: list[float]
    asked: list[str] = field(default_factory=list)
    name: str = "planned clip"

    def score(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        self.asked += prompts
        first = len(self.asked) - len(prompts)
        assert all(np.asarray(picture)[0, 0, 0] == first + i for i, picture in enumerate(pictures))
        return np.array(self.answers[first : first + len(prompts)], dtype=np.float32)


def numbered(count: int, prompt: str = "a photo of <anna> person") -> list[ImageToEvaluate]:
    return [
        ImageToEvaluate(np.full((8, 8, 3), index, np.uint8), prompt, "<anna>", 100 + index, f"{index}.png")
        for index in range(count)
    ]


def test_three_figures() -> None:
    faces = PlannedFaces({0: [(10, 60)], 1: [], 2: [(9, 30), (20, 90)], 3: [(5, 0)]})
    clip = PlannedClip([0.2, 0.3, 0.4, 0.1])
    seen: list[tuple[int, int]] = []
    result = evaluate_images(
        numbered(4), REFERENCE, faces, clip, progress=lambda done, total: seen.append((done, total))
    )

    assert [one.identity for one in result.pictures] == [
        pytest.approx(0.5, abs=1e-6),
        None,
        pytest.approx(0.0, abs=1e-6),  # the largest face, though the smaller one is more alike
        pytest.approx(1.0, abs=1e-6),
    ]
    assert result.identity is not None
    assert result.identity.value == pytest.approx(0.5, abs=1e-6)
    assert result.identity.count == 3
    assert result.prompt is not None
    assert result.prompt.value == pytest.approx(0.25)
    assert result.detect.value == 0.75
    assert (result.count, result.detected_count) == (4, 3)
    assert [one.faces for one in result.pictures] == [1, 0, 2, 1]
    assert clip.asked == ["a photo of person"] * 4
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_best_face_in_company() -> None:
    faces = PlannedFaces({0: [(9, 30), (20, 90)]})
    result = evaluate_images(numbered(1), REFERENCE, faces, face="best")
    assert result.pictures[0].identity == pytest.approx(np.cos(np.radians(30)), abs=1e-6)


def test_several_photos_are_averaged_whatever_their_length() -> None:
    references = np.stack([at_angle(0, 3.0), at_angle(90, 0.5)])
    result = evaluate_images(numbered(1), references, PlannedFaces({0: [(10, 60)]}))
    assert result.pictures[0].identity == pytest.approx((0.5 + np.cos(np.radians(30))) / 2, abs=1e-6)
    single = evaluate_images(numbered(1), at_angle(0), PlannedFaces({0: [(10, 60)]}))
    assert single.pictures[0].identity == pytest.approx(0.5, abs=1e-6)


def test_more_pictures_than_one_batch() -> None:
    answers = list(np.linspace(0, 1, 40))
    result = evaluate_images(numbered(40), REFERENCE, PlannedFaces({i: [] for i in range(40)}), PlannedClip(answers))
    assert [one.prompt_score for one in result.pictures] == pytest.approx(answers)


def test_without_clip_and_without_faces(tmp_path: Path) -> None:
    result = evaluate_images(numbered(3), REFERENCE, PlannedFaces({0: [], 1: [], 2: []}))
    path = tmp_path / "result.json"
    write_result(path, result)
    written = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert written["identity"] is None
    assert written["prompt"] is None
    assert written["detect"]["value"] == 0.0
    assert len(written["notes"]) == 2
    assert "no CLIP" in " ".join(written["notes"])
    assert written["pictures"][2] == {
        "name": "2.png",
        "prompt": "a photo of <anna> person",
        "seed": 102,
        "faces": 0,
        "identity": None,
        "prompt_score": None,
        "detected": False,
    }
    table = result.table().splitlines()
    assert [line.split()[0] for line in table] == ["figure", "Identity", "Prompt", "Detect"]
    assert "no CLIP given" in table[2]
    assert "0.000" in table[3]


def test_refusals() -> None:
    faces = PlannedFaces({0: [(10, 0)]})
    with pytest.raises(EvaluationError, match="generate some"):
        evaluate_images([], REFERENCE, faces)
    for broken in (np.zeros((1, 512)), np.full((1, 512), np.nan), np.zeros((0, 512))):
        with pytest.raises(EvaluationError, match="face vector"):
            evaluate_images(numbered(1), broken.astype(np.float32), faces)
    with pytest.raises(EvaluationError, match="planned clip"):
        evaluate_images(numbered(1), REFERENCE, faces, PlannedClip([float("nan")]))


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (0, 10), (8, 10), (40, 40), (1, 3)])
def test_share_interval_is_wilsons(hits: int, count: int) -> None:
    ours, theirs = share_estimate(hits, count), stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_mean_interval_is_bootstrapped() -> None:
    values = np.random.default_rng(5).normal(0.4, 0.1, 50)
    ours = mean_estimate(values.tolist())
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)
    assert ours == mean_estimate(values.tolist())
    assert mean_estimate([]) is None
    one = mean_estimate([0.3])
    assert one is not None
    assert (one.value, one.low, one.high) == (0.3, None, None)
