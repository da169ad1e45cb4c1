"""The benchmarks' lines, limits and exit codes, which people and scripts rely on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.figures import Comparison, Figure, exit_code, take_turns  # noqa: E402

GOOD = Figure("a step / a bare step", 1.012, 1.03, "ratio")
BAD = Figure("import", 120.0, 100.0, "ms")
UNMEASURED = Figure("memory", math.nan, 300.0, "MB")


def test_a_line_holds_name_value_limit_and_verdict_in_this_order() -> None:
    assert GOOD.line().split("  ")[0] == GOOD.name
    assert GOOD.line().removeprefix(GOOD.name).split() == ["1.012", "1.030", "ok"]
    assert BAD.line().removeprefix(BAD.name).split() == ["120.0", "ms", "100.0", "ms", "short"]


def test_columns_are_aligned_whatever_the_unit() -> None:
    lines = [figure.line() for figure in (GOOD, BAD, UNMEASURED, Figure("torch loaded", 0.0, 0.0, "yes/no"))]
    assert len({line.rindex("  ") for line in lines}) == 1
    ends = [line[: line.rindex("  ")] for line in lines]
    assert len({len(end) for end in ends}) == 1


@pytest.mark.parametrize(
    ("value", "limit", "ok"),
    [(1.03, 1.03, True), (1.0301, 1.03, False), (-5.0, 300.0, True), (math.nan, 1.0, False), (0.5, math.nan, False)],
)
def test_a_limit_is_inclusive_and_never_met_by_what_was_not_measured(value: float, limit: float, ok: bool) -> None:
    figure = Figure("something", value, limit, "ratio")
    assert figure.ok is ok
    assert figure.line().endswith("ok" if ok else "short")


def test_a_value_just_above_its_limit_does_not_look_like_it() -> None:
    _, value, limit, verdict = Figure("step", 1.034, 1.03, "ratio").line().split()
    assert value != limit
    assert verdict == "short"


def test_yes_and_no() -> None:
    assert Figure("torch", 0.0, 0.0, "yes/no").line().split()[1:] == ["no", "no", "ok"]
    assert Figure("torch", 1.0, 0.0, "yes/no").line().split()[1:] == ["yes", "no", "short"]


def test_exit_code_is_0_only_if_every_limit_is_met() -> None:
    assert exit_code([GOOD, GOOD]) == 0
    assert exit_code([GOOD, BAD]) == 1
    assert exit_code([GOOD, UNMEASURED]) == 1
    assert exit_code([]) == 1


def test_json_holds_no_nan() -> None:
    text = json.dumps([figure.as_dict() for figure in (GOOD, UNMEASURED)], allow_nan=False)
    good, unmeasured = json.loads(text)
    assert (good["value"], good["limit"], good["ok"]) == (1.012, 1.03, True)
    assert (unmeasured["value"], unmeasured["ok"]) == (None, False)


def test_the_ratio_is_the_median_of_the_pairs_own_ratios() -> None:
    # The machine is four times as slow during the second pair; the medians' ratio would be 2.2 / 2.
    compared = Comparison(ours=(1.1, 4.4, 2.2), other=(1.0, 4.0, 2.0))
    assert compared.ratio == pytest.approx(1.1)
    assert Comparison(ours=(1.0, 9.0, 1.0), other=(1.0, 1.0, 1.0)).ratio == 1.0


def test_calls_take_turns_and_the_first_round_is_not_timed() -> None:
    order: list[str] = []
    compared = take_turns(
        lambda: order.append("ours"), lambda: order.append("other"), 2, prepare=lambda: order.append("|")
    )
    assert "".join({"ours": "A", "other": "B", "|": "|"}[call] for call in order) == "|AB|BA|AB"
    assert len(compared.ours) == len(compared.other) == 2


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_the_command_prints_one_line_per_figure_and_writes_them_as_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = _run("--only", "import", "--json", str(file))
    figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [figure["name"] for figure in figures]
    assert [line.split()[-1] == "ok" for line in lines] == [figure["ok"] for figure in figures]
    assert done.returncode == (0 if all(figure["ok"] for figure in figures) else 1)
    assert lines[1].split()[-3:] == ["no", "no", "ok"]


def test_an_unknown_subject_is_refused_with_the_known_ones() -> None:
    done = _run("--only", "speed")
    assert done.returncode == 2
    assert "there is no subject 'speed'" in done.stderr
    assert "memory" in done.stderr
