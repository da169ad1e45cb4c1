"""``runs``, resuming by name, signals, and what the command line says about a run that did not end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from support.locked_runs import Other
from support.people import person

from celeb_basis.cli.progress import LearnBar
from celeb_basis.events import Event, StepDone
from celeb_basis.identities.deletion import delete_person
from celeb_basis.identities.library import Library
from celeb_basis.training import state as states

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(states, "SAVE_COST", 0.0)


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch, celeb: Callable[..., Any], parts: Any) -> Callable[..., None]:
    """Learn people, in a run that ends in a step without any of the ways to end well."""

    def run(name: str, *options: object, step: int = 2) -> None:
        shown = LearnBar.show

        def show(bar: LearnBar, event: Event) -> None:
            shown(bar, event)
            if isinstance(event, StepDone) and event.step == step:
                raise Crash

        with monkeypatch.context() as patch:
            patch.setattr(LearnBar, "show", show)
            with pytest.raises(Crash):
                celeb("learn", parts.photo, "--name", name, *parts.learning, *options)

    return run


def test_runs_are_listed_resumed_and_discarded(
    celeb: Callable[..., Any], parts: Any, crash: Callable[..., None], own_library: Path, private_cache: Path
) -> None:
    assert "no saved run" in celeb("runs").out
    assert celeb("runs", "--json").json == {"runs": []}
    crash("ada")
    crash("bob", step=3)
    listed = celeb("runs")
    assert "ada: step 1 of 4 on small-sd1" in listed.out
    assert "bob: step 2 of 4 on small-sd1" in listed.out
    runs = celeb("runs", "--json").json["runs"]
    assert {run["name"] for run in runs} == {"ada", "bob"}
    assert all(Path(run["file"]).is_file() and run["when"].endswith("+00:00") for run in runs)

    model = ["--model", parts.model, "--names", parts.names]
    resumed = celeb("learn", "--resume", "ada", *model)
    assert resumed.code == 0, resumed.err
    assert own_library.joinpath("ada.safetensors").is_file()
    assert celeb("runs", "--discard", "bob").code == 2, "asked without a terminal"
    assert celeb("runs", "--discard", "bob", "--yes").code == 0
    assert celeb("runs", "--json").json == {"runs": []}
    unknown = celeb("learn", "--resume", "eve", *model)
    assert unknown.code == 2
    assert "no saved run of a person called so" in unknown.err
    assert list((private_cache / "unfinished").glob("[!.]*")) == []


def test_a_run_of_another_process_is_left_alone(
    celeb: Callable[..., Any],
    parts: Any,
    crash: Callable[..., None],
    other: Callable[[Path], Other],
    own_library: Path,
) -> None:
    crash("ada")
    (run,) = celeb("runs", "--json").json["runs"]
    assert run["running"] is False
    state = Path(run["file"])
    process = other(state)
    assert "under way now, in another program" in celeb("runs").out
    assert celeb("runs", "--json").json["runs"] == [run | {"running": True}]
    model = ["--model", parts.model, "--names", parts.names]
    commands = [
        ("runs", "--discard", "ada", "--yes"),
        ("learn", "--resume", "ada", *model),
        ("delete", "ada", "--yes"),
        ("learn", parts.photo, "--name", "ada", *parts.learning, "--state", state),
    ]
    for command in commands:
        answer = celeb(*command)
        assert answer.code == 2, command
        assert "under way in another program" in answer.err
    assert state.is_file()
    learned = celeb("learn", parts.photo, "--name", "ada", *parts.learning)
    assert learned.code == 0, "a run of its own"
    assert state.is_file(), "it is not this run's to delete"
    process.kill()
    assert celeb("learn", "--resume", "ada", *model, "--state", state, "--replace").code == 0
    assert list(state.parent.parent.glob("unfinished/*")) == []
    assert [path.name for path in own_library.glob("*.safetensors")] == ["ada.safetensors"]


def test_nothing_but_a_saved_run_is_discarded(celeb: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    assert celeb("runs", "--discard", tmp_path / "letter.txt", "--yes").code == 2
    assert (tmp_path / "letter.txt").exists()


def test_starting_again_takes_no_saved_run_away(
    celeb: Callable[..., Any], parts: Any, crash: Callable[..., None]
) -> None:
    crash("ada", step=4)
    crash("ada", step=2)
    steps = sorted(run["step"] for run in celeb("runs", "--json").json["runs"])
    assert steps == [1, 3]
    assert celeb("learn", parts.photo, "--name", "ada", *parts.learning).code == 0
    assert celeb("runs", "--json").json == {"runs": []}, "the person is learned"


def test_a_state_in_a_place_of_the_users_own(
    celeb: Callable[..., Any], parts: Any, crash: Callable[..., None], tmp_path: Path, own_library: Path
) -> None:
    state = tmp_path / "own" / "ada.safetensors"
    crash("ada", "--state", state)
    assert state.is_file()
    assert "ada.safetensors" in celeb("delete", "ada", "--dry-run").out, "though the run could not note it at its end"
    assert celeb("delete", "ada", "--yes").code == 0
    assert not state.exists()
    assert celeb("learn", parts.photo, "--name", "ada", *parts.learning, "--state", state).code == 0
    assert not state.exists(), "it is not needed any more"
    assert not (own_library / ".derived.json").exists()


@pytest.mark.parametrize("kind", ["identity", "model", "text"])
def test_a_state_does_not_replace_another_file(
    celeb: Callable[..., Any], parts: Any, own_library: Path, tmp_path: Path, kind: str
) -> None:
    other = tmp_path / ("letter.txt" if kind == "text" else "other.safetensors")
    if kind == "identity":
        assert celeb("learn", parts.photo, "--name", "bob", *parts.learning).code == 0
        other = own_library / "bob.safetensors"
    else:
        other.write_bytes(b"my words" if kind == "text" else save({"weight": torch.zeros(2)}))
    content = other.read_bytes()
    answer = celeb("learn", parts.photo, "--name", "ada", *parts.learning, "--state", other)
    assert answer.code == 2
    assert "no saved run" in answer.err
    assert other.read_bytes() == content


def test_a_name_taken_on_the_way(
    celeb: Callable[..., Any], parts: Any, own_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = LearnBar.show

    def show(bar: LearnBar, event: Event) -> None:
        shown(bar, event)
        if isinstance(event, StepDone) and event.step == 4:
            own_library.mkdir(exist_ok=True)
            (own_library / "ada.safetensors").write_bytes(b"another's")

    with monkeypatch.context() as patch:
        patch.setattr(LearnBar, "show", show)
        answer = celeb("learn", parts.photo, "--name", "ada", *parts.learning)
    assert answer.code == 2
    assert "The run is saved at step 4 of 4; to resume it: " in answer.err
    (own_library / "ada.safetensors").unlink()
    command = shlex.split(answer.err.split("to resume it: ")[1].splitlines()[0])
    assert celeb(*command[1:]).code == 0
    assert Library(own_library).names() == ("ada",)


@pytest.mark.parametrize("text", ["x" * 20_001, "half \udc80"])
def test_a_note_that_no_identity_can_hold(celeb: Callable[..., Any], parts: Any, text: str) -> None:
    answer = celeb("learn", parts.photo, "--name", "ada", *parts.learning, "--consent", text)
    assert answer.code == 2
    assert "note on consent would" in answer.err
    assert "Loading" not in answer.err, "before anything slow"


def test_a_nearly_full_disk(celeb: Callable[..., Any], parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: usage._replace(free=3 << 20))
    answer = celeb("learn", parts.photo, "--name", "ada", *parts.learning)
    assert answer.code == 2
    assert "nearly full: 3 MB are free" in answer.err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("ending", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow)])
def test_a_signal_ends_a_run_as_ctrl_c_does(parts: Any, tmp_path: Path, ending: str) -> None:
    """In a real process, without saving often: the state is written because of the signal."""
    words = [
        "learn",
        parts.photo,
        "--name",
        "ada",
        *parts.learning,
        "--steps",
        100_000,
        "--library",
        tmp_path / "library",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CELEB_BASIS_CACHE": str(tmp_path / "cache")}
    program = [sys.executable, "-m", "celeb_basis", *map(str, words)]
    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not (found := list((tmp_path / "cache" / "unfinished").glob("[!.]*.safetensors"))):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)  # some steps
        process.send_signal(getattr(signal, ending))
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "to resume it: celeb-basis learn --resume" in said
    assert states.read_summary(found[0]).step > 0


def test_a_run_of_a_person_who_was_renamed_goes_with_the_person(
    celeb: Callable[..., Any], crash: Callable[..., None], own_library: Path, private_cache: Path
) -> None:
    library = Library(own_library)
    library.add(person("ada"))
    crash("ada", "--replace")
    library.rename("ada", "eve")
    (state,) = (private_cache / "unfinished").glob("[!.]*.safetensors")
    assert str(state) in celeb("delete", "eve", "--dry-run").out
    assert celeb("delete", "eve", "--yes").code == 0
    assert not state.exists()


@pytest.mark.parametrize("renamed", [False, True])
def test_a_copy_of_a_run_brings_nobody_back(
    celeb: Callable[..., Any],
    parts: Any,
    crash: Callable[..., None],
    own_library: Path,
    private_cache: Path,
    tmp_path: Path,
    renamed: bool,
) -> None:
    library = Library(own_library)
    library.add(person("ada"))
    crash("ada", "--replace")
    (state,) = (private_cache / "unfinished").glob("[!.]*.safetensors")
    copy = Path(shutil.copy(state, tmp_path / "copy.safetensors"))
    if renamed:
        library.rename("ada", "eve")
    assert celeb("delete", "eve" if renamed else "ada", "--yes").code == 0
    resumed = celeb("learn", "--resume", copy, "--model", parts.model, "--names", parts.names)
    assert resumed.code == 2
    assert "'ada' was deleted after this had begun" in resumed.err
    assert library.names() == ()
    assert copy.exists(), "it is in a place of the user's own"


def test_a_run_ends_when_its_person_is_deleted(
    celeb: Callable[..., Any], parts: Any, own_library: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another program, in the third of ten thousand steps; no state of the run is left."""
    shown = LearnBar.show

    def show(bar: LearnBar, event: Event) -> None:
        shown(bar, event)
        if isinstance(event, StepDone) and event.step == 3:
            delete_person(Library(own_library), "ada")

    Library(own_library).add(person("ada"))
    monkeypatch.setattr(LearnBar, "show", show)
    ended = celeb("learn", parts.photo, "--name", "ada", "--replace", *parts.learning, "--steps", "10000")
    assert ended.code == 2
    assert "'ada' was deleted" in ended.err
    assert Library(own_library).names() == ()
    assert list((private_cache / "unfinished").glob("*")) == []
