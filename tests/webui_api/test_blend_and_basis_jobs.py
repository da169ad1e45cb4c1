"""Images of blends before they are saved, and blends and bases as jobs: results, progress, interruption."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celeb_basis.errors import IdentityError, NamesError, SettingsError
from celeb_basis.hosts.a1111.app import INTERRUPTED, RELOADED
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import (
    BlendRequest,
    LearnRequest,
    NameTakenError,
    NoSuchPersonError,
    PhotoUpload,
    PreviewRequest,
    UploadedPhoto,
)
from celeb_basis.webui.service import Service

HALF = BlendRequest((("Ada", 1.0), ("Bob", 1.0)), "")


def ended(job: Job) -> Job:
    assert job.wait(60)
    return job


def until(job: Job, what: Any) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end, job.as_dict()
        time.sleep(0.01)


@pytest.fixture
def people(service: Service, program: Any) -> Service:
    """Ada and Bob in the library, of coefficients on the toy checkpoint's own basis."""
    from celeb_basis.identities.expand import new_identity

    with service.model.read() as model:
        bases = service.model.bases(model, 8)
        for index, name in enumerate(("Ada", "Bob")):
            given = [basis.name_coefficients[index] for basis in bases]
            service.workspace.library.add(
                new_identity(name, given, bases, model.info, face_model="toy", source="learned")
            )
    program.held.clear()
    return service


