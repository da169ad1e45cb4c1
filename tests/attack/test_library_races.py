"""Many threads and two processes on one library: nobody is lost, nobody comes back, one of those who add a name succeeds."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.people import person

from celeb_basis.errors import FileError, IdentityError
from celeb_basis.identities.deletion import delete_person
from celeb_basis.identities.folder_lock import writing
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import Library

ROOT = Path(__file__).resolve().parents[2]


def all_at_once(works: Sequence[Callable[[], object]]) -> list[object]:
    """Results, or the errors, of works that begin together in threads."""
    barrier = threading.Barrier(len(works))
    results: list[object] = [None] * len(works)

    def run(place: int, work: Callable[[], object]) -> None:
        barrier.wait()
        try:
            results[place] = work()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def noted(text: str) -> Callable[[Identity], Identity]:
    return lambda identity: replace(identity, metadata=replace(identity.metadata, notes=text))


def add_ada(folder: Path, seed: int) -> Path:
    return Library(folder).add(person("ada", seed=seed))


def test_one_of_eight_adds_a_name(tmp_path: Path) -> None:
    for round_ in range(5):
        folder = tmp_path / str(round_)
        results = all_at_once([partial(add_ada, folder, seed) for seed in range(8)])
        added = [one for one in results if isinstance(one, Path)]
        refused = [str(one) for one in results if isinstance(one, IdentityError)]
        assert len(added) == 1
        assert len(refused) == 7
        assert all("already an identity" in text for text in refused)
        assert Library(folder).names() == ("ada",)


def test_fifty_threads_lose_nobody(tmp_path: Path) -> None:
    library = Library(tmp_path)

    def add(number: int) -> Path:
        return library.add(person(f"person {number}"))

    results = all_at_once([partial(add, number) for number in range(50)])
    assert all(isinstance(one, Path) for one in results)
    assert len(library.names()) == 50
    results = all_at_once(
        [
            *(lambda number=number: library.rename(f"person {number}", f"renamed {number}") for number in range(25)),
            *(lambda number=number: library.update(f"person {number}", noted("x")) for number in range(25, 50)),
        ]
    )
    assert all(isinstance(one, Path) for one in results)
    assert [library.load(f"person {number}").metadata.notes for number in range(25, 50)] == ["x"] * 25
    assert len(library.names()) == 50


def test_notes_bring_nobody_back(tmp_path: Path) -> None:
    library = Library(tmp_path)
    for _ in range(20):
        library.add(person("ada"), replace=True)
        all_at_once([lambda: library.update("ada", noted("new")), lambda: delete_person(library, "ada")])
        assert library.names() == ()


def test_of_two_who_rename_to_one_name_one_succeeds(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    library.add(person("bob", seed=1))
    results = all_at_once([lambda: library.rename("ada", "carl"), lambda: library.rename("bob", "carl")])
    assert sum(isinstance(one, Path) for one in results) == 1
    assert len(library.names()) == 2


_NOTE = """
import sys
from pathlib import Path
from celeb_basis.identities.generated_files import GeneratedFiles
folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    path = folder / "pictures" / f"{number}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_text(str(number))
    GeneratedFiles(folder).note([path], "picture", ["ada"])
"""


def test_two_processes_note_every_file(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", _NOTE, str(tmp_path), str(first), "25"], cwd=ROOT) for first in (0, 100)
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    assert len(GeneratedFiles(tmp_path).of("ada")) == 50


_ADD = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from support.people import person
from celeb_basis.identities.library import Library
from celeb_basis.errors import IdentityError
library, added = Library(Path(sys.argv[1])), 0
for number in range(20):
    try:
        library.add(person(f"person {number}", seed=int(sys.argv[2])))
        added += 1
    except IdentityError:
        pass
print(added)
"""


def test_two_processes_add_each_name_once(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", _ADD, str(tmp_path), seed], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for seed in "01"
    ]
    added = [int(process.communicate(timeout=120)[0]) for process in started]
    assert sum(added) == 20
    assert len(Library(tmp_path).names()) == 20


def test_another_program_that_writes_for_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr("celeb_basis.identities.folder_lock._PATIENCE", 0.1)
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(FileError, match="Another program") as caught:
            Library(tmp_path).add(person("ada"))
    finally:
        os.close(handle)
    assert "try again" in str(caught.value)
    assert Library(tmp_path).names() == ()
    Library(tmp_path).add(person("ada"))
    assert [path.name for path in tmp_path.iterdir()] == ["ada.safetensors"]


