"""What the page says that a preset takes: measured on runs, kept in a file, and never made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celeb_basis.events import Preparing, StepDone
from celeb_basis.settings import PRESET_NAMES, TrainingSettings
from celeb_basis.webui import timings
from celeb_basis.webui.timings import Pace, Stopwatch, Timings, preparation_offer, preset_costs


def model(family: str = "sd1") -> Any:
    return SimpleNamespace(info=SimpleNamespace(family=family, resolution=512), device="cuda:0")


def measured(monkeypatch: pytest.MonkeyPatch, settings: TrainingSettings, steps: int = 30) -> Pace:
    """A run with 2 seconds a view and 3 a step."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(timings, "time", SimpleNamespace(monotonic=lambda: clock.now))
    watch = Stopwatch(settings)
    for view in range(1, 9):
        clock.now += 2
        watch.add(Preparing(view, 8))
    for step in range(1, steps + 1):
        clock.now += 3
        watch.add(StepDone(step, steps, 1.0, 1.0, None, None))
    return watch.pace


def test_the_pace_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, TrainingSettings()) == Pace(view=2, step=3)
    assert measured(monkeypatch, TrainingSettings(batch_size=4, accumulation=3)).step == pytest.approx(0.5)
    assert measured(monkeypatch, TrainingSettings(), steps=5).step is None, "too few to say anything"


def test_presets_say_steps_until_a_run_was_timed() -> None:
    costs = preset_costs(Pace())
    assert list(costs) == list(PRESET_NAMES)
    assert costs["balanced"] == "200 steps"
    costs = preset_costs(Pace(view=0.5, step=0.4))
    assert costs["balanced"] == "up to 2 min"  # 64 views and 200 steps: 112 s
    assert costs["paper"] == "about 9 min"
    assert costs["quick"] == "up to 30 s, after preparing the checkpoint once"
    costs = preset_costs(Pace(view=0.5, step=0.4, name=0.25))
    assert costs["quick"].endswith("after preparing the checkpoint once (about 3 min)")  # 640 celebrities: 160 s
    assert "once" not in costs["balanced"]


def test_automatic_says_what_it_is_on_this_checkpoint() -> None:
    pace = Pace(view=0.5, step=0.4, name=0.25)
    assert preset_costs(pace)["auto"] == "Quick if the checkpoint is prepared, else Balanced"
    assert preset_costs(pace, False)["auto"] == "Balanced here: up to 2 min"
    prepared = preset_costs(pace, True)
    assert prepared["auto"] == "Quick here: up to 30 s"
    assert not any("preparing" in cost for cost in prepared.values()), "that is done"
    assert "(about 3 min)" in preparation_offer(pace)
    assert "50 images" in preparation_offer(Pace())


def test_paces_are_kept_by_kind_of_model(tmp_path: Path) -> None:
    kept = Timings(tmp_path / "cache" / "timings.json")
    assert kept.read(model()) == Pace()
    kept.note(model(), Pace())
    assert not kept._file.exists(), "nothing was measured"
    kept.note(model(), Pace(view=2))
    kept.note(model(), Pace(step=3))
    kept.note(model("sdxl"), Pace(step=9))
    again = Timings(kept._file)
    assert again.read(model()) == Pace(view=2, step=3)
    assert again.read(model("sdxl")) == Pace(step=9)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"sd1 512 cuda:0": 3}', '{"sd1 512 cuda:0": {"step": "x", "view": -1}}']
)
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "timings.json"
    file.write_text(content)
    kept = Timings(file)
    assert kept.read(model()) == Pace()
    kept.note(model(), Pace(step=1))
    assert kept.read(model()).step == 1