def test_a_preview_draws_the_mixture_and_adds_nobody(people: Service, program: Any) -> None:
    job = ended(people.preview_blend(PreviewRequest(HALF, "a photo of {} at sea", count=2, seed=7, steps=3)))
    assert (job.state, job.error) == ("done", "")
    assert job.kind == "preview"
    assert job.people == ("Ada", "Bob")
    assert job.result == {"word": "<mixture>", "prompt": "a photo of <mixture> at sea", "pictures": 2}
    assert people.workspace.library.names() == ("Ada", "Bob")
    assert program.held == [job.task], "in the program's own queue"
    from celeb_basis.diffusion_model import GenerationRequest

    with people.model.read() as model:
        mixed = people.blending.blended(HALF, model)
        words = {"<mixture>": mixed.token_vectors()}
        expected = list(
            model.generate(GenerationRequest(job.result["prompt"], placeholder_tokens=words, count=2, seed=7, steps=3))
        )
    assert [image.tobytes() for image in job.pictures] == [image.tobytes() for image in expected]


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (PreviewRequest(BlendRequest((), "")), IdentityError, "nobody to blend"),
        (PreviewRequest(BlendRequest((("Eve", 1.0),), "")), NoSuchPersonError, "no person"),
        (PreviewRequest(BlendRequest((("Ada", 1.0),), "a/b")), IdentityError, "contains '/'"),
        (PreviewRequest(HALF, "a photo"), SettingsError, "has no {}"),
        (PreviewRequest(HALF, count=5), SettingsError, "count is 5"),
        (PreviewRequest(HALF, steps=0), SettingsError, "steps is 0"),
    ],
)
def test_a_preview_that_cannot_be_is_refused(
    people: Service, request_: PreviewRequest, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        people.preview_blend(request_)
    assert people.jobs() == []


def test_a_preview_stops_at_once_and_drops_the_half_drawn_picture(people: Service, program: Any) -> None:
    real = program.model.generate

    def slow(request: Any) -> Any:
        yield next(real(replace(request, count=1)))
        end = time.monotonic() + 20
        while not program.stop:  # as the host's sampler, which looks at the flag at every step
            assert time.monotonic() < end
            time.sleep(0.02)
        yield Image.new("RGB", (8, 8))

    program.model.generate = slow
    job = people.preview_blend(PreviewRequest(HALF, count=3, steps=10))
    until(job, lambda: len(job.pictures) == 1 and job.progress().step >= 10)
    assert job.progress().stage == "Generating image 2 of 3"
    assert job.progress().total == 30
    people.interrupt(job.id)
    ended(job)
    assert job.state == "interrupted"
    assert len(job.pictures) == 1
    assert not program.lock.locked()


def test_a_blend_gets_the_face_that_was_previewed(people: Service) -> None:
    blind = people.blend(replace(HALF, name="Blind", toward_mean=0.1)).identity
    assert blind is not None
    assert blind.metadata.thumbnail is None, "nothing was generated of it"
    job = ended(people.preview_blend(PreviewRequest(replace(HALF, toward_mean=0.1), count=1, steps=3)))
    seen = people.blend(replace(HALF, name="Seen", toward_mean=0.1)).identity
    other = people.blend(replace(HALF, name="Other", toward_mean=0.2)).identity
    assert seen is not None
    assert other is not None
    assert seen.metadata.thumbnail is not None
    assert other.metadata.thumbnail is None, "another blend was previewed"
    face = Image.open(io.BytesIO(seen.metadata.thumbnail)).convert("RGB")
    small = job.pictures[0].convert("RGB")
    small.thumbnail(face.size)
    assert np.abs(np.asarray(face, float) - np.asarray(small, float)).mean() < 8
    assert b"trainedAlgorithmicMedia" in seen.metadata.thumbnail, "it is marked as generated"


def test_a_blend_as_a_job_saves_the_same_as_at_once(people: Service) -> None:
    job = ended(people.start_blend(replace(HALF, name="Mix", toward_mean=0.25)))
    assert job.state == "done", job.error
    assert job.result["person"]["name"] == "Mix"
    at_once = people.blend(replace(HALF, name="Other", toward_mean=0.25)).identity
    mixed = people.people.entry("Mix").identity
    assert mixed is not None
    assert at_once is not None
    assert mixed.content_hash == at_once.content_hash
    with pytest.raises(NameTakenError):
        people.start_blend(replace(HALF, name="mix"))


def with_groups(service: Service, tmp_path: Path) -> tuple[str, ...]:
    """The list of names again, with women and men behind them; answers the names in the basis."""
    known = service.workspace.names()
    names = tmp_path / "groups.txt"
    names.write_text("\n".join(f"{one}, {'women' if i % 2 else 'men'}" for i, one in enumerate(known.names)), "utf-8")
    options = replace(service.workspace.options(), names_file=str(names))
    service.workspace.options = lambda: options
    assert service.workspace.names().sha256 == known.sha256
    with service.model.read() as model:
        return service.model.bases(model, 8)[0].names


def test_a_blend_is_steered_at_its_distance_to_the_mean(people: Service, tmp_path: Path) -> None:
    star = with_groups(people, tmp_path)[5]
    plain = people.blend(replace(HALF, name="Plain")).identity
    request = replace(HALF, name="Steered", celebrities=((star.upper(), 0.5),), groups=(("women", -0.2),))
    job = ended(people.start_blend(request))
    assert job.state == "done", job.error
    steered = people.people.entry("Steered").identity
    assert steered is not None
    assert plain is not None
    assert steered.metadata.settings["celebrities"] == [[star, 0.5]]
    assert steered.metadata.settings["groups"] == [["women", -0.2]]
    own, moved = plain.coefficients[0], steered.coefficients[0]
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), np.linalg.norm(own, axis=-1), rtol=1e-4)
    assert not np.allclose(own, moved)
    people.people.delete("Ada", mixtures=True)
    assert people.workspace.library.names() == ("Bob",), "who is in it goes with it"


def test_steering_that_cannot_be_is_refused(people: Service, tmp_path: Path) -> None:
    star = with_groups(people, tmp_path)[5]
    named = replace(HALF, name="x")
    for request, error, words in (
        (replace(named, celebrities=((star, 1.5),)), SettingsError, "from -1 to 1"),
        (replace(named, groups=(("robots", 0.5),)), NamesError, "choose from"),
    ):
        with pytest.raises(error, match=words):
            people.start_blend(request)
        with pytest.raises(error, match=words):
            people.preview_blend(PreviewRequest(request))
    assert people.jobs() == []
    job = ended(people.start_blend(replace(named, celebrities=((star[:-1], 0.5),))))
    assert job.state == "failed"
    assert f"did you mean {star}" in job.error


