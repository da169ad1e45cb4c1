"""Blends and exports of people who are deleted at the same moment."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.people import person
from support.service import ended, request

from celeb_basis.errors import IdentityError
from celeb_basis.identities.deletion import delete_person, traces_of
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.library import Library, move_sidecars
from celeb_basis.webui.schemas import BlendRequest, NoSuchPersonError
from celeb_basis.webui.service import Service


@pytest.fixture
def deleted_meanwhile(service: Service, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A library that has ada, whom another program deletes between a blend's making and its saving."""
    library, tasks = service.workspace.library, type(service.blending)
    assert ended(service.start_learning(request("ada"))).state == "done"
    original = tasks.blended

    def then_deleted(self: Any, *arguments: Any) -> Any:
        blended = original(self, *arguments)
        delete_person(library, "ada")
        return blended

    monkeypatch.setattr(tasks, "blended", then_deleted)
    return library


def test_a_blend_of_somebody_just_deleted_is_not_kept(service: Service, deleted_meanwhile: Library) -> None:
    with pytest.raises(IdentityError, match="'ada' was deleted"):
        service.blend(BlendRequest((("ada", 1.0),), "mix"))
    assert deleted_meanwhile.names() == ()


def test_a_job_that_blends_somebody_just_deleted_says_so(service: Service, deleted_meanwhile: Library) -> None:
    job = ended(service.start_blend(BlendRequest((("ada", 1.0),), "mix")))
    assert job.state == "failed"
    assert "'ada' was deleted" in job.error
    assert deleted_meanwhile.names() == ()


def test_an_export_of_somebody_just_deleted_says_so(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    library, people = service.workspace.library, type(service.people)
    library.add(person("ada"))
    original = people.entry

    def then_deleted(self: Any, name: str) -> Any:
        found = original(self, name)
        library.delete(name)
        return found

    monkeypatch.setattr(people, "entry", then_deleted)
    with pytest.raises(NoSuchPersonError, match="'ada' was deleted"):
        service.import_export.export("ada")


def test_what_a_killed_writer_left_is_listed_first(tmp_path: Path) -> None:
    library = Library(tmp_path)
    path = library.add(person("ada"))
    (tmp_path / ".tmp-x.safetensors").write_bytes(path.read_bytes())
    traces = traces_of(library, "ada")
    assert traces.as_dict()["leftovers"] == [".tmp-x.safetensors"]
    assert "1 temporary file" in traces.sentence()
    assert traces_of(library, "bob").leftovers == ()
    assert replace(traces, leftovers=()).as_dict()["leftovers"] == []


def deleting(name: str, library: Library) -> Any:
    """A function that passes its result on after another program has deleted a person."""

    def after(original: Any) -> Any:
        def then_deleted(*arguments: Any, **options: Any) -> Any:
            found = original(*arguments, **options)
            if library.path_of(name).exists():
                delete_person(library, name)
            return found

        return then_deleted

    return after


def test_no_embedding_is_written_of_somebody_just_deleted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    library, access = service.workspace.library, type(service.import_export.access)
    assert ended(service.start_learning(request("ada"))).state == "done"
    monkeypatch.setattr(access, "fit", deleting("ada", library)(access.fit))
    with pytest.raises(IdentityError, match="'ada' was deleted"):
        service.import_export.to_host("ada")
    assert [*service.people.host.embeddings_folder().iterdir()] == []


@pytest.mark.parametrize("read", ["entries", "entries_of", "entry", "identity"])
def test_somebody_just_deleted_is_not_broken(service: Service, monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    library = service.workspace.library
    library.add(person("ada"))
    library.add(person("bob", seed=1))
    original = Library._read

    def deleted_before(self: Library, name: str, path: Path) -> Any:
        if name == "ada" and path.exists():
            delete_person(Library(library.folder), "ada")
        return original(self, name, path)

    monkeypatch.setattr(Library, "_read", deleted_before)
    if read.startswith("entries"):
        found = service.people.entries() if read == "entries" else service.people.entries_of(["ada", "bob"])
        assert [(one.name, one.problem) for one in found] == [("bob", "")]
    else:
        with pytest.raises(IdentityError, match="There is no"):
            getattr(service.people, read)("ada")


def test_a_card_of_somebody_just_deleted_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = pytest.importorskip("celeb_basis.webui.cards")
    library = Library(tmp_path)
    library.add(person("ada"))
    original = cards.load_without_thumbnail

    def deleted_before(path: Path) -> Any:
        library.delete("ada")
        return original(path)

    monkeypatch.setattr(cards, "load_without_thumbnail", deleted_before)
    assert cards.IdentityIndex().of(library.files()) == ()


def test_a_rename_and_a_deletion_leave_no_card_picture(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread deletes the new name as soon as it can, and finds what stands beside it as well."""
    import threading

    from celeb_basis.webui import people

    library = service.workspace.library
    path = library.add(person("ada"))
    path.with_name("ada.preview.png").write_bytes(b"her face")
    picture = library.folder.parent / "a.png"
    picture.write_text("x")
    GeneratedFiles(library.folder).note([picture], "picture", ["ada"])
    threads: list[threading.Thread] = []

    def meanwhile(before: Path, target: Path) -> None:
        thread = threading.Thread(target=delete_person, args=(library, "eve"))
        thread.start()
        threads.append(thread)
        thread.join(0.3)
        move_sidecars(before, target)

    monkeypatch.setattr(people, "move_sidecars", meanwhile)
    with contextlib.suppress(IdentityError):  # deleted before it could be shown
        service.people.rename("ada", "eve")
    for thread in threads:
        thread.join(60)
    assert library.names() == ()
    assert [one.name for one in library.folder.iterdir() if not one.name.startswith(".deleted")] == []
    assert not picture.exists()


def test_a_run_that_starts_while_its_person_is_deleted_leaves_no_photo(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion comes when the photos are written and the record that leads to them is not."""
    from celeb_basis.webui.tasks.saved_runs import RunFiles

    library, paths = service.workspace.library, service.workspace.paths
    library.add(person("ada"))
    monkeypatch.setattr(RunFiles, "save_photos", deleting("ada", library)(RunFiles.save_photos))
    with pytest.raises(IdentityError, match="'ada' was deleted"):
        service.start_learning(request("ada", replace=True))
    assert [path for folder in (paths.unfinished, paths.uploads) for path in folder.rglob("*") if path.is_file()] == []
    assert service.jobs() == []
