"""Deleting a person in the WebUI deletes everything derived from them, and nothing of anyone else."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.remains import remains
from support.sample_photos import sample_photos

from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import (
    BlendRequest,
    BusyError,
    EvaluateRequest,
    LearnRequest,
    NoSuchPersonError,
    PhotoUpload,
    PreviewRequest,
    UploadedPhoto,
)
from celeb_basis.webui.service import Service

NAME = "Zyxwvada"
SETTINGS = {"steps": 4, "views": 2, "batch_size": 1, "components": 8, "early_stop": False}
PHOTO = sample_photos()["six"].read_bytes()


def learn(
    service: Service, name: str, *, face: int = 0, replace: bool = False, likeness: bool = False, **settings: Any
) -> Job:
    people = (PhotoUpload(name, (UploadedPhoto(PHOTO, "six.jpg", face),)),)
    wanted = LearnRequest(
        people,
        settings=SETTINGS | settings,
        consent=True,
        consent_note=f"{name} said yes",
        replace=replace,
        preview_every=2,
        likeness=likeness,
    )
    return service.start_learning(wanted)


def ended(job: Job) -> Job:
    assert job.wait(120)
    return job


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((32, 32), 80).save(buffer, "PNG")
    return buffer.getvalue()


def interrupted(service: Service, name: str, steps: int = 100_000) -> Job:
    """A run of ``name`` that stopped on its way and could go on."""
    job = learn(service, name, replace=True, steps=steps)
    end = time.monotonic() + 60
    while job.progress().step < 2 or job.progress().stage != "Learning":
        assert time.monotonic() < end
        time.sleep(0.01)
    service.interrupt(job.id)
    assert ended(job).resumable
    return job


def everything(service: Service) -> tuple[bytes, ...]:
    """Make of a person all that can be made; the contents that must not be found later."""
    assert ended(learn(service, NAME, likeness=True)).pictures, "previews and images of the likeness were drawn"
    ended(learn(service, "bob", face=4))
    identity = service.people.identity(NAME)
    assert identity.metadata.thumbnail is not None
    card = picture()
    (service.workspace.paths.people / f"{NAME}.preview.png").write_bytes(card)
    (service.workspace.paths.people / f"{NAME}.json").write_text('{"notes": "the user\'s words"}')
    service.import_export.to_host(NAME)
    parts = ((NAME, 1.0), ("bob", 1.0))
    service.blend(BlendRequest(parts, "both", toward_mean=0.1))
    service.blend(BlendRequest((("both", 1.0),), "softer", toward_mean=0.5))
    assert ended(service.preview_blend(PreviewRequest(BlendRequest(parts, ""), steps=2))).state == "done"
    ended(service.evaluate(EvaluateRequest(NAME, prompts=1, steps=2)))
    interrupted(service, NAME)
    return PHOTO, identity.metadata.thumbnail, card, identity.vectors[0].tobytes()


def test_nothing_is_left_of_a_deleted_person(service: Service, tmp_path: Path, private_cache: Path) -> None:
    contents = everything(service)
    folders = (tmp_path, private_cache)
    assert len(remains(folders, NAME, *contents)) >= 7, "there is something to be found"
    told = service.people.traces(NAME)
    assert told.mixtures == ("both", "softer")
    deleted = service.people.delete(NAME)
    assert deleted.left == ()
    assert set(deleted.people) == {NAME, "both", "softer"}
    assert remains(folders, NAME, *contents) == []
    assert [entry.name for entry in service.people.entries()] == ["bob"]
    assert [job.people for job in service.jobs()] == [("bob",)]
    with pytest.raises(NoSuchPersonError):
        service.people.delete(NAME)


def test_under_another_name_too(service: Service, tmp_path: Path, private_cache: Path) -> None:
    contents = everything(service)
    service.people.rename(NAME, "carol")
    assert service.people.identity("both").metadata.settings["of"]["parts"][0][0] == "carol"
    service.people.delete("carol")
    assert remains((tmp_path, private_cache), NAME, *contents) == []
    assert remains((tmp_path, private_cache), "carol") == []
    assert [entry.name for entry in service.people.entries()] == ["bob"]


def test_mixtures_can_be_kept(service: Service) -> None:
    ended(learn(service, "ada"))
    ended(learn(service, "bob", face=4))
    service.blend(BlendRequest((("ada", 1.0), ("bob", 1.0)), "both"))
    assert service.people.delete("ada", mixtures=False).people == ("ada",)
    assert [entry.name for entry in service.people.entries()] == ["bob", "both"]


def test_an_embedding_that_is_another_by_now_stays(service: Service) -> None:
    ended(learn(service, "ada"))
    (path,) = service.import_export.to_host("ada")
    path.write_bytes(b"the user's own")
    deleted = service.people.delete("ada")
    assert path.read_bytes() == b"the user's own"
    ((left, reason),) = deleted.left
    assert left == path
    assert "changed" in reason


def test_nobody_is_deleted_under_a_run(service: Service) -> None:
    ended(learn(service, "ada"))
    job = learn(service, "ada", replace=True, steps=100_000)
    with pytest.raises(BusyError, match="interrupt it"):
        service.people.delete("ada")
    service.interrupt(job.id)
    ended(job)
    service.people.delete("ada")
    assert service.jobs() == []


def test_consent_goes_where_the_person_goes(service: Service) -> None:
    ended(learn(service, "ada"))
    ended(learn(service, "bob", face=4))
    assert service.people.entry("ada").as_dict()["consent"] == "ada said yes"
    assert service.people.rename("ada", "adele").as_dict()["consent"] == "ada said yes"
    (exported,) = service.import_export.export("adele")
    bob = service.people.identity("bob")
    service.workspace.library.add(replace(bob, name="bea", metadata=replace(bob.metadata, consent="")))
    mixed = service.blend(BlendRequest((("adele", 1.0), ("bea", 1.0)), "both", toward_mean=0.2))
    assert mixed.as_dict()["consent"] == "adele: ada said yes\nbea: nothing was noted"
    service.people.delete("adele")
    (back,) = service.import_export.import_file(exported[1], exported[0])
    assert back.as_dict()["consent"] == "ada said yes"


def test_consent_outlives_an_interruption_and_a_restart(service: Service, program: Any) -> None:
    run = interrupted(service, "ada", steps=600)
    later = Service(program, replace(service.workspace))
    assert ended(later.resume(run.id)).state == "done"
    assert later.people.entry("ada").as_dict()["consent"] == "ada said yes"
