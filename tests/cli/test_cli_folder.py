"""A folder of people: learned one by one or together, and failures that do not stop the others."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from celeb_basis.cli.progress import LearnBar
from celeb_basis.events import Event, StepDone
from celeb_basis.identities.identity import load_identity
from celeb_basis.training.run import TrainingResult, TrainingTask


@pytest.fixture
def people(tmp_path: Path, parts: Any) -> Path:
    """Two people who can be learned, two who cannot, and files that are not people."""
    folder = tmp_path / "people"
    (folder / "bob").mkdir(parents=True)
    photo = parts.photo.read_bytes()
    (folder / "ann.png").write_bytes(photo)
    (folder / "bob" / "1.png").write_bytes(photo)
    (folder / "bob" / "2.png").write_bytes(photo)
    Image.new("RGB", (256, 256), "white").save(folder / "nobody.png")
    (folder / "text.jpg").write_bytes(b"a text")
    (folder / "notes.md").write_bytes(b"not a person")
    (folder / ".hidden.png").write_bytes(photo)
    return folder


def test_the_others_are_learned_and_failures_are_listed(
    celeb: Callable[..., Any], parts: Any, people: Path, own_library: Path
) -> None:
    answer = celeb("learn", people, *parts.learning, "--json")
    assert answer.code == 1
    rows = {row["name"]: row for row in answer.json["people"]}
    assert {name: row["ok"] for name, row in rows.items()} == {"ann": True, "bob": True, "nobody": False, "text": False}
    assert "No face was found in nobody.png" in rows["nobody"]["error"]
    assert "not a picture" in rows["text"]["error"]
    assert {path.name for path in own_library.iterdir()} == {"ann.safetensors", "bob.safetensors"}

    # Those who are there stay as they are; now everybody fails.
    before = (own_library / "ann.safetensors").read_bytes()
    again = celeb("learn", people, *parts.learning)
    assert again.code == 2
    assert "failed  ann" in again.out
    assert "add --replace" in again.out
    assert "0 learned, 4 failed" in again.out
    assert (own_library / "ann.safetensors").read_bytes() == before


def test_names_that_cannot_be_names_fail_alone(celeb: Callable[..., Any], parts: Any, tmp_path: Path) -> None:
    folder = tmp_path / "people"
    (folder / "empty").mkdir(parents=True)
    for name in ("ann.png", "bad(name).png", "Ann.jpg"):
        (folder / name).write_bytes(parts.photo.read_bytes())
    answer = celeb("learn", folder, *parts.learning, "--json")
    assert answer.code == 1
    assert [row["ok"] for row in answer.json["people"]] == [True, False, False, False]
    errors = " ".join(row["error"] for row in answer.json["people"])
    assert "leave it out" in errors
    assert "There is no picture in" in errors
    assert "Two people" in errors


def test_together_share_one_run(celeb: Callable[..., Any], parts: Any, tmp_path: Path, own_library: Path) -> None:
    words = ["--person", f"ann={parts.photo}", "--person", f"bob={parts.photo}", *parts.learning]
    answer = celeb("learn", *words, "--json", "--report", tmp_path / "both.html")
    assert answer.code == 0, answer.err
    assert [row["name"] for row in answer.json["people"]] == ["ann", "bob"]
    ann, bob = (load_identity(own_library / f"{name}.safetensors") for name in ("ann", "bob"))
    assert ann.metadata.steps == bob.metadata.steps == 8  # four for each
    assert "ann and bob learned" in (tmp_path / "both.html").read_text(encoding="utf-8")


def test_together_is_all_or_nothing(celeb: Callable[..., Any], parts: Any, people: Path, own_library: Path) -> None:
    answer = celeb("learn", people, "--together", *parts.learning)
    assert answer.code == 2
    assert "No face was found" in answer.err or "not a picture" in answer.err
    assert not own_library.exists()


def test_ctrl_c_ends_the_whole_folder(
    celeb: Callable[..., Any], parts: Any, people: Path, own_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = LearnBar.show

    def ctrl_c(bar: LearnBar, event: Event) -> None:
        show(bar, event)
        if isinstance(event, StepDone) and bar.about.endswith("bob") and event.step == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LearnBar, "show", ctrl_c)
        answer = celeb("learn", people, *parts.learning, "--json")
    assert answer.code == 130
    assert answer.json["interrupted"]
    rows = {row["name"]: row for row in answer.json["people"]}
    assert rows["ann"]["ok"]
    assert rows["bob"]["reason"] == "interrupted"
    assert Path(rows["bob"]["state"]).is_file()
    assert rows["text"]["error"] == "Not started."
    assert [path.name for path in own_library.iterdir()] == ["ann.safetensors"]

    (command,) = (line.split("to resume it: ")[1] for line in answer.err.splitlines() if "to resume it: " in line)
    assert shlex.split(command)[3] == rows["bob"]["state"]
    before = Path(rows["bob"]["state"]).read_bytes()
    resumed = celeb(*shlex.split(command)[1:])
    assert resumed.code == 0, resumed.err
    assert not Path(rows["bob"]["state"]).exists()
    # The same run from its beginning does away with what was kept of it as well.
    Path(rows["bob"]["state"]).write_bytes(before)
    again = celeb("learn", people, *parts.learning, "--replace")
    assert again.code == 1
    assert not Path(rows["bob"]["state"]).exists()


def test_ctrl_c_on_ray_lists_who_was_being_learned(
    celeb: Callable[..., Any], parts: Any, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(
        _worker: object, jobs: Sequence[TrainingTask], interrupt: threading.Event, _options: object
    ) -> Iterator[TrainingResult]:
        interrupt.set()
        yield TrainingResult(
            jobs[0].names, reason="interrupted", error="Interrupted, and nothing is kept: learn her again."
        )

    monkeypatch.setattr("celeb_basis.training.ray_executor.run_on_ray", stopped)
    answer = celeb("learn", people, *parts.learning, "--executor", "ray", "--json")
    assert answer.code == 130
    rows = {row["name"]: row for row in answer.json["people"]}
    assert (rows["ann"]["reason"], rows["ann"]["state"]) == ("interrupted", None)
    assert rows["ann"]["error"] == "Interrupted, and nothing is kept: learn her again."
    assert rows["bob"]["error"] == "Not started."
    assert "to resume" not in answer.err
