"""What is deleted stays so, and a record that came with a folder deletes nothing outside of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.people import person
from support.service import request, until

from celeb_basis.errors import IdentityError
from celeb_basis.files import ABANDONED
from celeb_basis.identities.deletion import delete_person, traces_of
from celeb_basis.identities.folder_lock import MARKS, deleted_since
from celeb_basis.identities.generated_files import RECORD, GeneratedFiles
from celeb_basis.identities.library import Library
from celeb_basis.webui.service import Service

ROOT = Path(__file__).resolve().parents[2]


def written(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_run_that_ends_after_the_deletion_adds_nobody(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    begun = time.time()
    delete_person(library, "ada")
    with pytest.raises(IdentityError, match="was deleted after this had begun"):
        library.add(person("Ada"), begun=begun)
    assert library.names() == ()
    library.add(person("ada"), begun=time.time())
    assert library.names() == ("ada",)


def test_a_deleted_person_may_be_added_on_purpose(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    delete_person(library, "ada")
    library.add(person("ada"))
    assert library.names() == ("ada",)


def test_the_mark_of_a_deletion_names_nobody(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    delete_person(library, "ada")
    assert "ada" not in (tmp_path / MARKS).read_text().casefold().replace("deleted", "")
    assert deleted_since(tmp_path, "ada", time.time() - 60)
    assert not deleted_since(tmp_path, "bob", 0.1)


@pytest.mark.parametrize("content", ["{", "[]", '{"deleted": 3}', '{"deleted": {"x": "y"}}'])
def test_damaged_marks_stop_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / MARKS).write_text(content)
    Library(tmp_path).add(person("ada"), begun=0.1)
    assert Library(tmp_path).names() == ("ada",)


def test_a_foreign_record_deletes_nothing(tmp_path: Path) -> None:
    """The note names a file of the user's, with its right hash."""
    import hashlib

    folder, thesis = tmp_path / "people", tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    library = Library(folder)
    library.add(person("ada"))
    entry = {
        "path": str(thesis),
        "kind": "picture",
        "people": ["ada"],
        "sha256": hashlib.sha256(thesis.read_bytes()).hexdigest(),
    }
    for signature in ({}, {"signature": ""}, {"signature": "0" * 64}, {"signature": None}):
        (folder / RECORD).write_text(json.dumps({"format": 1, "files": [entry | signature]}))
        assert [file.path for file in traces_of(library, "ada").files] == [thesis]
        deleted = delete_person(library, "ada")
        assert thesis.read_text() == "years of work"
        assert [path for path, _ in deleted.left] == [thesis]
        assert "left to you" in deleted.sentence()
        assert str(thesis) in deleted.sentence()
        library.add(person("ada"))


def test_a_signature_is_of_one_note(tmp_path: Path) -> None:
    """A note of ours whose path was changed is not ours any more."""
    library, picture, thesis = Library(tmp_path / "people"), tmp_path / "a.png", tmp_path / "thesis.txt"
    library.add(person("ada"))
    picture.write_text("x")
    thesis.write_text("x")
    GeneratedFiles(library.folder).note([picture], "picture", ["ada"])
    record = library.folder / RECORD
    record.write_text(record.read_text().replace(str(picture), str(thesis)))
    delete_person(library, "ada")
    assert thesis.exists()


def test_our_own_notes_are_followed_after_a_rename(tmp_path: Path) -> None:
    library, picture = Library(tmp_path / "people"), tmp_path / "a.png"
    library.add(person("ada"))
    picture.write_text("x")
    record = GeneratedFiles(library.folder)
    record.note([picture], "picture", ["ada"])
    library.rename("ada", "eve")
    record.rename("ada", "eve")
    assert picture in delete_person(library, "eve").files
    assert not picture.exists()


def test_what_a_killed_writer_left_goes_too(tmp_path: Path) -> None:
    library = Library(tmp_path)
    path = library.add(person("ada"))
    whole, half = tmp_path / ".tmp-abc.safetensors", tmp_path / ".tmp-def.safetensors"
    whole.write_bytes(path.read_bytes())
    half.write_bytes(path.read_bytes()[:100])
    path.unlink()
    aged(half)
    assert traces_of(library, "ada").leftovers == (whole,)
    assert not traces_of(library, "bob")
    deleted = delete_person(library, "ada")
    assert whole in deleted.files
    assert not whole.exists()
    assert not half.exists()


def aged(path: Path) -> Path:
    """``path`` as it is more than an hour after it was written."""
    then = time.time() - 2 * ABANDONED
    os.utime(path, (then, then))
    return path


