"""The evidence's machinery from end to end on a tiny random model, and that it measures something in a trained world."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bases import name_list
from support.evidence_worlds import decode_toy, make_world, stranger
from support.models import make_host
from support.steerable import World, render, train_world

from benchmarks.evidence.__main__ import main
from benchmarks.evidence.contestants import Trained
from benchmarks.evidence.drawing import draw
from benchmarks.evidence.measuring import Ruler, word_of
from benchmarks.evidence.page import claims, table, write_page
from benchmarks.evidence.plan import ABLATIONS, FULL, MAIN, SIZES, Plan, groups_of, shortened
from benchmarks.evidence.results import Results
from benchmarks.evidence.running import cells_of, limited, matching, run
from benchmarks.evidence.summary import ALL_FIGURES, apart, summarise
from benchmarks.evidence.world import EvidenceWorld
from celeb_basis.names.lists import name_list as names_of
from celeb_basis.names.lists import shipped_names

_NAMES = 24


@pytest.fixture(scope="module")
def tiny() -> EvidenceWorld:
    """A random SD1 of two blocks, 64 pixels; pictures are 16x16 crops of noise as far as anybody can tell."""
    model = make_host("sd1", width=128)
    vae = model._pipeline.vae

    def decode(latents: torch.Tensor) -> list[np.ndarray]:
        pictures = vae.decode(latents / vae.config.scaling_factor).sample
        pixels = ((pictures.permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).byte().numpy()
        return [np.asarray(one) for one in pixels]

    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    names = names_of([name for name in shipped_names().names if len(name.split()) == 2][:_NAMES], "a test's list")
    return make_world(
        model,
        names,
        [stranger(f"s{number}", picture) for number, picture in enumerate(pictures)],
        decode,
        steps=1,
        denoiser=model._pipeline.unet,
    )


def _plan(*names: str, **changes: Any) -> Plan:
    every = {one.name: one for one in (*MAIN, *ABLATIONS)}
    plan = Plan(
        tuple(every[name] for name in names), strangers=2, seeds=(0,), pictures=1, milestones=(0.5, 1.0), steps=2
    )
    return replace(plan, **changes)


def _all(world: EvidenceWorld, plan: Plan, folder: Path) -> list[str]:
    return [done.how for done in run(world, plan, Results(folder))]


def test_every_contestant_runs_is_measured_and_is_written(tiny: EvidenceWorld, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in tiny.denoiser.state_dict().items()}
    contestants = [one for one in MAIN if SIZES.get(one.name, 2) == 2]
    plan = _plan(contestants=tuple(contestants), name_pictures=1, milestones=(1.0,))
    assert set(_all(tiny, plan, tmp_path)) == {"new"}
    rows = summarise(Results(tmp_path).all(), [one.name for one in plan.contestants])
    assert [row.contestant for row in rows] == [one.name for one in contestants]
    for row in rows:
        assert row.strangers == 2
        for name in ALL_FIGURES:
            found = row.last.figures[name]
            # One picture of a prompt has nothing to differ from.
            assert (found is None) == (name == "diversity"), (row.contestant, name)
    costs = {row.contestant: [point.evaluations for point in row.points] for row in rows}
    assert costs["paper"] == [4]
    assert costs["mean"] == [0]
    seconds = {row.contestant: row.last.seconds for row in rows}
    assert seconds["LoRA, same time"] >= seconds["paper"]
    for key, value in tiny.denoiser.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} of the model was changed"
    assert not any(module._forward_hooks for module in tiny.denoiser.modules())
    page = tmp_path / "evidence.md"
    write_page(page, rows, world="w", commands=["make evidence"], judge="a", second="b", left=rows[:2])
    text = page.read_text()
    assert table(rows) in text
    assert table(rows[:2]) in text[text.index("## What was tried and left away") :]
    assert text.count("](evidence/") == len(list((tmp_path / "evidence").glob("*.svg"))) == 14


@pytest.fixture
def toy(tmp_path: Path) -> tuple[EvidenceWorld, Path]:
    from support.toys import ToyHost

    random = np.random.default_rng(1)
    pictures = [np.repeat(np.repeat(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), 8, 0), 8, 1) for _ in range(4)]
    strangers = [stranger(f"s{number}", picture) for number, picture in enumerate(pictures)]
    return make_world(ToyHost(), name_list(_NAMES), strangers, decode_toy), tmp_path


def test_a_killed_run_goes_on_and_ends_alike(toy: tuple[EvidenceWorld, Path]) -> None:
    world, folder = toy
    plan = _plan("random name", "mean", "paper", strangers=4)
    assert _all(world, plan, folder / "whole") == ["new"] * 6
    (paper,) = summarise(Results(folder / "whole").all(), ["paper"])
    assert [point.evaluations for point in paper.points] == [2, 4]
    steps = run(world, plan, Results(folder / "killed"))
    for _ in range(3):
        next(steps)
    steps.close()
    assert _all(world, plan, folder / "killed") == ["kept"] * 3 + ["new"] * 3
    assert _all(world, plan, folder / "killed") == ["kept"] * 6

    def figures(name: str) -> list[Any]:
        return [(cell, [one["people"] for one in found]) for cell, found in Results(folder / name).all()]

    assert figures("whole") == figures("killed")


def test_a_damaged_result_is_made_anew_and_another_description_is_another_cell(toy: tuple[EvidenceWorld, Path]) -> None:
    world, folder = toy
    plan = _plan("mean")
    assert _all(world, plan, folder) == ["new"]
    next(folder.glob("cells/*/*.json")).write_text('{"cell": ')
    assert _all(world, plan, folder) == ["new"]
    assert _all(replace(world, key="another"), plan, folder) == ["new"]
    assert _all(world, replace(plan, pictures=2), folder) == ["new"]
    keys = {cell.key for cell, _ in cells_of(world, _plan("paper", "direct", "no unit sphere", "random basis"))}
    assert len(keys) == 4


def test_results_measured_or_learned_otherwise_are_never_averaged(toy: tuple[EvidenceWorld, Path]) -> None:
    world, folder = toy
    plan = _plan("mean", "paper")
    others = (replace(plan, pictures=2), replace(plan, steps=3), replace(plan, milestones=(1.0,)))
    for one in (plan, *others):
        _all(world, one, folder)
    _all(replace(world, key="another"), plan, folder)
    results = Results(folder)
    found = matching(results, plan, world.key)
    assert sorted(cell["contestant"] for cell, _ in found) == ["mean", "paper"]
    assert {cell["measured"]["pictures"] for cell, _ in found} == {1}
    assert [len(points) for cell, points in found if cell["contestant"] == "paper"] == [2]
    assert {cell["measured"]["world"] for cell, _ in matching(results, plan)} == {"colours", "another"}


def test_what_a_world_cannot_hold_is_told_and_the_rest_goes_on(toy: tuple[EvidenceWorld, Path]) -> None:
    world, folder = toy
    found = _all(world, _plan("paper", "LoRA, same time", "mean"), folder)
    assert found[0] == found[2] == "new"
    assert "denoiser" in found[1]


def test_who_learns_for_anothers_time_brings_the_other_along() -> None:
    plan = limited(FULL, ["textual inversion, same time"])
    assert [one.name for one in plan.contestants] == ["paper", "textual inversion, same time"]


def test_shorter_recipes_encode_no_more_views_than_they_use() -> None:
    for contestant in FULL.contestants:
        short = shortened(contestant, 3)
        assert not isinstance(short, Trained) or (short.settings.steps, short.settings.views) == (3, 6)
    assert groups_of("abcde", 2) == [("a", "b"), ("c", "d")]


def test_a_seed_is_the_same_noise_whatever_else_is_drawn(toy: tuple[EvidenceWorld, Path]) -> None:
    world, _ = toy
    alone = draw(world, ["a photo of first1"], {}, [7])[0]
    among = draw(world, [f"words {n}" for n in range(17)] + ["a photo of first1"], {}, [*range(100, 117), 7])[17]
    assert np.abs(alone.astype(int) - among.astype(int)).max() <= 1
    assert not np.array_equal(alone, draw(world, ["a photo of first1"], {}, [8])[0])


def test_the_ruler_by_hand(toy: tuple[EvidenceWorld, Path]) -> None:
    world, _ = toy
    one, other = world.strangers[:2]
    wide = np.concatenate([one.portrait.picture, other.portrait.picture], axis=1)
    shown: dict[str, Any] = {}

    def decode(latents: torch.Tensor) -> list[Any]:
        return [shown["picture"]] * len(latents)

    ruler = Ruler(replace(world, decode=decode), pictures=2)
    words = {person.name: [torch.zeros(2, 32)] for person in (one, other)}
    shown["picture"] = one.portrait.picture
    told = ruler.measure([one, other], words, 0)
    assert told["people"]["s0"]["recognised"] == 1.0
    assert told["people"]["s1"]["recognised"] == 0.0
    assert told["people"]["s0"]["identity"] > 0.95 > told["people"]["s1"]["identity"]
    # One prompt asks for bright, the other for dark: one picture is right on one of them.
    assert told["people"]["s0"]["prompt"] == 0.5
    assert told["people"]["s0"]["diversity"] == 0.0
    assert told["pairs"]["s0 & s1"]["both"] == 0.0
    shown["picture"] = wide
    assert ruler.measure([one, other], words, 0)["pairs"]["s0 & s1"]["both"] == 1.0
    shown["picture"] = wide[:, ::-1]
    assert ruler.measure([one, other], words, 0)["pairs"]["s0 & s1"]["both"] == 0.0
    assert word_of("s0") == "<s0>"


def test_a_stranger_is_one_observation_however_many_seeds() -> None:
    def cell(
        name: str, group: list[str], seed: int, value: float | None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        measured = dict.fromkeys(("recognised", "second", "prompt", "detect", "diversity"), 0.5)
        people = {person: {"identity": value, **measured} for person in group}
        point = {
            "evaluations": 8,
            "seconds": 1.0,
            "prepared": 0.5,
            "people": people,
            "pairs": {"&".join(group): {"both": 1}},
        }
        return {"contestant": name, "group": group, "seed": seed}, [point]

    cells = [cell("a", ["x"], 0, 0.2), cell("a", ["x"], 1, 0.4), cell("a", ["y"], 0, 0.9), cell("a", ["y"], 1, None)]
    (row,) = summarise(cells, ["a", "b"])
    figure = row.last.figures["identity"]
    assert figure is not None
    assert (figure.count, round(figure.value, 6)) == (2, 0.6)
    assert (row.strangers, row.seeds) == (2, 2)
    low = summarise([cell("b", [str(n)], 0, 0.1 + n / 1000) for n in range(9)], ["b"])[0].last.figures["identity"]
    high = summarise([cell("c", [str(n)], 0, 0.5 + n / 1000) for n in range(9)], ["c"])[0].last.figures["identity"]
    assert apart(high, low)
    assert not apart(low, high)
    assert not apart(high, high)
    assert all("not told" in line for line in claims([row]))


def test_the_command_names_and_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--list", "--part", "main"]) == 0
    assert capsys.readouterr().out.split("\n")[:2] == ["random name", "nearest name"]
    assert main(["--only", "nobody"]) == 2
    assert main(["--write", "--results", str(tmp_path)]) == 1
    assert "no finished result" in capsys.readouterr().err


@pytest.mark.slow
def test_in_a_world_that_listens_learning_beats_chance(tmp_path: Path) -> None:
    trained: World = train_world("v_prediction")
    random = np.random.default_rng(3)
    people = []
    for number in range(6):
        features = random.normal(size=(2, 4))
        people.append(stranger(f"s{number}", render(features / np.linalg.norm(features, axis=1, keepdims=True))))
    names = names_of([f"first{n} last{n}" for n in range(300)], "the steerable world")
    world = make_world(trained.model, names, people, decode_toy, steps=20)
    whole_frame = next(one for one in ABLATIONS if one.name == "direct")
    assert isinstance(whole_frame, Trained)
    settings = replace(whole_frame.settings, components=4, smallest=0.99, views=16, steps=300, learning_rate=0.03)
    direct = replace(whole_frame, settings=settings)
    plan = _plan("random name", "mean", contestants=(*_plan("random name", "mean").contestants, direct), strangers=6)
    plan = replace(plan, steps=0, pictures=2)
    assert set(_all(world, plan, tmp_path)) == {"new"}
    rows = {
        row.contestant: row.last.figures
        for row in summarise(Results(tmp_path).all(), ["random name", "mean", "direct"])
    }
    print(json.dumps({name: [found["identity"].value, found["recognised"].value] for name, found in rows.items()}))
    assert apart(rows["direct"]["identity"], rows["random name"]["identity"])
    assert apart(rows["direct"]["identity"], rows["mean"]["identity"])
    assert rows["direct"]["recognised"].value > 2 * rows["random name"]["recognised"].value


def test_runs_aside_are_fewer_and_only_the_watched_are_measured_on_the_way(toy: tuple[EvidenceWorld, Path]) -> None:
    world, folder = toy
    plan = _plan("paper", "direct", strangers=4, seeds=(0, 1), watched=2, aside=(2, 1))
    cells = [cell for cell, _ in cells_of(world, plan)]
    assert [(one.contestant, one.group[0], one.seed, one.measured["milestones"]) for one in cells] == [
        ("paper", "s0", 0, [0.5, 1.0]),
        ("direct", "s0", 0, [1.0]),
        ("paper", "s2", 0, [1.0]),
        ("paper", "s0", 1, [1.0]),
        ("paper", "s2", 1, [1.0]),
    ]
    assert _all(world, plan, folder) == ["new"] * 5
    paper, direct = summarise(matching(Results(folder), plan, world.key), ["paper", "direct"])
    assert [point.evaluations for point in paper.points] == [2, 4]
    assert (paper.strangers, paper.seeds, direct.strangers, direct.seeds) == (4, 2, 2, 1)
    last = paper.last.figures["identity"]
    assert last is not None
    assert last.count == 4


def test_workers_share_the_cells_and_leave_none(toy: tuple[EvidenceWorld, Path]) -> None:
    world, folder = toy
    plan = _plan("mean", "paper", strangers=4, seeds=(0, 1))
    shares = [[done.cell.key for done in run(world, plan, Results(folder), share=(number, 2))] for number in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(cell.key for cell, _ in cells_of(world, plan))
    assert not set(shares[0]) & set(shares[1])
    assert len(shares[0]) == len(shares[1])
    assert _all(world, plan, folder) == ["kept"] * 8
