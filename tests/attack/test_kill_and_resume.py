"""A run that is killed at any moment, or meets a full disk in any write, is resumed to the bits of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="trials are forked processes")


def trials(folder: Path, kind: str, *numbers: int) -> list[dict[str, Any]]:
    """The trials of ``support/kill_trials.py``, of which each has to end with the bits of the undisturbed run."""
    places = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(places),
        "CELEB_BASIS_CACHE": str(folder / "whole" / "cache"),
    }
    program = [sys.executable, str(TESTS / "support" / "kill_trials.py"), kind, str(folder), *map(str, numbers)]
    answer = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=1800)
    assert answer.returncode == 0, answer.stderr
    found: list[dict[str, Any]] = json.loads(answer.stdout)["trials"]
    assert found
    assert [trial for trial in found if not trial["same"]] == []
    return found


def test_killed_at_random_moments(tmp_path: Path) -> None:
    found = trials(tmp_path, "random", 6, 1)
    assert [trial for trial in found if trial["code"] not in (-9, 0)] == []


@pytest.mark.slow
def test_killed_at_sixty_random_moments(tmp_path: Path) -> None:
    found = trials(tmp_path, "random", 60, 2)
    assert len({trial["saved"] for trial in found}) >= 4, "before the first step, and at several steps"


def test_killed_around_some_writes(tmp_path: Path) -> None:
    found = trials(tmp_path, "writes", 13)
    assert {trial["code"] for trial in found[:-1]} == {-9}, [trial for trial in found[:-1] if trial["code"] != -9]
    assert len({trial["saved"] for trial in found}) >= 4


@pytest.mark.slow
def test_killed_around_every_write(tmp_path: Path) -> None:
    found = trials(tmp_path, "writes", 1)
    assert len(found) >= 60
    assert {0, 1, 2, 3, 4} <= {trial["saved"] for trial in found}


def _check_full(found: list[dict[str, Any]]) -> None:
    for trial in found:
        _, lasting = trial["at"]
        if trial["code"] == 0:
            continue
        assert trial["code"] == 2, trial
        assert "the disk is full" in trial["said"]
        assert "error in celeb-basis itself" not in trial["said"]
        if trial["saved"] is not None:
            assert "to resume it: celeb-basis learn --resume" in trial["said"], "it says how to go on"
        refused = "Could not write into" in trial["said"]
        assert lasting or refused or trial["saved"] is not None, "after its start, one failure does not stop a run"


def test_a_disk_that_is_full_in_some_writes(tmp_path: Path) -> None:
    _check_full(trials(tmp_path, "full", 24))


@pytest.mark.slow
def test_a_disk_that_is_full_in_every_write(tmp_path: Path) -> None:
    _check_full(trials(tmp_path, "full", 1))
