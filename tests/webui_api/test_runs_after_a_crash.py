"""Runs of the WebUI that end without their last step: what is left on the disk at any moment is enough to go on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.service import ended, request, until

from celeb_basis.errors import CelebBasisError, FileError, IdentityError
from celeb_basis.events import Preparing
from celeb_basis.identities.identity import MAX_TEXT
from celeb_basis.training import state as states
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import BusyError, NoSuchJobError, NoSuchPersonError
from celeb_basis.webui.service import Service
from celeb_basis.webui.tasks import learn
from celeb_basis.webui.tasks.learn import LearnTasks
from celeb_basis.webui.tasks.learned import add_people


@pytest.fixture
def crashed(service: Service, tmp_path: Path) -> Iterator[Any]:
    """Services of a WebUI that was started again after a crash: the disk as it is, and nothing else."""
    started: list[Service] = []

    def start(*, since: Path | None = None) -> Service:
        root = tmp_path / f"after-{len(started)}"
        paths = service.workspace.paths
        shutil.copytree(since or paths.data, root / paths.data.name, ignore=shutil.ignore_patterns(".tmp-*"))
        workspace = replace(service.workspace, root=root, registry=None)
        later = Service(replace(service.host, lock=threading.Lock()), workspace)  # type: ignore[type-var]
        later.faces._loaded = service.faces._loaded
        started.append(later)
        return later

    yield start
    for later in started:
        for job in later.queue.jobs():
            later.queue.interrupt(job.id)
            assert job.wait(60)


def photos(service: Service) -> list[Path]:
    return [path for path in service.workspace.paths.uploads.rglob("*") if path.is_file()]


def whole(service: Service, name: str = "whole", steps: int = 60) -> str:
    """Hash of what an undisturbed run learns."""
    return str(ended(service.start_learning(request(name, steps=steps))).result["people"][0]["hash"])


def test_a_run_that_waited(service: Service, crashed: Any) -> None:
    expected = whole(service)
    first = service.start_learning(request("bob", steps=100_000))
    until(first, 1)
    service.start_learning(request("ada", steps=60))
    later = crashed()
    runs = {run.name: run for run in later.saved_runs()}
    assert set(runs) == {"ada", "bob"}
    assert (runs["ada"].step, runs["ada"].steps, runs["ada"].checkpoint) == (0, 60, "")
    job = ended(later.resume_run("ada"))
    assert (job.state, job.error) == ("done", "")
    assert job.result["people"][0]["hash"] == expected
    assert later.people.entry("ada").identity.metadata.notes == "a note"
    assert [run.name for run in later.saved_runs()] == ["bob"]


def test_a_run_whose_views_were_not_ready(
    service: Service, crashed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, copy = whole(service), tmp_path / "copy"
    shown = LearnTasks._show

    def show(tasks: LearnTasks, job: Job, event: Any) -> None:
        shown(tasks, job, event)
        if isinstance(event, Preparing) and event.done == 1 and not copy.exists():
            shutil.copytree(service.workspace.paths.data, copy)

    monkeypatch.setattr(LearnTasks, "_show", show)
    ended(service.start_learning(request("ada", steps=60)))
    later = crashed(since=copy)
    assert len(photos(later)) == 1, "without a state, the photo is what the run goes on from"
    (run,) = later.saved_runs()
    job = ended(later.resume_run(run.id))
    assert job.result["people"][0]["hash"] == expected
    assert photos(later) == []


def test_a_run_in_its_steps(service: Service, crashed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole(service, steps=400)
    monkeypatch.setattr(states, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(states, "SAVE_COST", 0.0)
    job = service.start_learning(request("ada", steps=400))
    until(job, 21)  # a step is reported before its state is saved: by now that of step 20 is
    assert photos(service) == [], "the state is enough"
    later = crashed()
    assert photos(later) == []
    (run,) = later.saved_runs()
    assert run.id == job.id
    assert (run.name, run.people, run.steps, run.checkpoint) == (
        "ada",
        ("ada",),
        400,
        service.host.loaded_model().info.name,
    )
    assert 20 <= run.step < 400
    assert run.when.endswith("+00:00")
    json.dumps(run.as_dict())
    done = ended(later.resume_run("ADA"))
    assert done.result["people"][0]["hash"] == expected
    assert later.saved_runs() == []
    assert list(later.workspace.paths.unfinished.iterdir()) == []


def test_a_run_that_had_just_saved_its_identity(
    service: Service, crashed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state is still there: resuming must make nobody a second time."""
    copy = tmp_path / "copy"

    def added(*given: Any) -> None:
        add_people(*given)
        shutil.copytree(service.workspace.paths.data, copy)

    monkeypatch.setattr(learn, "add_people", added)
    ended(service.start_learning(request("ada")))
    monkeypatch.setattr(learn, "add_people", add_people)
    later = crashed(since=copy)
    assert ended(later.resume_run("ada")).state == "done"
    assert [entry.name for entry in later.people.entries()] == ["ada"]


