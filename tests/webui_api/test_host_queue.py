"""The host's queue: interrupted waits, reading beside a job of ours, and no reading while others work with the model."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from celeb_basis.errors import HostError, StoppedError
from celeb_basis.webui.host_queue import HostQueue
from celeb_basis.webui.jobs import Job


class Elsewhere:
    """Somebody else who holds the program, as the host does while it draws."""

    def __init__(self, program: Any) -> None:
        self._program = program

    def __enter__(self) -> None:
        assert self._program.lock.acquire(timeout=10)

    def __exit__(self, *_: object) -> None:
        self._program.lock.release()


def looked(shared: HostQueue, seen: list[str]) -> threading.Thread:
    def look() -> None:
        with shared.read_lock():
            seen.append("looked")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    return thread


def test_who_looks_waits_for_others(program: Any) -> None:
    shared, seen = HostQueue(program), list[str]()
    with Elsewhere(program):
        thread = looked(shared, seen)
        time.sleep(0.4)
        assert seen == []
    thread.join(10)
    assert seen == ["looked"]
    assert not program.lock.locked()


def test_a_job_that_waits_gives_nobody_a_look(program: Any) -> None:
    shared, seen, job = HostQueue(program), list[str](), Job("learn", ("ada",))
    held = threading.Event()

    def work() -> None:
        with shared.write_lock(job.task, job.interrupt):
            held.set()
            time.sleep(0.5)

    with Elsewhere(program):
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        thread = looked(shared, seen)
        time.sleep(0.4)
        assert seen == []
        assert not held.is_set()
    thread.join(10)
    worker.join(10)
    assert seen == ["looked"]
    assert held.is_set()
    assert not program.lock.locked()


def test_a_job_of_ours_gives_the_queue_back_when_everybody_has_looked(program: Any) -> None:
    shared, order, job = HostQueue(program), list[str](), Job("learn", ("ada",))
    inside, go = threading.Event(), threading.Event()

    def look() -> None:
        with shared.read_lock():
            inside.set()
            go.wait(10)
            order.append(f"looked, locked: {program.lock.locked()}")

    with shared.write_lock(job.task, job.interrupt):
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        assert inside.wait(10), "beside the job"
        threading.Timer(0.3, go.set).start()
    order.append("given back")
    thread.join(10)
    assert order == ["looked, locked: True", "given back"]
    assert not program.lock.locked()


def test_an_interrupted_job_waits_no_longer(program: Any) -> None:
    shared, job = HostQueue(program), Job("learn", ("ada",))
    with Elsewhere(program):
        threading.Timer(0.2, job.interrupt.set).start()
        with pytest.raises(StoppedError), shared.write_lock(job.task, job.interrupt):
            pytest.fail("it is not its turn")
        with pytest.raises(StoppedError), shared.read_lock(job.interrupt):
            pytest.fail("it is not its turn")
    with shared.write_lock(Job("learn", ("bob",)).task), shared.read_lock():
        assert program.lock.locked()
    end = time.monotonic() + 5  # the turns that were given up pass the queue on
    while program.lock.locked() and time.monotonic() < end:
        time.sleep(0.01)
    assert not program.lock.locked()


def test_errors_inside_and_of_the_queue_itself_come_through(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = HostQueue(program)
    with pytest.raises(HostError, match="inside"), shared.write_lock():
        raise HostError("inside")
    with pytest.raises(HostError, match="looking"), shared.read_lock():
        raise HostError("looking")
    assert not program.lock.locked()

    def broken(_task: Any) -> Any:
        raise HostError("no queue")

    monkeypatch.setattr(program, "write_lock", broken)
    with pytest.raises(HostError, match="no queue"), shared.write_lock():
        pytest.fail("there is no queue")
