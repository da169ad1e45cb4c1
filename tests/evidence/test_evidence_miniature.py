"""Strangers and prompts of the miniature: other pictures of the right people, and scores of what is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.evidence.__main__ import main
from benchmarks.evidence.miniature import PAIR_PROMPTS, PROMPTS, miniature_testbed, parts_shown, strangers_of
from benchmarks.evidence.reporting import Reporter
from miniature.compiled import compiler
from miniature.training.dlib_judge import RecognitionJudge
from miniature.training.places import face_network
from miniature.training.scene_classifier import PARTS, SceneClassifier
from miniature.world.bank import Bank, draw_bank
from miniature.world.scenes import BACKDROPS, MEDIA, THINGS

_LOOKS = 8


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Two people of the world."""
    if compiler() is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("bank")
    draw_bank(folder, [3, 8], 1.0, looks=_LOOKS)
    return Bank(folder)


def test_a_stranger_is_learned_from_one_photo_and_compared_with_others(bank: Bank) -> None:
    faces = face_network()
    strangers = strangers_of(bank, [3, 8], faces, 128)
    assert [stranger.name for stranger in strangers] == ["stranger00", "stranger01"]
    for stranger in strangers:
        assert stranger.portrait.picture.shape == (128, 128, 3)
        assert 1 <= len(stranger.references) <= 4
        pictures = [reference.tobytes() for reference in stranger.references]
        assert len(set(pictures)) == len(pictures), "a reference is used twice"
    vectors = [
        [faces.embed([faces.align(image, faces.detect(image)[0].landmarks)])[0] for image in stranger.references]
        for stranger in strangers
    ]
    photos = [stranger.portrait.vector for stranger in strangers]
    alike = np.array([[np.mean([photo @ one for one in own]) for own in vectors] for photo in photos])
    assert (alike.argmax(1) == [0, 1]).all(), f"photos and references are of different people: {alike}"


def test_the_same_people_give_the_same_strangers(bank: Bank) -> None:
    first, second = (strangers_of(bank, [8], face_network(), 64)[0] for _ in range(2))
    np.testing.assert_array_equal(first.portrait.picture, second.portrait.picture)
    np.testing.assert_array_equal(first.references[0], second.references[0])


class _Answers(SceneClassifier):
    """Gives the same answer for every picture."""

    def __init__(self, **classes: int) -> None:
        super().__init__()
        self._classes = classes

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        logits: dict[str, torch.Tensor] = {part: torch.zeros(len(pictures), count) for part, count in PARTS.items()}
        for part, number in self._classes.items():
            logits[part][:, number] = 1
        return logits


def test_prompts_are_scored_by_what_is_seen() -> None:
    answers = _Answers(
        medium=MEDIA.index("oil painting"),
        backdrop=BACKDROPS.index("beach"),
        thing=THINGS.index("cake"),
        people=2,
    )
    cases = (*PROMPTS, *PAIR_PROMPTS)
    scores = parts_shown(answers)([np.zeros((64, 64, 3), np.uint8)] * len(cases), cases)
    right = {case.label for case, score in zip(cases, scores, strict=True) if score == 1}
    assert right == {"medium: oil painting", "backdrop: beach", "thing: cake", "people: 2"}
    assert {score for score in scores if score != 1} == {0.0}


def test_a_missing_model_gets_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = ["--model", str(tmp_path / "none"), "--bank", str(tmp_path)]
    assert main([*missing, "--results", str(tmp_path / "results"), "--only", "mean"]) == 1
    assert "miniature.training.export" in capsys.readouterr().err


def test_strangers_who_are_not_in_the_bank_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiler() is None:
        pytest.skip("needs a C compiler")
    monkeypatch.setattr("miniature.training.dlib_judge.DlibJudge", lambda: RecognitionJudge(face_network()))
    bank, report = tmp_path / "strangers", Reporter()
    testbed = miniature_testbed(None, strangers=1, report=report, skipped=1, bank=bank)
    (stranger,) = testbed.strangers
    assert stranger.portrait.picture.shape[:2] == (testbed.model.info.resolution,) * 2
    assert len(stranger.references) == 4
    drawn = {path.name: path.stat().st_mtime_ns for path in bank.iterdir()}
    assert len(drawn) == 2, "those who are left out, too: the bank's numbers stay"
    again = miniature_testbed(None, strangers=1, report=report, skipped=1, bank=bank)
    assert again.key == testbed.key
    assert {path.name: path.stat().st_mtime_ns for path in bank.iterdir()} == drawn
