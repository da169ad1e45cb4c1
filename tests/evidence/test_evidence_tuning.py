"""Tuning: the best candidates are chosen, kept, read by plans, and refused for people whom they were tuned on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bases import name_list
from support.evidence_testbeds import decode_toy, make_testbed, stranger
from support.toys import ToyModel

from benchmarks.evidence.methods import Trained, Untuned
from benchmarks.evidence.plan import (
    FULL,
    LORA_TUNED,
    LORA_TUNED_TIMED,
    PAPER,
    TEXTUAL_INVERSION_TUNED,
    TEXTUAL_INVERSION_TUNED_TIMED,
    TUNED,
    Plan,
    limited,
)
from benchmarks.evidence.results import Results
from benchmarks.evidence.runner import cells_of, run
from benchmarks.evidence.summary import Point, Row
from benchmarks.evidence.testbed import EvidenceTestbed
from benchmarks.evidence.tuning import (
    FILE,
    SHARES,
    STEPS,
    candidates,
    choose,
    read_tuned,
    save_tuned,
    score,
    tuning_plan,
    with_tuned,
)
from celeb_basis.errors import FileError, TrainingError
from celeb_basis.evaluation.metrics import Estimate


def _point(identity: float | None, prompt: float | None = 0.5, detect: float = 1.0) -> Point:
    figures = {
        name: None if value is None else Estimate(value, None, None, 1)
        for name, value in (("identity", identity), ("prompt", prompt), ("detect", detect))
    }
    return Point(0, 0, 0, figures)


def _row(method: str, identities: list[float]) -> Row:
    points = tuple(_point(one) for one in identities)
    return Row(method, points, points[-1], 2, 1)


@pytest.fixture
def testbed() -> EvidenceTestbed:
    random = np.random.default_rng(1)
    images = [np.repeat(np.repeat(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), 8, 0), 8, 1) for _ in range(2)]
    people = [stranger(f"s{number}", image) for number, image in enumerate(images)]
    return make_testbed(ToyModel(), name_list(40), people, decode_toy)


def test_candidates_differ_in_everything_that_is_tuned() -> None:
    found = candidates()
    assert len({one.name for one in found}) == len({str(one.describe()) for one in found}) == len(found)
    inversions = [one for one in found if one.loop == "free"]
    loras = [one for one in found if one.loop == "lora"]
    assert len({(one.settings.learning_rate, one.word) for one in inversions}) == len(inversions) >= 5
    assert len({(one.settings.learning_rate, one.rank) for one in loras}) == len(loras) >= 6
    assert {one.settings.steps for one in found} == {STEPS}


def test_the_score_counts_likeness_prompt_and_faces() -> None:
    assert score(_point(0.4, 0.5, 0.5)) == pytest.approx(0.1)
    assert score(_point(0.4, None, 0.5)) == pytest.approx(0.2)
    assert score(_point(None, 0.5, 0.0)) == 0


def test_the_best_of_all_milestones_and_of_papers_steps() -> None:
    rows = [
        _row("textual inversion, rate 0.005, person", [0.1, 0.3, 0.4]),
        _row("textual inversion, rate 0.005, face", [0.1, 0.35, 0.1]),
        _row("LoRA, rate 0.001, rank 4", [0.3, 0.1]),  # short runs lack the first milestones
    ]
    chosen = choose(rows, FULL)
    best, timed = chosen[TEXTUAL_INVERSION_TUNED], chosen[TEXTUAL_INVERSION_TUNED_TIMED]
    assert (best.candidate, best.steps) == ("textual inversion, rate 0.005, person", STEPS)
    assert (timed.candidate, timed.steps) == ("textual inversion, rate 0.005, face", STEPS // 2)
    assert (chosen[LORA_TUNED].steps, chosen[LORA_TUNED_TIMED].steps) == (STEPS // 2, STEPS // 2)
    assert set(choose(rows[:2], FULL)) == {TEXTUAL_INVERSION_TUNED, TEXTUAL_INVERSION_TUNED_TIMED}


def test_tuning_runs_is_kept_and_is_read_by_the_plan(testbed: EvidenceTestbed, tmp_path: Path) -> None:
    plan = Plan(FULL.methods, strangers=2, seeds=(0, 1), images_per_prompt=1, steps=16)
    tuning = tuning_plan(plan)
    few = ("textual inversion, rate 0.005, person", "textual inversion, rate 0.02, person")
    tuning = replace(tuning, methods=tuple(one for one in tuning.methods if one.name in few))
    results = Results(tmp_path / "tuning")
    assert {done.status for done in run(testbed, tuning, results)} == {"new"}
    assert {cell.milestones for cell, _ in results.all()} == {SHARES}
    chosen = save_tuned(tmp_path, results, tuning, testbed)
    assert set(chosen) == {TEXTUAL_INVERSION_TUNED, TEXTUAL_INVERSION_TUNED_TIMED}
    assert read_tuned(tmp_path) == chosen
    tuned = with_tuned(plan, chosen)
    methods: dict[str, Any] = {one.name: one for one in tuned.methods}
    assert LORA_TUNED not in methods, "not tuned"
    best, timed = methods[TEXTUAL_INVERSION_TUNED], methods[TEXTUAL_INVERSION_TUNED_TIMED]
    assert isinstance(best, Trained)
    assert best.settings.steps == chosen[TEXTUAL_INVERSION_TUNED].steps
    assert (best.same_time_as, timed.same_time_as) == ("", PAPER)
    assert best.describe()["settings"]["learning_rate"] in (0.005, 0.02)
    assert [one.name for one in tuned.methods] == [
        one.name for one in plan.methods if one.name not in (LORA_TUNED, LORA_TUNED_TIMED)
    ]
    with pytest.raises(TrainingError, match="s0 is one of those whom the baselines were tuned on"):
        read_tuned(tmp_path, testbed.strangers)
    assert limited(tuned, [TEXTUAL_INVERSION_TUNED_TIMED]).methods[0].name == PAPER


def test_without_tuning_the_tuned_rows_are_left_out(testbed: EvidenceTestbed, tmp_path: Path) -> None:
    assert read_tuned(tmp_path) == {}
    assert sum(isinstance(one, Untuned) for one in FULL.methods) == len(TUNED)
    assert not any(isinstance(one, Untuned) for one in with_tuned(FULL, {}).methods)
    assert not {cell.method for cell, _ in cells_of(testbed, FULL)} & set(TUNED)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"methods": {}}', '{"strangers": [], "methods": {"LoRA, tuned": {"x": 1}}}']
)
def test_a_damaged_file_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, "utf-8")
    with pytest.raises(FileError, match="tune again with --tune"):
        read_tuned(tmp_path)
