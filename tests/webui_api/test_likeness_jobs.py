"""The end of a learning job: what is measured, what is chosen, and that nothing of it costs the person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from support.service import ended, request
from support.toys import ToyModel

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.settings import PRESETS
from celeb_basis.training import celebrity_faces
from celeb_basis.webui.schemas import LearnRequest
from celeb_basis.webui.service import Service
from celeb_basis.webui.ui import likeness_markup


def test_a_run_ends_with_four_images_and_a_likeness(service: Service, program: Any) -> None:
    job = ended(service.start_learning(request("Ada", likeness=True)))
    assert (job.state, job.error) == ("done", "")
    (row,) = job.result["people"]
    assert row["likeness"]["pictures"] == 4
    assert row["likeness"]["images"] == list(range(len(job.pictures)))[-4:]
    assert row["likeness"]["verdict"] in ("low", "unknown")
    assert row["likeness"]["sentences"]
    assert (job.progress().step, job.progress().total) == (5, 5), "the steps are the run's, not the images'"
    assert not program.lock.locked()
    json.dumps(job.as_dict(), allow_nan=False)
    page = likeness_markup.results(job)
    assert page.count("<img") >= 4
    assert row["likeness"]["sentences"][0] in page


def test_the_settings_and_the_request_switch_it_off(service: Service) -> None:
    job = ended(service.start_learning(request("Ada")))
    assert job.result["people"][0]["likeness"] is None
    options = replace(service.workspace.options(), likeness=False, previews=0)
    service.workspace.options = lambda: options
    job = ended(service.start_learning(replace(request("Bob"), likeness=None)))
    assert job.result["people"][0]["likeness"] is None
    assert job.pictures == ()


class Broken(ToyModel):
    """Cannot generate."""

    error: Exception = MemoryError("out of memory")

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        del request
        yield self._image()

    def _image(self) -> Image.Image:
        raise self.error


@pytest.mark.parametrize(
    ("error", "words"), [(MemoryError(), "Out of memory"), (ZeroDivisionError("odd"), "ZeroDivisionError")]
)
def test_a_failure_in_it_loses_nothing(service: Service, program: Any, error: Exception, words: str) -> None:
    program.model = Broken()
    program.model.error = error
    job = ended(service.start_learning(replace(request("Ada", likeness=True), preview_every=0)))
    assert job.state == "done"
    assert [one.name for one in service.people.entries()] == ["Ada"]
    (problem,) = [text for text in job.progress().warnings if "not measured" in text]
    assert problem.startswith("The person is saved, but")
    assert words in problem
    assert not program.lock.locked()


def test_an_interruption_while_it_is_measured_loses_nothing(service: Service, program: Any) -> None:
    class Interrupting(ToyModel):
        def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
            for job in service.jobs():
                service.interrupt(job.id)
            yield from super().generate(request)

    program.model = Interrupting()
    job = ended(service.start_learning(replace(request("Ada", likeness=True), preview_every=0)))
    assert (job.state, job.resumable) == ("done", False)
    assert [one.name for one in service.people.entries()] == ["Ada"]
    assert any("it was interrupted" in text for text in job.progress().warnings)
    assert job.pictures == (), "that image may be unfinished"
    assert ended(service.start_learning(replace(request("Bob"), preview_every=0))).state == "done"


def test_the_programs_own_button_ends_it_as_well(service: Service, program: Any) -> None:
    class Stopping(ToyModel):
        def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
            program.stop = True
            yield from super().generate(request)

    program.model = Stopping()
    job = ended(service.start_learning(replace(request("Ada", likeness=True), preview_every=0)))
    assert job.state == "done"
    assert any("it was interrupted" in text for text in job.progress().warnings)


def test_a_person_whose_name_was_taken_in_the_meantime_is_measured_under_the_new_one(service: Service) -> None:
    folder = service.workspace.paths.people
    started = service.start_learning(request("Ada", steps=60, likeness=True))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ada.safetensors").write_bytes(b"another's")
    job = ended(started)
    assert job.state == "done", job.error
    (row,) = job.result["people"]
    assert (row["name"], row["likeness"]["name"]) == ("Ada-2", "Ada-2")


# The preset


def test_without_a_preset_a_checkpoint_that_is_not_prepared_gets_balanced(service: Service) -> None:
    assert LearnRequest(()).preset == "auto"
    job = ended(service.start_learning(request("Ada")))
    assert job.result["preset"] == "balanced"
    identity = service.people.entry("Ada").identity
    assert identity is not None
    assert identity.metadata.settings["start"] == PRESETS["balanced"].start


def test_a_preset_that_is_named_is_taken(service: Service) -> None:
    job = ended(service.start_learning(replace(request("Ada"), preset="paper")))
    assert "preset" not in job.result
    identity = service.people.entry("Ada").identity
    assert identity is not None
    assert identity.metadata.settings["mode"] == "head"


def test_the_page_offers_to_prepare_a_checkpoint_that_is_not(service: Service, program: Any) -> None:
    assert service.preset_costs()["auto"].startswith("Balanced here")
    assert "not prepared" in service.preparation_offer("auto")
    assert service.preparation_offer("balanced") == ""
    program.model = None
    assert service.preparation_offer("auto") == ""
    assert "if the checkpoint is prepared" in service.preset_costs()["auto"]


def test_preparing_generates_the_celebrities_once_and_can_be_interrupted(
    service: Service, program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celebrity_faces, "PILOT", 2)
    job = service.start_preparation()
    service.interrupt(job.id)
    assert ended(job).state == "interrupted"
    job = ended(service.start_preparation())
    assert (job.state, job.error) == ("done", "")
    assert job.result["celebrities"] > 0
    assert service.learning.is_prepared() is True
    assert service.preset_costs()["auto"].startswith("Quick here")
    assert service.preparation_offer("auto") == ""
    assert not program.lock.locked()
    calls = program.model.calls
    assert ended(service.start_preparation()).state == "done"
    assert program.model.calls == calls, "there is nothing left to generate"
