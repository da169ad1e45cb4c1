"""Tasks run one after the other: failures are isolated, and an interrupt stops the rest."""

from __future__ import annotations

import threading
from collections.abc import Generator

from celeb_basis.errors import PhotoError, is_user_error
from celeb_basis.events import Event, Preparing
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.run import PhotoInput, TaskRunner, TrainingResult, TrainingTask, run_local


class OutOfMemoryError(RuntimeError):
    """Stands for torch's, which is recognized by its name."""


class FailsByName(TaskRunner):
    """Learns nobody, and fails by name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def learn(self, task: TrainingTask, interrupt: threading.Event) -> Generator[Event, None, TrainingResult]:
        (name,) = task.names
        self.names.append(name)
        yield Preparing(1, 2)
        if name == "photo":
            raise PhotoError("The photo is no good: take another one.")
        if name == "memory":
            raise OutOfMemoryError("CUDA out of memory")
        if name == "surprise":
            raise ValueError("a wheel came off")
        if name == "stop":
            interrupt.set()
        return TrainingResult(task.names, reason="all steps done")


def _tasks(*names: str) -> list[TrainingTask]:
    return [TrainingTask((PhotoInput(name, ()),), TrainingSettings()) for name in names]


def test_a_failure_is_reported_and_stops_no_other_task() -> None:
    events: list[str] = []
    tasks = _tasks("photo", "one", "memory", "surprise", "two")
    outcomes = list(
        run_local(FailsByName(), tasks, threading.Event(), lambda task, _event: events.append(task.names[0]))
    )
    assert [one.names[0] for one in outcomes] == ["photo", "one", "memory", "surprise", "two"]
    errors = [one.error for one in outcomes]
    assert errors[0] == "The photo is no good: take another one."
    assert "Out of memory" in errors[2]
    assert "ValueError: a wheel came off" in errors[3]
    assert errors[1] == errors[4] == ""
    assert events == [one.names[0] for one in outcomes]


def test_no_task_is_started_after_an_interrupt() -> None:
    runner = FailsByName()
    outcomes = list(run_local(runner, _tasks("one", "stop", "two"), threading.Event(), lambda *_: None))
    assert [one.names[0] for one in outcomes] == ["one", "stop"]
    assert runner.names == ["one", "stop"]


def test_torchs_own_error_is_recognized() -> None:
    import torch

    assert is_user_error(torch.OutOfMemoryError("x"))
    assert not is_user_error(RuntimeError("x"))