def test_reading_waits_for_nobody(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    with writing(tmp_path):
        names = all_at_once([library.names, lambda: library.load("ada").name])
    assert names == [("ada",), "ada"]


def test_without_locks_threads_still_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    results = all_at_once([partial(add_ada, tmp_path, seed) for seed in range(4)])
    assert sum(isinstance(one, Path) for one in results) == 1


def test_windows_locks_by_name(tmp_path: Path) -> None:
    from celeb_basis.identities.folder_lock import _lock_by_name

    with contextlib.ExitStack() as stack:
        _lock_by_name(tmp_path, stack)
        with contextlib.ExitStack() as other, pytest.MonkeyPatch.context() as patch:
            patch.setattr("celeb_basis.identities.folder_lock._PATIENCE", 0.1)
            with pytest.raises(TimeoutError):
                _lock_by_name(tmp_path, other)
    assert list(tmp_path.iterdir()) == []


def test_a_listing_shows_nobody_as_broken_who_was_just_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    library.add(person("bob", seed=1))
    files = tuple(library._files())
    (tmp_path / "ada.safetensors").unlink()
    monkeypatch.setattr(library, "_files", lambda: iter(files))
    assert [(status.name, status.problem) for status in library.entries()] == [("bob", "")]


def test_two_spellings_in_one_folder_are_both_reached(tmp_path: Path) -> None:
    library = Library(tmp_path)
    lower = library.add(person("ada"))
    upper = tmp_path / "ADA.safetensors"
    upper.write_bytes(lower.read_bytes())
    if len(list(tmp_path.glob("*.safetensors"))) == 1:
        pytest.skip("this file system takes both names for one")
    assert library.path_of("ada") == lower
    assert library.path_of("ADA") == upper
    reasons = {status.name: status.reason for status in library.entries()}
    assert reasons["ADA"] == ""
    assert "'ADA' counts as the same name" in reasons["ada"]
    library.delete("ada")
    assert library.names() == ("ADA",)


def test_the_mask_of_permissions_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that other threads create while one of ours is written must not be open to everybody."""

    def refused(mask: int) -> int:
        raise AssertionError(f"umask {mask:o} was set")

    monkeypatch.setattr("os.umask", refused)
    Library(tmp_path).add(person("ada"))
    GeneratedFiles(tmp_path).note([tmp_path / "ada.safetensors"], "export", ["ada"])
    assert json.loads((tmp_path / ".derived.json").read_text())["files"]


def test_two_processes_and_fifty_threads_lose_nobody_and_bring_nobody_back(tmp_path: Path) -> None:
    folder = tmp_path / "people"
    library = Library(folder)
    library.add(person("counted"))
    library.add(person("churn"))
    program = [sys.executable, str(ROOT / "tests" / "support" / "library_stress.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([*program, tag, "25"], env=environment, stdout=subprocess.PIPE, text=True)
        for tag in ("p", "q")
    ]
    both = [json.loads(process.communicate(timeout=300)[0]) for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert [found["errors"] for found in both] == [[], []]
    assert [found["back"] for found in both] == [[], []], "nobody comes back"
    kept = {name for found in both for name in found["kept"]}
    assert len(kept) == 24
    assert set(library.names()) == kept | {"shared", "counted"}, "nobody is lost"
    assert sum(found["won"] for found in both) == 1
    assert len(library.load("counted").metadata.notes) == sum(found["notes"] for found in both) == 50
    assert {file.people for file in GeneratedFiles(folder).all()} == {(name,) for name in kept}
    assert len(list(tmp_path.glob("*.txt"))) == len(kept)
    assert not [path for path in folder.iterdir() if path.name.startswith(".tmp-")]
    assert all(found["read"] for found in both)


def test_a_folder_that_is_made_under_the_lock_is_locked(tmp_path: Path) -> None:
    """A first run is deleted before there is a library."""
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "people"
    with writing(folder), writing(folder, create=True):
        handle = os.open(folder, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(handle)
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows forks no processes")
def test_a_process_that_is_forked_under_the_lock_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeb_basis.identities.folder_lock._PATIENCE", 1.0)
    go_on, waiting = os.pipe()
    with writing(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(waiting)
            os.read(go_on, 1)  # as a worker of another library that lives on
            os._exit(0)
    try:
        Library(tmp_path).add(person("ada"))
    finally:
        os.close(waiting)
        os.close(go_on)
        os.waitpid(child, 0)


def test_threads_that_come_first_share_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no locks, nothing else keeps them apart."""
    from celeb_basis.identities import folder_lock

    made = folder_lock._FolderLock.__init__

    def slowly(self: folder_lock._FolderLock, folder: str) -> None:
        time.sleep(0.02)
        made(self, folder)

    monkeypatch.setattr(folder_lock._FolderLock, "__init__", slowly)
    monkeypatch.setattr(folder_lock._FolderLock, "_lock_for_processes", lambda *_: None)
    inside, most = [], []

    def enter() -> None:
        with writing(tmp_path):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    all_at_once([enter] * 8)
    assert max(most) == 1


def test_a_damaged_record_is_kept_aside(tmp_path: Path) -> None:
    """The next note does not take its place: what it names is not lost."""
    record, file = tmp_path / ".derived.json", tmp_path / "a.png"
    record.write_text('{"files": [')
    file.write_text("x")
    GeneratedFiles(tmp_path).note([file], "picture", ["ada"])
    (aside,) = tmp_path.glob(".derived-damaged-*.json")
    assert aside.read_text() == '{"files": ['
    assert [one.path for one in GeneratedFiles(tmp_path).of("ada")] == [file]
