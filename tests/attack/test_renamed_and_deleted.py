"""Somebody who was renamed and then deleted does not come back under the former name."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.people import family_bases, model_info, person
from support.service import ended, request, until

from celeb_basis.errors import IdentityError
from celeb_basis.identities.blending import add_blend, blend
from celeb_basis.identities.deletion import delete_person, traces_of
from celeb_basis.identities.folder_lock import MARKS, deleted_since, mark_deleted
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.library import Library
from celeb_basis.webui.schemas import BlendRequest, BusyError
from celeb_basis.webui.service import Service


def files_of_runs(service: Service) -> list[Path]:
    paths = service.workspace.paths
    return [path for folder in (paths.unfinished, paths.uploads) for path in folder.rglob("*") if path.is_file()]


def test_without_marks_nobody_was_deleted(tmp_path: Path) -> None:
    for begun in (0.0, -1.0, float("-inf")):
        assert not deleted_since(tmp_path, "ada", begun)
        mark_deleted(tmp_path / "other", ["bob"])
        assert not deleted_since(tmp_path / "other", "ada", begun)
        assert deleted_since(tmp_path / "other", "bob", begun)


@pytest.mark.parametrize("names", [("ada", "eve"), ("ada", "eve", "zoe"), ("ada", "eve", "Ada2", "EVE")])
def test_no_former_name_comes_back(tmp_path: Path, names: tuple[str, ...]) -> None:
    library, begun = Library(tmp_path), time.time()
    library.add(person("ada"))
    for name, new_name in itertools.pairwise(names):
        library.rename(name, new_name)
    later = time.time()
    delete_person(library, names[-1])
    for name in names:
        with pytest.raises(IdentityError, match="was deleted"):
            library.add(person(name), begun=begun)
    assert library.names() == ()
    library.add(person("ada", seed=1), begun=later)  # a person who got the free name after the rename is another one
    assert library.names() == ("ada",)
    marks = (tmp_path / MARKS).read_text().casefold()
    assert "eve" not in marks
    assert "zoe" not in marks


def test_a_former_name_that_is_taken_again_is_another_person(tmp_path: Path) -> None:
    """Deleting eve, who was ada once, leaves the new ada and her runs alone."""
    library = Library(tmp_path)
    library.add(person("ada"))
    library.rename("ada", "eve")
    begun = time.time()
    library.add(person("ada", seed=1), begun=begun)
    delete_person(library, "eve")
    assert library.names() == ("ada",)
    library.add(person("ada", seed=2), replace=True, begun=begun)


def test_a_person_who_lives_under_another_name_is_not_deleted_with_a_namesake(tmp_path: Path) -> None:
    """Deleting the second ada does not refuse a run that began on the first, who is eve now."""
    library, begun = Library(tmp_path), time.time()
    library.add(person("ada"))
    library.rename("ada", "eve")
    library.add(person("ada", seed=1))
    delete_person(library, "ada")
    assert library.names() == ("eve",)
    assert not library.was_deleted("ada", begun)
    assert library.name_now("ada", begun) == "eve"


def test_a_blend_of_a_person_renamed_meanwhile_goes_with_that_person(tmp_path: Path) -> None:
    library, bases = Library(tmp_path), family_bases("sd1")
    ada, bob = (person(name, "sd1", seed, bases) for seed, name in enumerate(["ada", "bob"]))
    library.add(ada)
    begun = time.time()
    both = blend([(ada, 1), (bob, 1)], bases, model_info("sd1"), name="both")
    library.rename("ada", "eve")
    add_blend(library, both, begun)
    assert traces_of(library, "eve").mixtures == ("both",)
    delete_person(library, "eve")
    assert library.names() == ()
    with pytest.raises(IdentityError, match="'ada' was deleted"):
        add_blend(library, both, begun)


def test_files_about_a_person_renamed_meanwhile_go_with_that_person(tmp_path: Path) -> None:
    library, picture = Library(tmp_path / "people"), tmp_path / "a.png"
    library.add(person("ada"))
    begun = time.time()
    library.rename("ada", "eve")
    picture.write_text("x")
    GeneratedFiles(library.folder).note([picture], "picture", ["ada"], begun=begun)
    assert picture in delete_person(library, "eve").files


def test_files_that_come_after_the_deletion_are_not_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library, picture = Library(tmp_path / "people"), tmp_path / "a.png"
    library.add(person("ada"))
    begun = time.time()
    delete_person(library, "ada")
    picture.write_text("x")
    GeneratedFiles(library.folder).note([picture], "picture", ["ada"], begun=begun)
    assert "ada was deleted while files about that person were being made" in caplog.text
    assert picture in delete_person(library, "ada").files


def test_marks_from_elsewhere_give_nobody_away(tmp_path: Path) -> None:
    """A folder from elsewhere claims that bob is called ada now: deleting ada must not delete the runs of bob."""
    library, before = Library(tmp_path / "people"), time.time()
    for name in ("ada", "eve"):
        library.add(person(name))
    library.rename("eve", "zoe")
    marks = library.folder / MARKS
    content = json.loads(marks.read_text())
    former = hashlib.sha256(b"bob").hexdigest()
    key, when = hashlib.sha256(b"ada").hexdigest(), time.time() + 1e6
    for signature in ("", "0" * 64, "\ud800é", None, 3):
        claim = {"former": former, "key": key, "name": "ada", "when": when, "signature": signature}
        marks.write_text(json.dumps({**content, "renamed": [*content["renamed"], claim]}))
        assert library.name_now("bob", before) == "bob"
        assert not library.work_on(["ada"])(["bob"], before)
        assert library.name_now("eve", before) == "zoe", "what is ours counts"
    run = tmp_path / "unfinished" / "0123456789ab.json"
    run.parent.mkdir()
    run.write_text(json.dumps({"people": ["bob"], "created": before}))
    delete_person(library, "ada", (run.parent,))
    assert run.exists()
    library.rename("zoe", "Zoe 2")
    assert library.name_now("eve", before) == "Zoe 2"


def test_without_a_place_for_secrets_deletions_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, begun = Library(tmp_path / "people"), time.time()
    for name in ("ada", "bob"):
        library.add(person(name))
    library.rename("bob", "carl")
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("CELEB_BASIS_CACHE", str(tmp_path / "file"))
    library.rename("ada", "eve")
    delete_person(library, "eve")
    assert library.was_deleted("eve", begun)


# In the WebUI


def test_a_run_under_the_former_name_is_interrupted_first(service: Service) -> None:
    service.workspace.library.add(person("ada"))
    job = service.start_learning(request("ada", steps=100_000, replace=True))
    until(job, 1)
    service.people.rename("ada", "eve")
    with pytest.raises(BusyError, match="interrupt it"):
        service.people.delete("eve")
    service.learning.interrupt(job.id)
    assert ended(job).resumable
    assert service.people.traces("eve").as_dict()["unfinished"] == 1
    service.people.delete("eve")
    assert service.workspace.library.names() == ()
    assert files_of_runs(service) == []
    assert service.jobs() == []


def test_a_run_under_the_former_name_ends_when_another_program_deletes(service: Service) -> None:
    library, unfinished = service.workspace.library, service.workspace.paths.unfinished
    library.add(person("ada"))
    job = service.start_learning(request("ada", steps=100_000, replace=True))
    until(job, 1)
    library.rename("ada", "eve")
    delete_person(library, "eve", (unfinished,))
    assert ended(job).state == "failed"  # without being interrupted by anybody
    assert "'ada' was deleted" in job.error
    assert not job.resumable
    assert library.names() == ()
    assert files_of_runs(service) == []


def test_a_waiting_run_under_the_former_name_leaves_no_photo(service: Service) -> None:
    library, unfinished = service.workspace.library, service.workspace.paths.unfinished
    library.add(person("ada"))
    first = service.start_learning(request("bob", steps=100_000))
    until(first, 1)
    waiting = service.start_learning(request("ada", steps=60, replace=True))
    library.rename("ada", "eve")
    photos = [path for path in files_of_runs(service) if waiting.id in str(path)]
    assert len(photos) >= 2
    assert set(photos) <= set(traces_of(library, "eve", (unfinished,)).paths())
    delete_person(library, "eve", (unfinished,))
    assert not any(path.exists() for path in photos)
    service.learning.interrupt(first.id)
    assert ended(waiting).state == "failed"
    assert "'ada' was deleted" in waiting.error
    assert "ada" not in library.names()


def test_a_run_is_not_resumed_under_the_former_name(service: Service) -> None:
    library = service.workspace.library
    library.add(person("ada"))
    job = service.start_learning(request("ada", steps=100_000, replace=True))
    until(job, 1)
    service.learning.interrupt(job.id)
    assert ended(job).resumable
    library.rename("ada", "eve")
    delete_person(library, "eve")  # by a program that does not know the folder of the runs
    service.learning.resume(job.id)
    assert ended(job).state == "failed"
    assert "'ada' was deleted" in job.error
    assert library.names() == ()
    assert files_of_runs(service) == []


def test_no_number_is_added_to_a_name_that_was_deleted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose name was taken meanwhile adds ada-2: not if ada is deleted in that very moment."""
    library, tasks = service.workspace.library, type(service.learning)
    original = tasks._check_not_deleted

    def then_deleted(self: Any, job: Any) -> None:
        original(self, job)
        if job.progress().stage == "Learning" and job.progress().step == job.progress().total:
            library.add(person("ada"), replace=True)
            delete_person(library, "ada")
            library.add(person("ada", seed=1))

    monkeypatch.setattr(tasks, "_check_not_deleted", then_deleted)
    job = ended(service.start_learning(request("ada")))
    assert "ada-2" not in library.names(), job.error


def test_blends_through_the_page_know_the_new_name(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    library, tasks = service.workspace.library, type(service.blending)
    assert ended(service.start_learning(request("ada"))).state == "done"
    original = tasks.blended

    def then_renamed(self: Any, *arguments: Any) -> Any:
        blended = original(self, *arguments)
        service.people.rename("ada", "eve")
        return blended

    monkeypatch.setattr(tasks, "blended", then_renamed)
    service.blend(BlendRequest((("ada", 1.0),), "mix"))
    assert set(service.people.delete("eve").people) == {"eve", "mix"}
    assert library.names() == ()
