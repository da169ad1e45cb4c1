"""The measurements of graphics cards: what they print and write, and a rehearsal of all of them on the processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import __main__ as bench  # noqa: E402


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_without_a_card_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--write"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "finds no CUDA card" in said.err
    assert "--rehearse" in said.err


@pytest.mark.slow
def test_a_rehearsal_goes_through_every_measurement(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "speed.md").read_bytes()
    done = _run(
        "--rehearse",
        "--write",
        "--families",
        "sd1",
        "sdxl",
        "--presets",
        "balanced",
        "--json",
        str(tmp_path / "f.json"),
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["rows"]
    assert not [row for row in rows if row["what"] == "stopped" or row["value"] == "failed"], rows
    for model in ("SD1.5, 64", "SDXL, 64"):
        found = [row["what"] for row in rows if row["model"] == model]
        for what in (
            "encoding a view",
            "a step, batch 2",
            "a step, batch 1, gradient checkpointing",
            "images a second",
        ):
            assert any(one.startswith(what) for one in found), (model, what)
        ratios = [row for row in rows if row["model"] == model and "bare forward" in row["what"]]
        assert len(ratios) == 2
        assert all(float(row["value"]) > 0 for row in ratios)
    assert any(row["what"].startswith("generating the faces of 36 celebrities (584 evaluations)") for row in rows)
    for model, limit in (("SD1.5", 4), ("SDXL", 10)):
        (capped,) = [
            row
            for row in rows
            if row["what"] == f"learning within {limit} GB, views and a preview included" and row["model"] == model
        ]
        assert capped["value"] == "yes"
        assert capped["detail"].startswith("6 steps at 64 pixels")
    gaps = [row for row in rows if row["what"].startswith("gradient beside")]
    assert [float(row["value"]) for row in gaps] == [0.0] * 3, "the processor beside itself"
    assert all(row["value"] == "yes" for row in rows if row["what"].startswith("the same seed"))
    assert any("from the start of the process to the file" in row["what"] for row in rows)
    assert "### rehearsal on the processor" in done.stdout
    assert (ROOT / "docs" / "speed.md").read_bytes() == page, "a rehearsal is never written into the page"


def test_a_cards_table_is_added_to_the_page_and_replaced_when_it_is_measured_again() -> None:
    page = f"before\n{bench.BEGIN}\n\n{bench.END}\nafter\n"
    one = bench.with_table(page, "Card A", "### Card A\n\n| 1 |\n")
    two = bench.with_table(one, "Card B", "### Card B\n\n| 2 |\n")
    again = bench.with_table(two, "Card A", "### Card A\n\n| 3 |\n")
    assert again.startswith("before\n")
    assert again.endswith("\nafter\n")
    assert again.count("### Card A\n") == again.count("### Card B\n") == 1
    assert "| 1 |" not in again
    assert "| 2 |" in again
    assert "| 3 |" in again
    assert bench.with_table(again, "Card A", "### Card A\n\n| 3 |\n") == bench.with_table(
        bench.with_table(again, "Card A", "### Card A\n\n| 3 |\n"), "Card A", "### Card A\n\n| 3 |\n"
    )
    with pytest.raises(ValueError, match="has no lines"):
        bench.with_table("nothing", "Card A", "")


def test_the_page_has_the_place_for_tables() -> None:
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert bench.with_table(page, "Card", "### Card\n").count("### Card\n") == 1
