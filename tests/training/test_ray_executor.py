"""Tasks on a real Ray on this machine, with two worker processes."""

from __future__ import annotations

import importlib.util
import platform
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from celeb_basis.errors import HostError, MissingPackageError, NotFiniteError, PhotoError, TrainingError
from celeb_basis.events import Event
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.ray_executor import RayOptions, _Actor, run_on_ray
from celeb_basis.training.run import PhotoInput, TrainingResult, TrainingTask

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[Any]:
    """A Ray of this module's tests, so that it is started once; the command line's test starts its own."""
    import os

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    root = str(Path(__file__).resolve().parents[2])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    yield ray
    ray.shutdown()


def _task(name: str, *photos: Path) -> TrainingTask:
    return TrainingTask((PhotoInput(name, photos),), TrainingSettings(), consent=name)


def _make_runner(mark: Path) -> Callable[[], Any]:
    """A runner that returns its process and its input. Local classes travel to Ray by value."""

    class Reporter:
        def __init__(self) -> None:
            import os

            with open(mark, "a") as file:
                file.write(f"{os.getpid()}\n")

        def learn(self, task: TrainingTask, interrupt: threading.Event) -> Generator[Event, None, TrainingResult]:
            import os
            import time

            (name,) = task.names
            time.sleep(60 if name == "long" else 0.3)
            if name == "fails":
                raise PhotoError("The photo is no good: take another one.")
            if name == "breaks":
                raise ValueError("a surprise")
            if name == "dies":
                os._exit(1)
            if interrupt.is_set():
                yield Event()
            contents = tuple(path.read_bytes() for path in task.people[0].photos)
            return TrainingResult(
                task.names, identities=(*contents, str(os.getpid()).encode()), reason="all steps done"
            )

    return Reporter


@needs_ray
def test_tasks_are_distributed_and_failures_are_isolated(local_ray: Any, tmp_path: Path) -> None:
    del local_ray
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"the photo")
    names = ["one", "fails", "two", "breaks", "dies", "three", "four", "five"]
    tasks = [_task(name, photo) for name in names] + [_task("gone", tmp_path / "gone.jpg")]
    mark = tmp_path / "mark"
    outcomes = {one.names[0]: one for one in run_on_ray(_make_runner(mark), tasks, threading.Event(), RayOptions(2))}
    assert set(outcomes) == {*names, "gone"}
    assert outcomes["fails"].error == "The photo is no good: take another one."
    assert "ValueError: a surprise" in outcomes["breaks"].error
    assert "worker process died" in outcomes["dies"].error
    assert "does not exist" in outcomes["gone"].error
    good = [outcomes[name] for name in ("one", "two", "three", "four", "five")]
    assert all(one.identities[0] == b"the photo" and not one.error for one in good)
    # Loaded once in each process: two to begin with, and perhaps one in the place of the one that died.
    processes = mark.read_text().split()
    assert 2 <= len(processes) == len(set(processes)) <= 3
    assert {one.identities[1].decode() for one in good} <= set(processes)


@pytest.mark.slow
@needs_ray
def test_a_worker_that_died_is_replaced(local_ray: Any, tmp_path: Path) -> None:
    del local_ray
    mark = tmp_path / "mark"
    tasks = [_task("dies"), _task("one"), _task("two")]
    outcomes = list(run_on_ray(_make_runner(mark), tasks, threading.Event(), RayOptions(1)))
    assert [(one.names[0], bool(one.error)) for one in outcomes] == [("dies", True), ("one", False), ("two", False)]
    assert len(mark.read_text().split()) == 2


@needs_ray
def test_a_model_that_no_worker_can_load_is_one_error(local_ray: Any) -> None:
    del local_ray

    def broken() -> Any:
        raise HostError("There is no model here: copy it to every machine.")

    with pytest.raises(TrainingError, match="copy it to every machine"):
        list(run_on_ray(broken, [_task("one")], threading.Event(), RayOptions(1)))

    def surprising() -> Any:
        raise ValueError("a wheel came off")

    with pytest.raises(TrainingError, match=r"celeb-basis itself \(ValueError: a wheel came off\): run it again"):
        list(run_on_ray(surprising, [_task("one")], threading.Event(), RayOptions(1)))


