"""Jobs one after the other: failures stay their own, limits of the machine are told, and a wish to stop is heard."""

from __future__ import annotations

import threading
from collections.abc import Generator

from celeb_basis.errors import PhotoError, is_user_error
from celeb_basis.events import Event, Preparing
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.run import PhotoInput, TaskRunner, TrainingResult, TrainingTask, run_local


class OutOfMemoryError(RuntimeError):
    """Stands for torch's, which is told by its name."""


class Moody(TaskRunner):
    """Learns nobody, and fails by name."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def learn(self, task: TrainingTask, interrupt: threading.Event) -> Generator[Event, None, TrainingResult]:
        (name,) = task.names
        self.heard.append(name)
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


def _jobs(*names: str) -> list[TrainingTask]:
    return [TrainingTask((PhotoInput(name, ()),), TrainingSettings()) for name in names]


def test_each_failure_is_told_and_stops_nobody_else() -> None:
    events: list[str] = []
    jobs = _jobs("photo", "one", "memory", "surprise", "two")
    outcomes = list(run_local(Moody(), jobs, threading.Event(), lambda job, _event: events.append(job.names[0])))
    assert [one.names[0] for one in outcomes] == ["photo", "one", "memory", "surprise", "two"]
    errors = [one.error for one in outcomes]
    assert errors[0] == "The photo is no good: take another one."
    assert "Out of memory" in errors[2]
    assert "ValueError: a wheel came off" in errors[3]
    assert errors[1] == errors[4] == ""
    assert events == [one.names[0] for one in outcomes]


def test_nobody_is_begun_after_a_wish_to_stop() -> None:
    worker = Moody()
    outcomes = list(run_local(worker, _jobs("one", "stop", "two"), threading.Event(), lambda *_: None))
    assert [one.names[0] for one in outcomes] == ["one", "stop"]
    assert worker.heard == ["one", "stop"]


def test_torchs_own_error_is_known() -> None:
    import torch

    assert is_user_error(torch.OutOfMemoryError("x"))
    assert not is_user_error(RuntimeError("x"))
