"""The results file: what is saved is loaded again, whole, whichever process saved it; and the published one is complete."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.evidence.__main__ import RESULTS, ROOT
from benchmarks.evidence.plan import FULL
from benchmarks.evidence.results import Cell, Results
from benchmarks.evidence.runner import matching
from benchmarks.evidence.tuning import read_tuned, with_tuned
from celeb_basis.errors import FileError

PROTOCOL = {"testbed": "colors", "images_per_prompt": 2, "prompts": [["a photo of {}", "photo"]]}
CELL = Cell("paper", {"loop": "plain", "rate": 0.1}, ("ann", "bob"), 0, (0.5, 1.0), PROTOCOL)
MEASURED = [{"step": 1, "identity": 0.1 + 0.2, "diversity": None}]


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    assert list(results.all()) == []
    others = [
        replace(CELL, seed=1),
        replace(CELL, group=("bob", "ann")),
        replace(CELL, milestones=(1.0,)),
        replace(CELL, recipe={"loop": "free"}),
        replace(CELL, protocol={**PROTOCOL, "images_per_prompt": 1}),
        replace(CELL, method="alone"),
    ]
    for number, cell in enumerate([CELL, *others]):
        results.save(cell, [{"step": number}])
    results.save(CELL, MEASURED)
    found = list(results.all())
    assert sorted(cell.key for cell, _ in found) == sorted(cell.key for cell in [CELL, *others])
    assert next(values for cell, values in found if cell == CELL) == MEASURED
    assert results.by_key()[CELL.key] == MEASURED


def test_recipes_are_named_once_and_lines_are_sorted(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for cell in (replace(CELL, seed=1), CELL, replace(CELL, method="alone"), replace(CELL, recipe={"loop": "free"})):
        results.save(cell, MEASURED)
    lines = [json.loads(line) for line in results.path.read_text("utf-8").splitlines()]
    assert [(line["method"], line["recipe"], line["seed"]) for line in lines] == [
        ("alone", "paper", 0),
        ("paper", "paper", 0),
        ("paper", "paper", 1),
        ("paper", "paper (2)", 0),
    ]
    names = json.loads(results.recipes_path.read_text("utf-8"))
    assert names["recipes"] == {"paper": CELL.recipe, "paper (2)": {"loop": "free"}}
    assert names["protocols"] == {"colors": PROTOCOL}
    assert all(
        line == json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")) for line in lines_of(results)
    )


def lines_of(results: Results) -> list[str]:
    return results.path.read_text("utf-8").splitlines()


def save_seeds(folder: Path, seeds: list[int]) -> None:
    for seed in seeds:
        Results(folder).save(replace(CELL, method=f"method {seed % 3}", recipe={"seed": seed}, seed=seed), MEASURED)


def test_processes_that_save_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=save_seeds, args=(tmp_path, list(range(n, 24, 3)))) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    found = {cell.seed: (cell.recipe, values) for cell, values in Results(tmp_path).all()}
    assert found == {seed: ({"seed": seed}, MEASURED) for seed in range(24)}


def test_a_damaged_line_is_named_and_never_dropped(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.save(CELL, MEASURED)
    results.path.write_text(results.path.read_text("utf-8") + '{"method": ', "utf-8")
    with pytest.raises(FileError, match=r"Line 2 of .*results\.jsonl is damaged"):
        list(results.all())
    with pytest.raises(FileError):
        results.save(replace(CELL, seed=1), MEASURED)
    results.recipes_path.unlink()
    with pytest.raises(FileError, match="Line 1"):
        list(results.all())


def test_the_published_results_are_those_of_the_plan() -> None:
    results = Results(RESULTS)
    every = list(results.all())
    finished = matching(results, with_tuned(FULL, read_tuned(RESULTS)))
    assert len(every) == len(finished) > 0
    assert len({cell.protocol["testbed"] for cell, _ in every}) == 1
    for one in FULL.methods:
        cells = [cell for cell, _ in finished if cell.method == one.name]
        strangers, seeds = FULL.extent(one.name)
        assert len({name for cell in cells for name in cell.group}) <= strangers
        assert {cell.seed for cell in cells} <= set(seeds)


def test_the_page_names_the_methods_that_were_not_measured_yet() -> None:
    measured = {cell.method for cell, _ in matching(Results(RESULTS), with_tuned(FULL, read_tuned(RESULTS)))}
    text = (ROOT / "docs" / "evidence.md").read_text("utf-8")
    listed = text.split("**Not yet measured:**")[1].split("\n\n")[0].replace("\n", " ")
    for one in FULL.methods:
        assert (f"*{one.name}*" in listed) == (one.name not in measured), one.name