@pytest.mark.slow
@needs_ray
def test_an_interrupt_stops_the_workers(local_ray: Any, tmp_path: Path) -> None:
    del local_ray
    interrupt = threading.Event()
    outcomes = []
    tasks = [_task(name) for name in ("long", "one", "two", "three")]
    for outcome in run_on_ray(_make_runner(tmp_path / "mark"), tasks, interrupt, RayOptions(2)):
        outcomes.append(outcome)
        interrupt.set()
    # The tasks that were running are reported, and no other one is started.
    assert [(one.names[0], one.reason) for one in outcomes] == [("one", "all steps done"), ("long", "interrupted")]
    assert "saves no state: learn this person again" in outcomes[1].error


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_error_names_the_machine_of_a_saved_state(tmp_path: Path, elsewhere: bool) -> None:
    class Failing:
        def learn(self, task: TrainingTask, interrupt: threading.Event) -> Generator[Event, None, TrainingResult]:
            yield Event()
            if not interrupt.is_set():
                raise NotFiniteError(f"The loss became NaN. To go on from there, resume {task.state}.")
            return TrainingResult(task.names)

    task = replace(_task("ann"), state=tmp_path / "ann.safetensors")
    actor = _Actor(Failing)
    assert actor.open() == ""
    error = actor.learn(task, [[]], "another" if elsewhere else platform.node()).error
    assert error.startswith(f"The loss became NaN. To go on from there, resume {task.state}.")
    assert (f"That file is on the machine {platform.node()}." in error) == elsewhere


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'celeb-basis\[ray\]'"):
        list(run_on_ray(lambda: None, [_task("one")], threading.Event(), RayOptions()))  # type: ignore[arg-type, return-value]


@pytest.mark.slow
@needs_ray
def test_the_command_line_distributes_a_folder(
    tmp_path: Path, miniature_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    import numpy as np
    import ray
    from support.sample_photos import sample_photos

    from celeb_basis.cli.main import main
    from celeb_basis.identities.identity import load_identity
    from celeb_basis.names.lists import shipped_names
    from miniature.small_models.pipelines import make_pipeline, save_pipeline

    ray.shutdown()  # the command line is to start its own
    monkeypatch.chdir(tmp_path)
    save_pipeline(make_pipeline("sd1", width=64), tmp_path / "model")
    (tmp_path / "names.txt").write_text("\n".join(shipped_names().names[:40]), encoding="utf-8")
    people = tmp_path / "people"
    people.mkdir()
    for name in ("ann", "bob"):
        (people / f"{name}.jpg").write_bytes(sample_photos()["six"].read_bytes())
    Image.new("RGB", (256, 256), "white").save(people / "nobody.png")
    words = (
        f"learn people --model model --faces {miniature_folder} --names names.txt --components 8 --views 2 --steps 3"
    )
    spread = [*words.split(), "--json", "--library", "spread", "--executor", "ray", "--workers", "2"]
    capsys.readouterr()  # what the earlier Ray had left to say
    assert main(spread) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["people"]}
    assert {name: row["ok"] for name, row in rows.items()} == {"ann": True, "bob": True, "nobody": False}
    assert "No face was found in nobody.png" in rows["nobody"]["error"]
    assert not ray.is_initialized()
    # The same people as in one process.
    assert main([*words.split(), "--library", "alone", "--quiet"]) == 1
    for name in ("ann", "bob"):
        there, here = (load_identity(tmp_path / folder / f"{name}.safetensors") for folder in ("spread", "alone"))
        np.testing.assert_allclose(there.coefficients[0], here.coefficients[0], atol=1e-4)
