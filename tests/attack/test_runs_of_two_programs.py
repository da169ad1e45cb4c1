"""A run that is alive in another process is known as such: it is listed, and neither resumed, discarded nor deleted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.locked_runs import Other
from support.service import ended, request, until

from celeb_basis.errors import CelebBasisError, TrainingError
from celeb_basis.training import run_lock
from celeb_basis.training.run_lock import RunningError, is_running, running
from celeb_basis.webui.service import Service
from celeb_basis.webui.ui import markup


@pytest.fixture
def second(service: Service) -> Iterator[Service]:
    """A second WebUI on the same data folder."""
    workspace = replace(service.workspace, registry=None)
    later = Service(replace(service.host), workspace)  # type: ignore[type-var]
    later.faces._loaded = service.faces._loaded
    yield later
    for job in later.queue.jobs():
        later.queue.interrupt(job.id)
        assert job.wait(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows forks no processes")
def test_a_process_that_is_forked_during_a_run_does_not_keep_its_lock(tmp_path: Path) -> None:
    state = tmp_path / "ada.safetensors"
    go_on, waiting = os.pipe()
    with running(state):
        child = os.fork()
        if child == 0:
            os.close(waiting)
            os.read(go_on, 1)  # as a worker of another library that lives on
            os._exit(0)
    try:
        with running(state):
            assert is_running(state)
    finally:
        os.close(waiting)
        os.close(go_on)
        os.waitpid(child, 0)


@pytest.mark.parametrize("how", ["end", "kill"])
def test_a_lock_lasts_as_long_as_its_process(how: str, tmp_path: Path, other: Callable[[Path], Other]) -> None:
    state = tmp_path / "ada.safetensors"
    assert not is_running(state)
    process = other(state)
    assert is_running(state)
    with pytest.raises(RunningError, match=r"run of ada is under way in another program.*\.$"), running(state, "ada"):
        pass
    assert not is_running(state.with_name("bob.safetensors"))
    getattr(process, how)()
    assert not is_running(state)
    with running(state):
        assert is_running(state)
    assert list(tmp_path.iterdir()) == []


def test_who_only_looks_stops_nobody_from_starting(tmp_path: Path, other: Callable[[Path], Other]) -> None:
    state = tmp_path / "ada.safetensors"
    other(state).kill()
    for _ in range(200):
        assert not is_running(state)
        with running(state):
            pass
    run_lock.sweep_locks(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_has_no_locks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with running(tmp_path / "file" / "ada.safetensors"):
        assert not is_running(tmp_path / "file" / "ada.safetensors")


def test_a_second_webui_knows_the_runs_of_the_first(service: Service, second: Service) -> None:
    job = service.start_learning(request("ada", steps=100_000))
    until(job, 1)
    waiting = service.start_learning(request("bob", steps=60))
    listed = {run.name: run.running for run in second.saved_runs()}
    assert listed == {"ada": True, "bob": True}
    assert [one.id for one in second.jobs()] == []
    page = markup.runs(second.saved_runs(), "", "pick")
    assert "Under way in another program" in page
    assert "resume:" not in page
    before = {path: path.read_bytes() for path in service.workspace.paths.uploads.rglob("*") if path.is_file()}
    for name in ("ada", job.id, "bob", waiting.id):
        for action in (second.resume_run, second.discard_run):
            with pytest.raises(TrainingError, match="under way in another program"):
                action(name)
    for name in ("ada", "bob"):
        with pytest.raises(CelebBasisError, match="under way in another program"):
            second.people.delete(name)
    assert before == {path: path.read_bytes() for path in before}
    service.interrupt(waiting.id)
    service.interrupt(job.id)
    assert job.wait(60)
    assert {run.name: run.running for run in second.saved_runs()} == {"ada": False, "bob": False}


def test_what_the_second_webui_resumes_is_not_the_firsts_any_more(service: Service, second: Service) -> None:
    job = service.start_learning(request("ada", steps=100_000))
    until(job, 1)
    waiting = service.start_learning(request("bob", steps=60))
    service.interrupt(waiting.id)
    service.interrupt(job.id)
    assert job.wait(60)
    assert {run.running for run in service.saved_runs()} == {False}
    resumed = second.resume_run("ada")
    until(resumed, 2)
    assert {run.name: run.running for run in service.saved_runs()} == {"ada": True, "bob": False}
    for action in (service.resume, service.forget):
        with pytest.raises(RunningError, match="under way in another program"):
            action(job.id)
    second.interrupt(resumed.id)
    assert resumed.wait(60)
    second.discard_run("ada")
    ended(second.resume_run("bob"))
    assert service.saved_runs() == []
    for one in (job, waiting):
        with pytest.raises(TrainingError, match="another program has finished or discarded it"):
            service.resume(one.id)
    assert list(service.workspace.paths.unfinished.iterdir()) == []


def test_a_run_of_another_process_is_listed_as_interrupted_once_that_is_killed(
    service: Service, second: Service, other: Callable[[Path], Other]
) -> None:
    job = service.start_learning(request("ada", steps=100_000))
    until(job, 1)
    service.interrupt(job.id)
    assert job.wait(60)
    process = other(second.workspace.paths.unfinished / f"{job.id}.safetensors")
    assert [run.running for run in second.saved_runs()] == [True]
    os.kill(process.process.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    process.process.wait(60)
    assert [run.running for run in second.saved_runs()] == [False]
    assert second.discard_run("ada").id == job.id
    assert list(second.workspace.paths.unfinished.iterdir()) == []


def test_photos_of_a_run_that_just_begins_are_left(
    service: Service, second: Service, other: Callable[[Path], Other]
) -> None:
    paths = service.workspace.paths
    for run in ("0123456789ab", "ba9876543210"):
        (paths.uploads / run).mkdir(parents=True)
        (paths.uploads / run / "photo.jpg").write_bytes(b"x")
    other(paths.unfinished / "0123456789ab.safetensors")
    second.jobs()
    assert [path.name for path in paths.uploads.iterdir()] == ["0123456789ab"]