def test_leftovers_are_swept(tmp_path: Path) -> None:
    library = Library(tmp_path)
    path = library.add(person("ada"))
    aged(written(tmp_path / ".tmp-abc.safetensors"))
    (tmp_path / ".tmp-folder").mkdir()
    other = tmp_path / "mine.tmp-x"
    other.write_text("x")
    library.sweep()
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        ".tmp-folder",
        path.name,
        "mine.tmp-x",
    ]
    Library(tmp_path / "nowhere").sweep()
    assert not (tmp_path / "nowhere").exists()


_KILLED = """
import os, signal, sys
from pathlib import Path
from celeb_basis.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print(temporary, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def writer(path: Path, end: str) -> tuple[subprocess.Popen[str], Path]:
    """Another process that is writing ``path``, and its temporary file."""
    command = [sys.executable, "-c", _KILLED, str(path), end]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says of which start of a machine a process is")
def test_only_what_no_writer_needs_is_swept(tmp_path: Path) -> None:
    """Where locks do not hold, another writer may be at work."""
    living, used = writer(tmp_path / "a.safetensors", "waits")
    killed, left = writer(tmp_path / "b.safetensors", "killed")
    killed.communicate()
    of_another_machine = written(tmp_path / f".tmp-0123456789ab-{killed.pid}-x.safetensors")
    of_version_0_1_0 = written(tmp_path / ".tmp-abcdefgh.safetensors")
    assert used.is_file()
    assert left.is_file()
    Library(tmp_path).sweep()
    assert sorted(tmp_path.iterdir()) == sorted([used, of_another_machine, of_version_0_1_0])
    for path in (of_another_machine, of_version_0_1_0):
        aged(path)
    Library(tmp_path).sweep()
    assert [*tmp_path.iterdir()] == [used]
    living.communicate("go on")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_written_states_are_swept_as_well(service: Service) -> None:
    unfinished = service.workspace.paths.unfinished
    old = aged(written(unfinished / ".tmp-old0.safetensors"))
    new = written(unfinished / ".tmp-new0.json")
    service.jobs()
    assert [*unfinished.iterdir()] == [new]
    assert not old.exists()
    service.workspace.library.add(person("ada"))
    aged(new)
    service.people.delete("ada")
    assert [*unfinished.iterdir()] == []


_KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from support.people import person
from celeb_basis.identities.library import Library

def refused(*_):
    raise FileExistsError(17, "exists")

def once(source, target, rename=os.rename):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)

os.replace, os.rename = refused, once
Library(Path(sys.argv[1])).add(person("ada", seed=1), replace=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows renames over files")
def test_a_person_who_was_moved_away_for_a_moment_is_put_back(tmp_path: Path) -> None:
    """A share that cannot rename over a file, and a kill while the old file is away and the new one not there."""
    library = Library(tmp_path)
    path = library.add(person("ada"))
    subprocess.run([sys.executable, "-c", _KILLED_BETWEEN_RENAMES, str(tmp_path)], cwd=ROOT, check=False)
    assert library.names() == ()
    library.sweep()
    assert library.load("ada").content_hash == person("ada").content_hash
    path.rename(tmp_path / ".tmp-old.ada.safetensors")
    delete_person(library, "ada")
    library.sweep()
    assert library.names() == ()


def files_of_runs(service: Service) -> list[Path]:
    paths = service.workspace.paths
    found = [path for folder in (paths.unfinished, paths.uploads) for path in folder.rglob("*")]
    return [path for path in found if path.is_file()]


def test_a_first_run_that_another_program_deletes_brings_nobody_back(service: Service) -> None:
    """As the command line deletes while the WebUI learns."""
    library, paths = service.workspace.library, service.workspace.paths
    job = service.start_learning(request("ada", steps=4000))
    until(job, 1)
    delete_person(library, "ada", (paths.unfinished,))
    assert job.wait(120)
    assert job.state == "failed"
    assert "was deleted after this had begun" in job.error
    assert not job.resumable
    assert library.names() == ()
    assert files_of_runs(service) == []


def test_a_waiting_run_that_another_program_deletes_leaves_no_photo(service: Service) -> None:
    library, paths = service.workspace.library, service.workspace.paths
    first = service.start_learning(request("bob", steps=100_000))
    until(first, 1)
    waiting = service.start_learning(request("ada", steps=60))
    delete_person(library, "ada", (paths.unfinished,))
    service.learning.interrupt(first.id)
    assert waiting.wait(120)
    assert waiting.state == "failed"
    assert "deleted" in waiting.error
    assert library.names() == ()
    service.learning.forget(first.id)
    assert files_of_runs(service) == []


def test_a_name_that_was_deleted_can_be_learned_again(service: Service) -> None:
    library = service.workspace.library
    library.add(person("ada"))
    service.people.delete("ada")
    job = service.start_learning(request("ada", steps=5))
    assert job.wait(120)
    assert job.state == "done"
    assert library.names() == ("ada",)