def test_discarding(service: Service, crashed: Any) -> None:
    first = service.start_learning(request("bob", steps=100_000))
    until(first, 1)
    service.start_learning(request("ada", steps=60))
    later = crashed()
    assert later.discard_run("ada").name == "ada"
    assert later.discard_run(first.id).name == "bob"
    assert later.saved_runs() == []
    assert photos(later) == []
    assert list(later.workspace.paths.unfinished.iterdir()) == []
    for action in (later.resume_run, later.discard_run):
        with pytest.raises(NoSuchJobError, match="no interrupted run of 'ada'"):
            action("ada")


@pytest.mark.parametrize("begun", [False, True])
def test_deleting_a_person_who_is_only_in_an_interrupted_run(service: Service, crashed: Any, begun: bool) -> None:
    first = service.start_learning(request("bob", steps=100_000))
    until(first, 1)
    service.start_learning(request("ada", steps=60))
    later, name = crashed(), "bob" if begun else "ada"
    assert len(later.people.traces(name).states) == 1
    deleted = later.people.delete(name)
    assert deleted.people == (name,)
    assert len(deleted.files) == 2, "the state or the photo, and the record"
    assert deleted.left == ()
    with pytest.raises(NoSuchPersonError):
        later.people.delete(name)
    assert [run.name for run in later.saved_runs()] == ["ada" if begun else "bob"]
    with pytest.raises(BusyError):
        service.people.delete("bob")


def test_a_checkpoint_that_is_missing_costs_no_run(service: Service, crashed: Any) -> None:
    first = service.start_learning(request("bob", steps=100_000))
    until(first, 1)
    service.start_learning(request("ada"))
    later = crashed()
    later.host.model = None
    assert ended(later.resume_run("ada")).state == "failed"
    later.host.model = service.host.loaded_model()
    assert ended(later.resume_run("ada")).state == "done"


def test_a_full_disk_at_the_end(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    full = True

    def fsync(handle: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "no space")
        real(handle)

    job = service.start_learning(request("ada", steps=3000))
    until(job, 1)
    monkeypatch.setattr(os, "fsync", fsync)
    assert ended(job).state == "failed"
    assert "the disk is full" in job.error
    assert "press Resume" in job.error
    assert job.resumable
    full = False
    service.resume(job.id)
    assert ended(job).state == "done", job.error
    assert job.result["steps"] == 3000
    assert service.saved_runs() == []


def test_a_full_disk_on_the_way_is_a_warning(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = states.save_state, 0

    def failing(*arguments: Any, **keywords: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise FileError("Could not write it: the disk is full.")
        save(*arguments, **keywords)

    monkeypatch.setattr(states, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(states, "SAVE_COST", 0.0)
    monkeypatch.setattr(states, "save_state", failing)
    job = ended(service.start_learning(request("ada")))
    assert job.state == "done"
    warnings = [text for text in job.progress().warnings if "the disk is full" in text]
    assert len(warnings) == 1, "once, though it failed twice in a row"
    assert "it can be resumed from step 0" in warnings[0]


def test_a_nearly_full_disk_is_refused_at_the_start(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: usage._replace(free=3 << 20))
    with pytest.raises(FileError, match="nearly full: 3 MB are free"):
        service.start_learning(request("ada"))
    assert service.jobs() == []


def test_a_library_that_is_a_file_is_refused_at_the_start(service: Service) -> None:
    people = service.workspace.paths.people
    people.parent.mkdir(parents=True)
    people.write_text("not a folder")
    with pytest.raises(CelebBasisError, match="is a file, not a folder"):
        service.start_learning(request("ada"))


@pytest.mark.parametrize("field", ["notes", "consent_note"])
@pytest.mark.parametrize(
    ("text", "reason"), [("x" * (MAX_TEXT + 1), "at most"), ("half \ud83d", "half of a character")]
)
def test_texts_that_no_identity_can_hold(service: Service, field: str, text: str, reason: str) -> None:
    changes: dict[str, Any] = {field: text}
    with pytest.raises(IdentityError, match=reason):
        service.start_learning(replace(request("ada"), **changes))
    assert service.jobs() == []


def test_records_of_version_0_1_0_are_resumed(service: Service, crashed: Any) -> None:
    job = service.start_learning(request("ada", steps=300))
    until(job, 2)
    service.interrupt(job.id)
    ended(job)
    record = service.workspace.paths.unfinished / f"{job.id}.json"
    known = json.loads(record.read_text("utf-8"))
    old = ("people", "consent", "notes", "replace", "created", "preview_every", "previews")
    record.write_text(json.dumps({key: known[key] for key in old}), "utf-8")
    later = crashed()
    assert ended(later.resume_run("ada")).state == "done"


@pytest.mark.parametrize(
    "wrong",
    [{"photos": [["../../secret.png"]]}, {"photos": [["/etc/passwd"]]}, {"photos": 3}, {"created": "x"}, {"x": 1}],
)
def test_a_record_that_was_tampered_with_is_passed_over(service: Service, wrong: dict[str, Any]) -> None:
    folder = service.workspace.paths.unfinished
    folder.mkdir(parents=True)
    plain = {"people": ["ada"], "consent": "", "notes": "", "replace": False, "created": 1.0, "faces": [[None]]}
    (folder / "aaaaaaaaaaaa.json").write_text(json.dumps(plain | wrong), "utf-8")
    assert service.saved_runs() == []
