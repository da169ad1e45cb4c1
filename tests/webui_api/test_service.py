"""The service with a toy model: learning jobs from their start to every end, blends, evaluation."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.sample_photos import sample_photos
from support.service import SETTINGS, ended, request, until
from support.toys import ToyModel

from celeb_basis.errors import HostError, IdentityError, SettingsError, TrainingError
from celeb_basis.webui.schemas import (
    BlendRequest,
    EvaluateRequest,
    LearnRequest,
    NameTakenError,
    NoSuchJobError,
    NoSuchPersonError,
    PhotoUpload,
    UploadedPhoto,
)
from celeb_basis.webui.service import Service


def test_a_person_is_learned_and_known(service: Service, program: Any) -> None:
    job = ended(service.start_learning(request("Ada")))
    assert (job.state, job.error) == ("done", "")
    progress = job.progress()
    assert (progress.step, progress.total) == (5, 5)
    assert [point[0] for point in progress.curve] == [1, 2, 3, 4, 5]
    assert progress.people["Ada"].nearest
    assert job.result["people"][0]["word"] == "<Ada>"
    assert program.reported[-1] == (5, 5)
    assert not program.lock.locked()
    (entry,) = service.people.entries()
    assert (entry.name, entry.available, entry.problem) == ("Ada", True, "")
    assert entry.identity is not None
    assert entry.identity.metadata.notes == "a note"
    assert "confirmed" in entry.identity.metadata.consent
    assert not (service.workspace.paths.uploads / job.id).exists(), "the photos are deleted"


def test_events_are_numbered_and_end_with_the_end(service: Service) -> None:
    job = ended(service.start_learning(request("Ada")))
    events = job.events_after()
    assert [event["index"] for event in events] == list(range(len(events)))
    assert events[-1]["event"] == "State"
    assert events[-1]["state"] == "done"
    assert [event["step"] for event in events if event["event"] == "StepDone"] == [1, 2, 3, 4, 5]
    assert job.events_after(events[3]["index"]) == events[4:]
    json.dumps(job.as_dict())
    json.dumps(events)


def test_several_people_share_a_run_and_each_photo_has_its_face(service: Service) -> None:
    two = LearnRequest(
        tuple(
            PhotoUpload(name, (UploadedPhoto(sample_photos()["six"].read_bytes(), "six.jpg", face),))
            for name, face in (("Ada", 0), ("Bob", 4))
        ),
        settings=SETTINGS,
        consent=True,
    )
    job = ended(service.start_learning(two))
    assert job.state == "done", job.error
    ada, bob = (service.people.entry(name).identity for name in ("Ada", "Bob"))
    assert ada is not None
    assert bob is not None
    assert ada.metadata.thumbnail != bob.metadata.thumbnail
    assert ada.content_hash != bob.content_hash


def test_an_interrupted_run_goes_on_and_ends_as_without(service: Service) -> None:
    whole = ended(service.start_learning(request("Whole", steps=200)))
    job = service.start_learning(request("Parted", steps=200))
    until(job, 3)
    service.interrupt(job.id)
    assert ended(job).state == "interrupted"
    assert job.resumable
    assert 3 <= job.progress().step < 200
    assert service.resume(job.id) is job
    assert ended(job).state == "done", job.error
    first, second = service.people.entry("Whole").identity, service.people.entry("Parted").identity
    assert first is not None
    assert second is not None
    assert first.content_hash == second.content_hash, "bit for bit"
    assert whole.result["steps"] == job.result["steps"] == 200
    with pytest.raises(TrainingError, match="start a new one"):
        service.resume(job.id)


def test_an_interrupted_run_is_found_after_a_restart(service: Service, program: Any) -> None:
    job = service.start_learning(request("Ada", steps=500))
    until(job, 2)
    service.interrupt(job.id)
    ended(job)
    later = Service(program, replace(service.workspace))
    (found,) = later.jobs()
    assert (found.id, found.people, found.state, found.resumable) == (job.id, ("Ada",), "interrupted", True)
    later.resume(job.id)
    until(found, job.progress().step + 1)
    later.interrupt(job.id)
    ended(found)
    later.forget(job.id)
    assert later.jobs() == []
    assert list(service.workspace.paths.unfinished.iterdir()) == []


def test_a_damaged_record_of_a_run_hides_no_other(service: Service) -> None:
    folder = service.workspace.paths.unfinished
    folder.mkdir(parents=True)
    for name, text in (("aaaaaaaaaaaa", "{"), ("bbbbbbbbbbbb", '{"people": ["../x"]}'), ("../evil", "{}")):
        if "/" not in name:
            (folder / f"{name}.json").write_text(text)
            (folder / f"{name}.safetensors").write_bytes(b"")
    assert service.jobs() == []


def test_two_jobs_are_queued(service: Service) -> None:
    first = service.start_learning(request("Ada", steps=300))
    second = service.start_learning(request("Bob"))
    third = service.start_learning(request("Eve"))
    until(first, 2)
    assert (second.state, third.state) == ("queued", "queued")
    service.interrupt(third.id)
    assert third.state == "interrupted", "at once"
    service.interrupt(first.id)
    assert ended(second).state == "done"
    assert first.state == "interrupted"
    assert third.resumable, "its photos are here"
    assert ended(service.resume(third.id)).state == "done"


def test_a_resumed_run_that_is_interrupted_while_it_waits_can_still_go_on(service: Service) -> None:
    job = service.start_learning(request("Ada", steps=500))
    until(job, 2)
    service.interrupt(job.id)
    ended(job)
    before = service.start_learning(request("Bob", steps=500))
    until(before, 2)
    service.resume(job.id)
    service.interrupt(job.id)
    assert (job.state, job.resumable) == ("interrupted", True)
    service.interrupt(before.id)
    ended(before)
    service.resume(job.id)
    until(job, 3)


def test_the_programs_own_button_stops_and_keeps(service: Service, program: Any) -> None:
    job = service.start_learning(request("Ada", steps=500))
    until(job, 2)
    program.stop = True
    assert ended(job).state == "interrupted"
    assert "button" in job.error
    assert job.resumable


def test_a_checkpoint_switched_in_the_middle_keeps_the_state(service: Service, program: Any) -> None:
    old = program.model
    job = service.start_learning(request("Ada", steps=500))
    until(job, 2)
    program.model = ToyModel(seed=1)
    assert ended(job).state == "interrupted"
    assert "switched" in job.error
    service.resume(job.id)
    assert ended(job).state == "failed", "another checkpoint than it began with"
    assert "give that model" in job.error
    program.model = old
    service.resume(job.id)
    until(job, job.progress().step + 1)


def test_a_model_that_goes_away_in_a_step_keeps_the_state(service: Service, program: Any) -> None:
    calls = 0
    predict = program.model.predict

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise HostError("The WebUI has switched to another checkpoint.")
        return predict(*arguments)

    program.model.predict = failing
    job = ended(service.start_learning(request("Ada", steps=6)))
    assert job.state == "failed"
    assert "press Resume" in job.error
    assert job.resumable
    service.resume(job.id)
    assert ended(job).state == "done", job.error
    assert job.result["steps"] == 6


def test_a_nan_loss_keeps_the_state_and_says_what_to_do(service: Service, program: Any) -> None:
    program.model.poison_at = 3
    job = ended(service.start_learning(request("Ada")))
    assert job.state == "failed"
    assert "learning_rate" in job.error
    assert job.resumable


def test_no_checkpoint(service: Service, program: Any) -> None:
    program.model = None
    job = ended(service.start_learning(request("Ada")))
    assert (job.state, job.error) == ("failed", "No checkpoint is loaded: choose one.")
    assert service.people.entries() == []
    with pytest.raises(HostError):
        service.model.summaries(8)


def test_a_bug_becomes_a_sentence_and_the_queue_goes_on(service: Service, program: Any) -> None:
    program.model.encode_images = None
    assert "error in celeb-basis itself" in ended(service.start_learning(request("Ada"))).error
    del program.model.encode_images
    assert ended(service.start_learning(request("Bob"))).state == "done"


def test_a_photo_without_the_face_fails_and_leaves_nothing(service: Service) -> None:
    job = ended(service.start_learning(request("Ada", face=17)))
    assert job.state == "failed"
    assert "no face number 17 in six people.jpg" in job.error
    assert list(service.workspace.paths.uploads.iterdir()) == []


def test_a_name_taken_meanwhile_does_not_cost_the_run(service: Service) -> None:
    job = service.start_learning(request("Ada", steps=100))
    until(job, 1)
    ada = ended(service.queue.jobs()[0]) if job.finished else None
    assert ada is None
    (service.workspace.paths.people).mkdir(parents=True, exist_ok=True)
    (service.workspace.paths.people / "ADA.safetensors").write_bytes(b"somebody else's")
    assert ended(job).state == "done", job.error
    assert job.result["people"][0]["name"] == "Ada-2"


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        (LearnRequest((), consent=True), TrainingError, "nobody"),
        (request("Ada", consent=False), TrainingError, "Consent"),
        (request("a/b"), IdentityError, "leave it out"),
        (request(""), IdentityError, "empty"),
        (request("Ada", "ada"), TrainingError, "Two people"),
        (request("Ada", steps=0), SettingsError, "steps is 0"),
        (request("Ada", stepps=1), SettingsError, "no setting"),
        (LearnRequest((PhotoUpload("Ada", ()),), consent=True), TrainingError, "no photo"),
        (
            LearnRequest((PhotoUpload("Ada", (UploadedPhoto(b""),)),), "finest", consent=True),
            SettingsError,
            "no preset",
        ),
    ],
)
def test_requests_that_cannot_be_right(
    service: Service, wrong: LearnRequest, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        service.start_learning(wrong)
    assert service.jobs() == []
    assert not service.workspace.paths.uploads.exists()


def test_blends_are_arithmetic(service: Service) -> None:
    ended(service.start_learning(request("Ada", "Bob")))
    ada, bob = (service.people.entry(name).identity for name in ("Ada", "Bob"))
    mixed = service.blend(BlendRequest((("Ada", 3.0), ("Bob", 1.0)), "Mix", keep_radius=False)).identity
    assert ada is not None
    assert bob is not None
    assert mixed is not None
    expected = 0.75 * ada.coefficients[0] + 0.25 * bob.coefficients[0]
    assert mixed.coefficients[0] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(NoSuchPersonError):
        service.blend(BlendRequest((("Nobody", 1.0),), "Other"))
    with pytest.raises(NameTakenError):
        service.blend(BlendRequest((("Ada", 1.0),), "Bob"))


def test_a_blend_does_not_wait_for_our_own_run(service: Service) -> None:
    ended(service.start_learning(request("Ada")))
    job = service.start_learning(request("Bob", steps=2000))
    until(job, 2)
    done = threading.Event()
    threading.Thread(
        target=lambda: (service.blend(BlendRequest((("Ada", 1.0),), "Mix")), done.set()), daemon=True
    ).start()
    assert done.wait(20)
    assert not job.finished


def test_evaluate_draws_judges_and_lays_out(service: Service) -> None:
    ended(service.start_learning(request("Ada")))
    job = ended(service.evaluate(EvaluateRequest("Ada", prompts=2, seeds=2, steps=1)))
    assert job.state == "done", job.error
    assert job.result["count"] == 4
    assert len(job.pictures) == 5
    with pytest.raises(SettingsError):
        service.evaluate(EvaluateRequest("Ada", seeds=0))


def test_faces_of_a_photo_with_warnings(service: Service) -> None:
    found = service.faces.find_faces(sample_photos()["six"].read_bytes(), "six.jpg")
    assert len(found.faces) == 6
    assert any("small" in text for one in found.faces for text in one.warnings)
    assert not any("faces in the photo" in text for one in found.faces for text in one.warnings), "each was chosen"
    json.dumps(found.as_dict())


def test_a_missing_package_says_what_to_do(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    wanted = request("Ada")
    service.faces._loaded = None
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "insightface" else real(name, *a))
    job = ended(service.start_learning(wanted))
    status = service.faces.status()
    assert not status["present"]
    assert "insightface" in status["problem"]
    assert "restart the WebUI" in job.error


def test_a_download_of_face_models_can_be_interrupted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, arriving = service.faces.network, threading.Event()

    def slow(progress: Callable[[int, int | None], None]) -> Any:
        for done in range(10_000):
            progress(done, None)
            arriving.set()
            time.sleep(0.01)
        pytest.fail("it went on")

    monkeypatch.setattr(service.faces, "network", slow)
    job = service.start_faces(accept_licence=True)
    assert arriving.wait(60)
    service.interrupt(job.id)
    assert ended(job).state == "interrupted"
    arriving.clear()
    run = service.start_learning(request("Ada"))
    assert arriving.wait(60)
    service.interrupt(run.id)
    assert ended(run).state == "interrupted"
    monkeypatch.setattr(service.faces, "network", lambda _progress=None: loaded())
    assert ended(service.resume(run.id)).state == "done", "its photos are still here"


def test_previews_change_nothing(service: Service) -> None:
    plain = ended(service.start_learning(replace(request("Plain", steps=20), preview_every=0)))
    watched = ended(service.start_learning(replace(request("Watched", steps=20), preview_every=8)))
    assert (plain.state, watched.state) == ("done", "done"), watched.error
    assert [image.info["title"] for image in watched.pictures] == [
        f"<Watched> after {step} steps" for step in (8, 16, 20)
    ]
    assert plain.pictures == ()
    assert plain.result["people"][0]["hash"] == watched.result["people"][0]["hash"]


def test_a_preview_that_fails_costs_no_run(service: Service, program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class NansException(Exception):  # noqa: N818 - the WebUI's name
        """As the WebUI's own: it derives from nothing of ours."""

    tries: list[int] = []

    def generate(_request: object) -> Any:
        tries.append(1)
        raise NansException("A tensor with all NaNs was produced in Unet.")

    monkeypatch.setattr(program.model, "generate", generate)
    job = ended(service.start_learning(replace(request("Ada", steps=8), preview_every=2)))
    assert job.state == "done", job.error
    assert len(tries) == 1, "no more after the first"
    (told,) = [text for text in job.progress().warnings if "previews" in text]
    assert "NansException: A tensor with all NaNs" in told


def test_everybody_is_drawn_each_quarter_unless_asked_otherwise(service: Service) -> None:
    job = ended(service.start_learning(request("Ada", "Bob", steps=10)))
    titles = [image.info["title"] for image in job.pictures]
    assert titles == [f"<{name}> after {step} steps" for step in (5, 10, 15, 20) for name in ("Ada", "Bob")]


def test_unknown_jobs(service: Service) -> None:
    for action in (service.job, service.interrupt, service.resume, service.forget):
        with pytest.raises(NoSuchJobError):
            action("nothing")
