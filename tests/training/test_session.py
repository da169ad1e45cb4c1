"""A session generates the celebrities once before it trains from a guess, and can be interrupted while it does."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.celebrity_faces import CountingModel, PixelFaces

from celeb_basis.diffusion_model import MemoryStats
from celeb_basis.errors import OutOfMemoryError
from celeb_basis.events import DrawingNames, Event, PresetChosen, Warned, follow
from celeb_basis.identities.identity import identity_from_bytes
from celeb_basis.names.lists import name_list
from celeb_basis.report.collect import RunReport
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.first_guess import FirstGuess
from celeb_basis.training.run import PhotoInput, TrainingResult, TrainingSession, TrainingTask

NAMES = tuple(f"first{number} last{number}" for number in range(240))
SETTINGS = TrainingSettings(mode="direct", start="guess", steps=3, views=2, components=6, early_stop=False)


class OneFace(CountingModel):
    """Renders every name as the same picture, with noise."""

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        random = np.random.default_rng(int(latents.abs().sum() * 1000))
        return torch.from_numpy(random.uniform(-0.2, 1, (len(latents), 3, 64, 64)).astype(np.float32))


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingTask:
    monkeypatch.setenv("CELEB_BASIS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(100, 256, (96, 96, 3), dtype=np.uint8)).save(path)
    return TrainingTask((PhotoInput("ada", (path,)),), SETTINGS)


def _run(session: TrainingSession, task: TrainingTask, stop_after: int = 10_000) -> tuple[TrainingResult, list[Event]]:
    interrupt, events = threading.Event(), list[Event]()

    def record(event: Event) -> None:
        events.append(event)
        if sum(isinstance(one, DrawingNames) for one in events) == stop_after:
            interrupt.set()

    return follow(session.learn(task, interrupt), record), events


def test_the_celebrities_are_generated_once_and_can_be_interrupted(task: TrainingTask) -> None:
    model = CountingModel()
    session = TrainingSession(model, name_list(NAMES, "toys"), PixelFaces())
    outcome, _ = _run(session, task, stop_after=2)
    assert (outcome.reason, outcome.identities) == ("interrupted", ())
    assert 0 < len(set(model.drawn)) < len(NAMES)
    outcome, events = _run(session, task)
    assert outcome.reason == "all steps done"
    assert identity_from_bytes(outcome.identities[0]).name == "ada"
    assert len(set(model.drawn)) == len(NAMES)
    assert any(isinstance(event, DrawingNames) for event in events)
    drawn = len(model.drawn)
    outcome, events = _run(session, task)
    assert len(model.drawn) == drawn
    assert not any(isinstance(event, DrawingNames) for event in events)


@pytest.mark.parametrize(("components", "warned"), [(TrainingSettings().components, False), (300, True)])
def test_fewer_components_are_a_warning_only_where_their_number_was_chosen(
    task: TrainingTask, components: int, warned: bool
) -> None:
    """On a small model the default is too large as well: nobody can do anything about that, and nothing is wrong."""
    settings = replace(SETTINGS, components=components, start="mean", steps=1)
    outcome, _ = _run(
        TrainingSession(CountingModel(), name_list(NAMES, "toys"), PixelFaces()), replace(task, settings=settings)
    )
    assert outcome.reason == "all steps done"
    assert any("components are more than" in warning for warning in outcome.warnings) is warned
    assert identity_from_bytes(outcome.identities[0]).metadata.settings["components"] < components


def test_a_regression_that_explains_nothing_is_reported_and_learning_starts_at_the_mean(task: TrainingTask) -> None:
    session = TrainingSession(OneFace(), name_list(NAMES, "toys"), PixelFaces())
    outcome, events = _run(session, task)
    (warning,) = [event.message for event in events if isinstance(event, Warned)]
    assert outcome.warnings[-1] == warning
    assert "mean of the celebrities" in warning
    ada = identity_from_bytes(outcome.identities[0])
    assert ada.metadata.settings["start"] == "mean"
    assert ada.metadata.face_model == ""
    report = RunReport(None)
    for event in events:
        report.note(event)
    assert warning in report.build(session, outcome).people[0].outcome
    from_mean = replace(task, settings=replace(SETTINGS, start="mean"))
    expected, events = _run(session, from_mean)
    assert not [event for event in events if isinstance(event, Warned)]
    np.testing.assert_array_equal(identity_from_bytes(expected.identities[0]).coefficients[0], ada.coefficients[0])


def test_a_regression_that_explains_something_is_where_learning_starts(
    task: TrainingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FirstGuess, "informative", True)
    session = TrainingSession(CountingModel(), name_list(NAMES, "toys"), PixelFaces())
    outcome, events = _run(session, task)
    assert not [event for event in events if isinstance(event, Warned)]
    ada = identity_from_bytes(outcome.identities[0])
    assert (ada.metadata.settings["start"], ada.metadata.face_model) == ("guess", PixelFaces().name)


def test_a_run_that_ran_out_of_memory_can_go_on_with_a_smaller_batch(task: TrainingTask, tmp_path: Path) -> None:
    class Small(CountingModel):
        """Has room for one image in a batch, once the third step is reached."""

        def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
            if self.calls >= 2 and len(latents) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().predict(latents, timesteps, conditioning)

    state = tmp_path / "run.safetensors"
    task = replace(task, settings=replace(SETTINGS, start="mean", steps=6), state=state)
    session = TrainingSession(Small(), name_list(NAMES, "toys"), PixelFaces())
    with pytest.raises(
        OutOfMemoryError, match=r"Out of memory at step 3: .* To go on from there, resume .*run"
    ) as caught:
        _run(session, task)
    assert str(state) in str(caught.value)
    outcome = follow(session.resume(state, {"batch_size": 1}, threading.Event()))
    assert (outcome.reason, outcome.steps, len(outcome.identities)) == ("all steps done", 6, 1)


def test_too_little_memory_is_said_before_anything_takes_time(task: TrainingTask) -> None:
    class Tight(CountingModel):
        def memory(self) -> MemoryStats:
            return replace(super().memory(), free=1000)

    session = TrainingSession(Tight(), name_list(NAMES, "toys"), PixelFaces())
    first = next(session.learn(replace(task, settings=replace(SETTINGS, start="mean")), threading.Event()))
    assert isinstance(first, Warned)
    assert "of memory in addition to the checkpoint" in first.message
    assert "the least that learning on this checkpoint takes is" in first.message


def test_a_run_that_leaves_the_choice_takes_the_guess_only_where_it_costs_nothing(
    task: TrainingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FirstGuess, "informative", True)
    open_task = replace(task, settings=replace(SETTINGS, start="mean"), if_prepared=SETTINGS)
    model = CountingModel()
    session = TrainingSession(model, name_list(NAMES, "toys"), PixelFaces())
    outcome, events = _run(session, open_task)
    assert [event for event in events if isinstance(event, PresetChosen)] == [PresetChosen("balanced", prepared=False)]
    assert model.drawn == [], "nothing is generated without being asked"
    assert identity_from_bytes(outcome.identities[0]).metadata.settings["start"] == "mean"
    _run(session, task)
    drawn = len(model.drawn)
    outcome, events = _run(session, open_task)
    assert [event for event in events if isinstance(event, PresetChosen)] == [PresetChosen("quick", prepared=True)]
    assert len(model.drawn) == drawn
    assert identity_from_bytes(outcome.identities[0]).metadata.settings["start"] == "guess"


def test_a_guess_that_says_nothing_is_not_taken_on_its_own(task: TrainingTask) -> None:
    session = TrainingSession(OneFace(), name_list(NAMES, "toys"), PixelFaces())
    _run(session, task)
    open_task = replace(task, settings=replace(SETTINGS, start="mean"), if_prepared=SETTINGS)
    _, events = _run(session, open_task)
    assert [event for event in events if isinstance(event, PresetChosen)] == [PresetChosen("balanced", prepared=True)]
