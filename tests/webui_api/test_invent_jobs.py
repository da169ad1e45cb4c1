"""Inventing people as a job: the sheet, the next one from its marks, faces that were found, saving one, bad input."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celeb_basis.errors import IdentityError, SettingsError
from celeb_basis.identities.invention import CONSENT
from celeb_basis.miniature import PHOTOS
from celeb_basis.names.lists import shipped_names
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import InventRequest, NameTakenError, NoSuchJobError
from celeb_basis.webui.service import Service
from celeb_basis.webui.tasks.invent import chosen_person, parsed_marks

THREE = InventRequest(count=3, seed=5, steps=2)


def ended(job: Job) -> Job:
    assert job.wait(60)
    return job


def invented(service: Service, request: InventRequest = THREE) -> Job:
    job = ended(service.invent(request))
    assert (job.state, job.error) == ("done", "")
    return job


def hashes(job: Job) -> list[str]:
    return [one["hash"] for one in job.result["people"]]


def test_a_sheet_has_people_who_are_nobody_yet(service: Service, program: Any) -> None:
    job = invented(service)
    assert job.kind == "invent"
    assert len(job.pictures) == 3
    assert [one["number"] for one in job.result["people"]] == [1, 2, 3]
    assert [one["seed"] for one in job.result["people"]] == [5, 6, 7]
    assert len(set(hashes(job))) == len({one["name"] for one in job.result["people"]}) == 3
    assert program.held == [job.task], "in the program's own queue"
    assert service.workspace.library.names() == ()


def test_every_image_is_that_of_its_person(service: Service) -> None:
    """With the same seed, so that the images differ by the person alone."""
    from celeb_basis.diffusion_model import GenerationRequest

    job = invented(service, replace(THREE, picture_seed=9, prompt="{} at sea"))
    with service.model.read() as model:
        for one, picture in zip(job.outcome.people, job.pictures, strict=True):
            token = f"<{one.name}>"
            request = GenerationRequest(
                f"{token} at sea", placeholder_tokens={token: one.token_vectors()}, seed=9, steps=2
            )
            assert next(iter(model.generate(request))).tobytes() == picture.tobytes()


def test_the_same_seed_makes_the_same_people_and_none_makes_others(service: Service) -> None:
    assert hashes(invented(service)) == hashes(invented(service))
    chance = [invented(service, replace(THREE, seed=-1)) for _ in range(2)]
    assert hashes(chance[0]) != hashes(chance[1])
    assert hashes(invented(service, replace(THREE, seed=chance[0].result["seed"]))) == hashes(chance[0])


def test_the_next_sheet_follows_the_marks_and_draws_nobody_again_who_is_kept(service: Service, program: Any) -> None:
    first = invented(service)
    drawn: list[Any] = []
    real = program.model.generate

    def counted(request: Any) -> Any:
        drawn.append(request)
        return real(request)

    program.model.generate = counted
    second = invented(service, replace(THREE, seed=50, sheet=first.id, more=(1,), less=(3,), keep=(2,)))
    assert len(drawn) == 2
    assert hashes(second)[1] == hashes(first)[1]
    assert second.pictures[1].tobytes() == first.pictures[1].tobytes()
    recipe = second.outcome.people[0].metadata.settings
    assert (recipe["more"], recipe["less"]) == ([hashes(first)[0]], [hashes(first)[2]])


def test_the_sheet_says_in_how_many_images_a_face_was_found(service: Service, program: Any) -> None:
    """The toy checkpoint draws noise; then every second image is a face."""
    job = invented(service)
    assert job.result["faces"].startswith("A face was found in 0 of 3 images.")
    assert "another checkpoint" in job.result["faces"]
    assert [one["face"] for one in job.result["people"]] == [False, False, False]

    with Image.open(PHOTOS / "stranger1.png") as photo:
        face = photo.convert("RGB")
    program.model.generate = lambda _request: iter([face.copy()])
    job = invented(service)
    assert job.result["faces"] == "A face was found in 3 of 3 images."


def test_groups_are_those_of_the_list_of_names(service: Service) -> None:
    assert service.inventing.groups() == ()  # a list without columns
    rows = zip(shipped_names().names[:60], shipped_names().columns[:60], strict=True)
    Path(service.workspace.options().names_file).write_text(
        "\n".join(", ".join([name, *columns]) for name, columns in rows), "utf-8"
    )
    assert set(service.inventing.groups()) >= {"women", "men"}
    known = dict(zip(shipped_names().names, shipped_names().columns, strict=True))
    job = invented(service, replace(THREE, groups=("women",)))
    for one in job.outcome.people:
        assert all(known[name][0] == "women" for name in one.metadata.settings["vectors_of"])


# Saving one


def test_one_is_saved_with_its_image_and_marked_as_invented(service: Service) -> None:
    job = invented(service)
    status = service.save_invented(job.id, 2, "Mira")
    assert service.workspace.library.names() == ("Mira",)
    assert status.identity is not None
    metadata = status.identity.metadata
    assert (metadata.source, metadata.consent) == ("invented", CONSENT)
    assert status.as_dict()["source"] == "invented"
    assert status.identity.content_hash == hashes(job)[1]
    thumbnail = np.asarray(Image.open(io.BytesIO(metadata.thumbnail or b"")))
    assert np.array_equal(thumbnail, np.asarray(job.pictures[1].convert("RGB")))
    assert b"trainedAlgorithmicMedia" in (metadata.thumbnail or b""), "it is marked as generated"


def test_without_a_name_it_gets_the_suggested_one(service: Service) -> None:
    job = invented(service)
    assert service.save_invented(job.id, 1).name == job.result["people"][0]["name"]
    again = invented(service)
    assert again.result["people"][0]["name"] != job.result["people"][0]["name"], "it is taken now"


def test_deleting_the_person_forgets_the_sheet(service: Service) -> None:
    job = invented(service)
    service.save_invented(job.id, 1, "Mira")
    service.people.delete("Mira")
    assert service.workspace.library.names() == ()
    with pytest.raises(NoSuchJobError):
        service.job(job.id)


def test_a_person_who_was_deleted_can_be_saved_again_from_another_sheet(service: Service) -> None:
    first, second = invented(service), invented(service)
    service.save_invented(first.id, 1, "Mira")
    service.people.delete("Mira")
    assert service.save_invented(second.id, 1, "Mira").name == "Mira"


# Interruption and bad input


def test_an_interrupted_sheet_keeps_its_finished_images(service: Service, program: Any) -> None:
    real = program.model.generate
    calls: list[int] = []

    def slow(request: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            end = time.monotonic() + 20
            while not program.stop:
                assert time.monotonic() < end
                time.sleep(0.02)
        return real(request)

    program.model.generate = slow
    job = service.invent(THREE)
    end = time.monotonic() + 30
    while len(job.pictures) < 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    service.interrupt(job.id)
    ended(job)
    assert job.state == "interrupted"
    assert len(job.pictures) == 1
    assert service.save_invented(job.id, 1, "Mira").name == "Mira"
    assert not program.lock.locked()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"count": 0}, SettingsError, "count is 0"),
        ({"count": 37}, SettingsError, "count is 37"),
        ({"seed": -2}, SettingsError, "seed is -2"),
        ({"prompt": "a photo"}, SettingsError, "has no {}"),
        ({"way": "magic"}, SettingsError, "mixed, gaussian"),
        ({"distance": 3.0}, SettingsError, "distance is 3.0"),
        ({"more": (1,)}, SettingsError, "of no sheet"),
        ({"sheet": "gone", "more": (1,)}, NoSuchJobError, "no job"),
        ({"sheet": "gone", "more": (1,), "less": (1,)}, SettingsError, "both more and less"),
    ],
)
def test_what_cannot_be_right_is_refused_before_it_waits(
    service: Service, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        service.invent(replace(THREE, **changes))
    assert service.jobs() == []


def test_a_group_that_fits_no_name_is_a_sentence(service: Service) -> None:
    job = ended(service.invent(replace(THREE, groups=("martians",))))
    assert job.state == "failed"
    assert "no group 'martians'" in job.error


def test_a_number_or_a_name_that_cannot_be_is_refused(service: Service) -> None:
    job = invented(service)
    with pytest.raises(IdentityError, match="no number 4"):
        service.save_invented(job.id, 4)
    with pytest.raises(IdentityError, match="contains '/'"):
        service.save_invented(job.id, 1, "a/b")
    service.save_invented(job.id, 1, "Mira")
    with pytest.raises(NameTakenError, match="already a person"):
        service.save_invented(job.id, 2, "mira")
    assert service.save_invented(job.id, 2, "mira", replace=True).name == "mira"
    assert len(service.workspace.library.names()) == 1


def test_another_job_is_no_sheet(service: Service) -> None:
    job = ended(service.start_basis(8))
    with pytest.raises(IdentityError, match="made no sheet"):
        service.save_invented(job.id, 1)


# What the page sends


def test_marks_and_choices_of_the_page() -> None:
    assert parsed_marks("more ab:1,more ab:12,keep ab:3") == ("ab", {"more": (1, 12), "less": (), "keep": (3,)})
    assert parsed_marks("") == ("", {"more": (), "less": (), "keep": ()})
    assert parsed_marks("hate ab:1,more ab:x,more") == ("", {"more": (), "less": (), "keep": ()})
    assert chosen_person("ab:4") == ("ab", 4)
    for text in ("", "ab", "ab:", ":4", "ab:x"):
        with pytest.raises(IdentityError, match="click on a face"):
            chosen_person(text)