def test_a_stopped_blend_saves_nobody(people: Service, program: Any) -> None:
    assert program.lock.acquire(timeout=5)  # the program is busy
    try:
        job = people.start_blend(replace(HALF, name="Mix"))
        until(job, lambda: job.state == "running")
        people.interrupt(job.id)
        ended(job)
    finally:
        program.lock.release()
    assert job.state == "interrupted"
    assert "while it waited" in job.error
    assert people.workspace.library.names() == ("Ada", "Bob")


def test_a_basis_as_a_job(people: Service) -> None:
    job = ended(people.start_basis(8))
    assert job.state == "done", job.error
    assert [one.as_dict() for one in job.outcome] == [
        one.as_dict() | {"from_cache": job.outcome[0].from_cache} for one in people.model.summaries(8)
    ]
    assert job.result == {"components": 8, "encoders": [job.outcome[0].encoder]}
    with pytest.raises(SettingsError):
        people.start_basis(0)
    largest = ended(people.start_basis(600))
    assert largest.state == "done", largest.error
    share = 2 * largest.outcome[0].width // 3  # as 512 of 768
    assert largest.outcome[0].components == largest.result["components"] == share


def test_a_basis_of_a_long_list_tells_its_progress_and_stops(
    people: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tmp_path / "long.txt"
    names.write_text("\n".join(f"Name{i} Family{i}" for i in range(5000)), "utf-8")
    options = replace(people.workspace.options(), names_file=str(names))
    people.workspace.options = lambda: options
    encoder = type(people.host.loaded_model().text_encoders[0])
    real = encoder.tokenize
    sizes = []

    def slow(self: Any, texts: Any) -> Any:
        sizes.append(len(texts))
        if len(sizes) == 4 and len(texts) == 1000:
            people.queue.jobs()[0].interrupt.set()
        return real(self, texts)

    monkeypatch.setattr(encoder, "tokenize", slow)
    job = ended(people.start_basis(16))
    assert job.state == "interrupted", job.error
    assert max(sizes) == 1000
    assert sizes.count(1000) < 5
    told = [(event["step"], event["total"]) for event in job.events_after() if event["event"] == "Stage"]
    assert (1000, 5000) in told


def test_learning_that_waits_for_the_program_can_be_stopped_and_resumed(people: Service, program: Any) -> None:
    from support.sample_photos import sample_photos

    photo = UploadedPhoto(sample_photos()["six"].read_bytes(), "six.jpg", 0)
    settings = {"steps": 3, "views": 2, "batch_size": 1, "components": 8, "early_stop": False}
    request = LearnRequest((PhotoUpload("Eve", (photo,)),), settings=settings, consent=True)
    assert program.lock.acquire(timeout=5)
    try:
        job = people.start_learning(request)
        until(job, lambda: "Waiting for the WebUI" in job.progress().stage)
        people.interrupt(job.id)
        ended(job)
    finally:
        program.lock.release()
    assert job.state == "interrupted"
    assert job.resumable
    people.resume(job.id)
    assert ended(job).state == "done", job.error


def test_a_run_that_reload_ui_interrupted_says_so(people: Service, program: Any) -> None:
    by_hand, by_reload = Job("learn", ("Ada",)), Job("learn", ("Bob",))
    by_hand.set_state("interrupted", "It was interrupted.")
    by_reload.set_state("interrupted", INTERRUPTED)
    for job in (by_hand, by_reload):
        people.queue.remember(job)
    people.reload_began()
    assert program.reloads == 1
    assert (by_hand.error, by_reload.error) == ("It was interrupted.", RELOADED)
