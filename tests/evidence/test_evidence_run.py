"""The evidence's machinery from end to end on a tiny random model, and that it measures something on a trained one."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bases import name_list
from support.evidence_testbeds import decode_toy, make_testbed, stranger
from support.models import make_host
from support.steerable import World, render, train_world

from benchmarks.evidence.__main__ import main
from benchmarks.evidence.methods import Trained, Untuned
from benchmarks.evidence.metrics import METRICS, Evaluator, placeholder
from benchmarks.evidence.page import Described, hypotheses, table, write_page
from benchmarks.evidence.plan import (
    ABLATIONS,
    CEILING,
    FULL,
    GROUP_SIZES,
    LORA_TUNED_TIMED,
    MAIN,
    PAPER,
    Plan,
    groups_of,
    limited,
    shortened,
)
from benchmarks.evidence.reporting import Reporter, duration
from benchmarks.evidence.results import Results
from benchmarks.evidence.runner import cells_of, matching, run
from benchmarks.evidence.summary import ALL_METRICS, separated, summarize
from benchmarks.evidence.testbed import DdimSampler, EvidenceTestbed, generate
from benchmarks.evidence.tuning import Tuned, candidates, with_tuned
from celeb_basis.names.lists import name_list as names_of
from celeb_basis.names.lists import shipped_names

_NAMES = 24


@pytest.fixture(scope="module")
def tiny() -> EvidenceTestbed:
    """A random SD1 of two blocks, 64 pixels; its images are noise."""
    model = make_host("sd1", width=128)
    vae = model._pipeline.vae

    def decode(latents: torch.Tensor) -> list[np.ndarray]:
        images = vae.decode(latents / vae.config.scaling_factor).sample
        pixels = ((images.permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).byte().numpy()
        return [np.asarray(one) for one in pixels]

    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    names = names_of([name for name in shipped_names().names if len(name.split()) == 2][:_NAMES], "a test's list")
    return make_testbed(
        model,
        names,
        [stranger(f"s{number}", image) for number, image in enumerate(images)],
        decode,
        steps=1,
        denoiser=model._pipeline.unet,
    )


def _plan(*names: str, **changes: Any) -> Plan:
    every = {one.name: one for one in (*MAIN, *ABLATIONS)}
    plan = Plan(
        tuple(every[name] for name in names),
        strangers=2,
        seeds=(0,),
        images_per_prompt=1,
        milestones=(0.5, 1.0),
        steps=2,
    )
    return replace(plan, **changes)


def _all(testbed: EvidenceTestbed, plan: Plan, folder: Path) -> list[str]:
    return [done.status for done in run(testbed, plan, Results(folder))]


@pytest.mark.slow
def test_every_method_runs_is_measured_and_is_written(tiny: EvidenceTestbed, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in tiny.denoiser.state_dict().items()}
    methods = [one for one in MAIN if GROUP_SIZES.get(one.name, 2) == 2 and not isinstance(one, Untuned)]
    plan = _plan(methods=tuple(methods), milestones=(0.5, 1.0))
    assert set(_all(tiny, plan, tmp_path)) == {"new"}
    rows = summarize(Results(tmp_path).all(), [one.name for one in plan.methods])
    assert [row.method for row in rows] == [one.name for one in methods]
    for row in rows:
        assert row.strangers == 2
        for name in ALL_METRICS:
            found = row.last.figures[name]
            # A single image of a prompt has no diversity.
            assert (found is None) == (name == "diversity"), (row.method, name)
    costs = {row.method: [point.evaluations for point in row.points] for row in rows}
    assert costs["paper"] == [2, 4]
    assert costs["mean"] == [0]
    for key, value in tiny.denoiser.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} of the model was changed"
    assert not any(module._forward_hooks for module in tiny.denoiser.modules())
    page = tmp_path / "evidence.md"
    described = Described("w", ["make evidence"], judge="a", second_judge="b")
    write_page(page, rows, described)
    text = page.read_text()
    assert table(rows) in text
    assert text.count("](evidence/") == len(list((tmp_path / "evidence").glob("*.svg"))) == 14


def test_the_ceiling_is_of_names_of_the_list_and_every_recipe_a_share_of_it(
    tiny: EvidenceTestbed, tmp_path: Path
) -> None:
    plan = _plan(CEILING, "mean")
    assert _all(tiny, plan, tmp_path) == ["new", "new"]
    cells = {cell.method: (cell, measured) for cell, measured in Results(tmp_path).all()}
    cell, measured = cells[CEILING]
    assert set(cell.group) <= set(tiny.names.names)
    assert [point["evaluations"] for point in measured] == [0.0]
    assert set(measured[0]["people"][cell.group[0]]) == {*METRICS}
    references = list(tmp_path.glob("known-names/*/*.png"))
    assert len(references) == 3 * len(tiny.strangers)
    before = {path: path.stat().st_mtime_ns for path in references}
    references[0].unlink()
    assert _all(tiny, plan, tmp_path) == ["known", "known"]
    again = {path: path.stat().st_mtime_ns for path in references}
    assert [path for path in references if again[path] != before[path]] == references[:1], "only what is missing"
    rows = summarize(Results(tmp_path).all(), [CEILING, "mean"])
    lines = table(rows).splitlines()
    column = lines[0].split(" | ").index("Identity, share of the ceiling")
    assert lines[2].split(" | ")[column] == "100%"
    ceiling, mean = (row.last.figures["identity"] for row in rows)
    assert ceiling is not None
    assert mean is not None
    share = mean.value / ceiling.value
    assert lines[3].split(" | ")[column] == f"{share:.0%}"
    assert "share of the ceiling" not in table(rows[1:])


def test_names_that_the_model_draws_without_a_face_are_no_ceiling(tiny: EvidenceTestbed, tmp_path: Path) -> None:
    lines: list[str] = []
    blind = replace(tiny, detect=lambda _: [], report=Reporter(lines.append))
    assert _all(blind, _plan(CEILING), tmp_path) == []
    assert "no ceiling" in lines[-1]
    assert "0 of 24 names" in lines[-1]


@pytest.fixture
def toy(tmp_path: Path) -> tuple[EvidenceTestbed, Path]:
    from support.toys import ToyModel

    random = np.random.default_rng(1)
    images = [np.repeat(np.repeat(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), 8, 0), 8, 1) for _ in range(4)]
    strangers = [stranger(f"s{number}", image) for number, image in enumerate(images)]
    return make_testbed(ToyModel(), name_list(_NAMES), strangers, decode_toy), tmp_path


def test_a_killed_run_is_resumed_with_the_same_results(toy: tuple[EvidenceTestbed, Path]) -> None:
    testbed, folder = toy
    plan = _plan("random name", "mean", "paper", strangers=4)
    assert _all(testbed, plan, folder / "whole") == ["new"] * 6
    (paper,) = summarize(Results(folder / "whole").all(), ["paper"])
    assert [point.evaluations for point in paper.points] == [2, 4]
    steps = run(testbed, plan, Results(folder / "killed"))
    for _ in range(3):
        next(steps)
    assert isinstance(steps, Generator)
    steps.close()
    assert _all(testbed, plan, folder / "killed") == ["known"] * 3 + ["new"] * 3
    assert _all(testbed, plan, folder / "killed") == ["known"] * 6

    def figures(name: str) -> list[Any]:
        return [(cell, [one["people"] for one in found]) for cell, found in Results(folder / name).all()]

    assert figures("whole") == figures("killed")


def test_another_recipe_or_protocol_is_another_cell(toy: tuple[EvidenceTestbed, Path]) -> None:
    testbed, folder = toy
    plan = _plan("mean")
    assert _all(testbed, plan, folder) == ["new"]
    assert _all(replace(testbed, key="another"), plan, folder) == ["new"]
    assert _all(testbed, replace(plan, images_per_prompt=2), folder) == ["new"]
    keys = {cell.key for cell, _ in cells_of(testbed, _plan("paper", "direct", "no unit sphere", "random basis"))}
    assert len(keys) == 4


def test_results_of_other_recipes_or_protocols_are_never_averaged(toy: tuple[EvidenceTestbed, Path]) -> None:
    testbed, folder = toy
    plan = _plan("mean", "paper")
    others = (replace(plan, images_per_prompt=2), replace(plan, steps=3), replace(plan, milestones=(1.0,)))
    for one in (plan, *others):
        _all(testbed, one, folder)
    _all(replace(testbed, key="another"), plan, folder)
    results = Results(folder)
    found = matching(results, plan, testbed.key)
    assert sorted(cell.method for cell, _ in found) == ["mean", "paper"]
    assert {cell.protocol["images_per_prompt"] for cell, _ in found} == {1}
    assert [len(points) for cell, points in found if cell.method == "paper"] == [2]
    assert {cell.protocol["testbed"] for cell, _ in matching(results, plan)} == {"colors", "another"}


def test_a_method_that_cannot_run_is_reported_and_skipped(toy: tuple[EvidenceTestbed, Path]) -> None:
    testbed, folder = toy
    tuned = {LORA_TUNED_TIMED: Tuned(candidates()[-1].name, 2, 0.0)}
    found = _all(testbed, with_tuned(_plan("paper", LORA_TUNED_TIMED, "mean"), tuned), folder)
    assert found[0] == found[2] == "new"
    assert "denoiser" in found[1]


def test_a_method_that_is_given_anothers_time_includes_that_method() -> None:
    plan = limited(FULL, [LORA_TUNED_TIMED])
    assert [one.name for one in plan.methods] == ["paper", LORA_TUNED_TIMED]


def test_shorter_recipes_encode_no_more_views_than_they_use() -> None:
    for method in FULL.methods:
        short = shortened(method, 3)
        if isinstance(short, Trained):
            assert (short.settings.steps, short.settings.views) == (3, 3 * short.settings.batch_size)
    assert groups_of("abcde", 2) == [("a", "b"), ("c", "d")]


def test_a_seed_gives_the_same_image_whatever_else_is_in_the_batch(toy: tuple[EvidenceTestbed, Path]) -> None:
    testbed, _ = toy
    alone = generate(testbed, ["a photo of first1"], {}, [7])[0]
    among = generate(testbed, [f"prompt {n}" for n in range(17)] + ["a photo of first1"], {}, [*range(100, 117), 7])[17]
    assert np.abs(alone.astype(int) - among.astype(int)).max() <= 1
    assert not np.array_equal(alone, generate(testbed, ["a photo of first1"], {}, [8])[0])


def test_the_evaluator_by_hand(toy: tuple[EvidenceTestbed, Path]) -> None:
    testbed, _ = toy
    one, other = testbed.strangers[:2]
    wide = np.concatenate([one.portrait.picture, other.portrait.picture], axis=1)
    shown: dict[str, Any] = {}

    def decode(latents: torch.Tensor) -> list[Any]:
        return [shown["image"]] * len(latents)

    assert isinstance(testbed.sampler, DdimSampler)
    evaluator = Evaluator(replace(testbed, sampler=replace(testbed.sampler, decode=decode)), images_per_prompt=2)
    vectors = {person.name: [torch.zeros(2, 32)] for person in (one, other)}
    shown["image"] = one.portrait.picture
    measured = evaluator.measure([one, other], vectors, 0)
    assert measured["people"]["s0"]["recognized"] == 1.0
    assert measured["people"]["s1"]["recognized"] == 0.0
    assert measured["people"]["s0"]["identity"] > 0.95 > measured["people"]["s1"]["identity"]
    # One prompt asks for bright, the other for dark: one image is correct for one of them.
    assert measured["people"]["s0"]["prompt"] == 0.5
    assert measured["people"]["s0"]["diversity"] == 0.0
    assert measured["pairs"]["s0 & s1"]["both"] == 0.0
    shown["image"] = wide
    assert evaluator.measure([one, other], vectors, 0)["pairs"]["s0 & s1"]["both"] == 1.0
    shown["image"] = wide[:, ::-1]
    assert evaluator.measure([one, other], vectors, 0)["pairs"]["s0 & s1"]["both"] == 0.0
    assert placeholder("s0") == "<s0>"


def test_the_command_names_and_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--list", "--part", "main"]) == 0
    assert capsys.readouterr().out.split("\n")[:2] == [CEILING, f"{CEILING}, by pictures"]
    assert main(["--only", "unknown"]) == 2
    assert main(["--write", "--results", str(tmp_path)]) == 1
    assert "no finished result" in capsys.readouterr().err


@pytest.mark.slow
def test_learning_beats_chance_on_a_model_that_can_be_steered(tmp_path: Path) -> None:
    trained: World = train_world("v_prediction")
    random = np.random.default_rng(3)
    people = []
    for number in range(6):
        features = random.normal(size=(2, 4))
        people.append(stranger(f"s{number}", render(features / np.linalg.norm(features, axis=1, keepdims=True))))
    names = names_of([f"first{n} last{n}" for n in range(300)], "the steerable model")
    testbed = make_testbed(trained.model, names, people, decode_toy, steps=20)
    whole_frame = next(one for one in ABLATIONS if one.name == "direct")
    assert isinstance(whole_frame, Trained)
    settings = replace(whole_frame.settings, components=4, smallest=0.99, views=16, steps=300, learning_rate=0.03)
    direct = replace(whole_frame, settings=settings)
    plan = _plan("random name", "mean", methods=(*_plan("random name", "mean").methods, direct), strangers=6)
    plan = replace(plan, steps=0, images_per_prompt=2)
    assert set(_all(testbed, plan, tmp_path)) == {"new"}
    rows = {
        row.method: row.last.figures for row in summarize(Results(tmp_path).all(), ["random name", "mean", "direct"])
    }

    def value(name: str, metric: str) -> float:
        figure = rows[name][metric]
        assert figure is not None
        return figure.value

    print(json.dumps({name: [value(name, "identity"), value(name, "recognized")] for name in rows}))
    assert separated(rows["direct"]["identity"], rows["random name"]["identity"])
    assert separated(rows["direct"]["identity"], rows["mean"]["identity"])
    assert value("direct", "recognized") > 2 * value("random name", "recognized")


def test_reduced_methods_have_fewer_runs_and_only_tracked_runs_have_milestones(
    toy: tuple[EvidenceTestbed, Path],
) -> None:
    testbed, folder = toy
    plan = _plan("paper", "direct", strangers=4, seeds=(0, 1), tracked=2, reduced=(2, 1))
    cells = [cell for cell, _ in cells_of(testbed, plan)]
    assert [(one.method, one.group[0], one.seed, one.milestones) for one in cells] == [
        ("paper", "s0", 0, (0.5, 1.0)),
        ("direct", "s0", 0, (1.0,)),
        ("paper", "s2", 0, (1.0,)),
        ("paper", "s0", 1, (1.0,)),
        ("paper", "s2", 1, (1.0,)),
    ]
    assert _all(testbed, plan, folder) == ["new"] * 5
    paper, direct = summarize(matching(Results(folder), plan, testbed.key), ["paper", "direct"])
    assert [point.evaluations for point in paper.points] == [2, 4]
    assert (paper.strangers, paper.seeds, direct.strangers, direct.seeds) == (4, 2, 2, 1)
    last = paper.last.figures["identity"]
    assert last is not None
    assert last.count == 4


def test_workers_divide_the_cells_completely(toy: tuple[EvidenceTestbed, Path]) -> None:
    testbed, folder = toy
    plan = _plan("mean", "paper", strangers=4, seeds=(0, 1))
    shares = [[done.cell.key for done in run(testbed, plan, Results(folder), share=(number, 2))] for number in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(cell.key for cell, _ in cells_of(testbed, plan))
    assert not set(shares[0]) & set(shares[1])
    assert len(shares[0]) == len(shares[1])
    assert _all(testbed, plan, folder) == ["known"] * 8


def test_hypotheses_that_the_plan_cannot_answer_are_left_out(toy: tuple[EvidenceTestbed, Path]) -> None:
    testbed, folder = toy
    plan = _plan("random name", "mean", "paper")
    _all(testbed, plan, folder)
    rows = summarize(Results(folder).all(), ["random name", "mean", "paper"])
    every = hypotheses(rows)
    answered = hypotheses(rows, [one.name for one in plan.methods])
    assert len(answered) == 2
    assert "a fifth of its denoiser evaluations" in "".join(hypotheses(rows, [PAPER, "quick"]))
    assert "a fifth of its denoiser evaluations" not in "".join(hypotheses(rows, [PAPER, "quick"], shortened=True))
    assert not any("missing" in line for line in answered)
    assert set(answered) < set(every)
    assert any("a name that the model knows missing" in line for line in every)


def test_progress_is_a_line_every_few_seconds() -> None:
    lines: list[str] = []
    now = 100.0
    report = Reporter(lines.append, every=10, clock=lambda: now)
    for second in range(31):
        now = 100.0 + second
        report.step("learning, step", second, 30)
    report.say("done")
    assert lines == [
        "[0:10] learning, step: 10 of 30\n",
        "[0:20] learning, step: 20 of 30\n",
        "[0:30] learning, step: 30 of 30\n",
        "[0:30] done\n",
    ]
    assert duration(3 * 3600 + 61) == "3:01:01"
