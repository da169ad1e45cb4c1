"""Blends and exports of people who are deleted at the same moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.people import person
from support.service import ended, request

from celeb_basis.errors import IdentityError
from celeb_basis.identities.deletion import delete_person, traces_of
from celeb_basis.identities.library import Library
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
