"""Training tasks on a Ray cluster: each worker process loads the model once and runs one task after the other.

Photos travel to the workers and identities travel back, as bytes: workers need the model's files at the same path, and
nothing else from the head node's disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import celeb_basis
from celeb_basis.errors import (
    CelebBasisError,
    MissingPackageError,
    PhotoError,
    TrainingError,
    error_message,
    is_user_error,
)
from celeb_basis.files import read_bytes
from celeb_basis.training.run import PhotoInput, TaskRunner, TrainingResult, TrainingTask, failed_result, run_one
from celeb_basis.training.state import read_summary

_log = logging.getLogger(__name__)

_POLL = 0.5
"""Seconds between two checks of the cancellation flag."""
_INTERRUPTED = "Interrupted on its Ray worker, which saves no state: learn this person again."
_MAX_PHOTO = 512 << 20
"""Largest photo that is sent to a worker, in bytes."""
_NOT_HERE = "Interrupted on its Ray worker, and nothing of it is saved on this machine: learn this person again."


@dataclass(frozen=True)
class RayOptions:
    """Which cluster, and how many workers."""

    workers: int = 2
    address: str | None = None
    """Address of a running cluster, such as ``auto`` or ``ray://head:10001``; ``None`` starts Ray on this machine."""


def run_on_ray(
    make_runner: Callable[[], TaskRunner],
    tasks: Sequence[TrainingTask],
    interrupt: threading.Event,
    options: RayOptions,
) -> Iterator[TrainingResult]:
    """Run ``tasks`` on Ray and yield results as they come; a task that fails, or a worker that dies, stops no other.

    Args:
        make_runner: Pickled, and called once in each worker process.
        tasks: What to run.
        interrupt: Cooperative cancellation flag, checked every half second.
        options: Which cluster, and how many workers.

    Raises:
        MissingPackageError: If Ray is not installed.
        TrainingError: If the cluster cannot be reached, or no worker can load the model.
    """
    ray = _import_ray()
    with _connected(ray, options):
        pool = _WorkerPool(ray, make_runner, min(options.workers, len(tasks)))
        try:
            yield from pool.run(tasks, interrupt)
        finally:
            pool.close()


class _Actor:
    """A worker process. Its constructor does nothing that can fail: Ray would hide the reason."""

    def __init__(self, make_runner: Callable[[], TaskRunner]) -> None:
        self._make_runner = make_runner
        self._runner: TaskRunner | None = None

    def open(self) -> str:
        """Load the model; returns what is wrong, or an empty string."""
        try:
            self._runner = self._make_runner()
        except Exception as error:
            if not is_user_error(error):
                _log.error("The worker could not start", exc_info=error)
            return error_message(error)
        return ""

    def learn(self, task: TrainingTask, contents: Sequence[Sequence[bytes]], home: str) -> TrainingResult:
        """Run one task.

        Args:
            task: The task.
            contents: Content of each photo, by person.
            home: Name of the machine that the task comes from, for messages.
        """
        assert self._runner is not None
        try:
            with tempfile.TemporaryDirectory(prefix="celeb-basis-") as folder:
                local_task = replace(task, people=tuple(_write_photos(Path(folder), task, contents)))
                return run_one(self._runner, local_task, threading.Event())
        except Exception as error:
            return _with_machine(failed_result(task, error), task.state, home)


class _WorkerPool:
    """The worker processes, each with one task at a time."""

    def __init__(self, ray: Any, make_runner: Callable[[], TaskRunner], size: int) -> None:
        self.ray, self.make_runner, self.size = ray, make_runner, size
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self.kind = ray.remote(num_cpus=1, num_gpus=gpus)(_Actor)
        self.actors: list[Any] = []
        self.opening: dict[Any, Any] = {}
        """Workers that are loading the model, by the reference to their answer."""
        self.busy: dict[Any, tuple[Any, TrainingTask]] = {}
        """Workers that run a task, by the reference to its result."""

    def run(self, tasks: Sequence[TrainingTask], interrupt: threading.Event) -> Iterator[TrainingResult]:
        """Assign ``tasks`` to workers and yield results as they come."""
        waiting = deque(tasks)
        for _ in range(self.size):
            self._start_worker()
        problem = ""
        while (waiting or self.busy) and not interrupt.is_set():
            if not self.opening and not self.busy:
                raise TrainingError(f"No Ray worker could start. {problem}")
            done, _ = self.ray.wait([*self.opening, *self.busy], timeout=_POLL)
            for reference in done:
                if reference in self.opening:
                    actor = self.opening.pop(reference)
                    if answer := self._answer(reference):
                        problem = answer
                        _log.warning("A Ray worker could not start: %s", problem)
                        continue
                else:
                    actor, task = self.busy.pop(reference)
                    result, alive = self._result(reference, task)
                    yield result
                    if not alive:
                        if waiting and not interrupt.is_set():
                            self._start_worker()
                        continue
                if not interrupt.is_set():
                    yield from self._assign(waiting, actor)
        yield from self._interrupted()

    def close(self) -> None:
        """Stop all worker processes."""
        for actor in self.actors:
            with contextlib.suppress(Exception):  # it may be dead already
                self.ray.kill(actor)

    def _interrupted(self) -> Iterator[TrainingResult]:
        """The results of tasks that were running when the run was interrupted."""
        references = list(self.busy)
        done = self.ray.wait(references, num_returns=len(references), timeout=0)[0] if references else []
        for reference, (_, task) in self.busy.items():
            if reference in done:
                yield self._result(reference, task)[0]
            elif task.state is not None and task.state.is_file():  # saved on the way
                step = read_summary(task.state).step
                yield TrainingResult(task.names, reason="interrupted", steps=step, state=task.state)
            else:
                error = _INTERRUPTED if task.state is None else _NOT_HERE
                yield TrainingResult(task.names, reason="interrupted", error=error)

    def _result(self, reference: Any, task: TrainingTask) -> tuple[TrainingResult, bool]:
        """How ``task`` ended, and whether its worker is still alive."""
        try:
            result: TrainingResult = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            return _lost(task, error), False
        return result, True

    def _start_worker(self) -> None:
        actor = self.kind.remote(self.make_runner)
        self.actors.append(actor)
        self.opening[actor.open.remote()] = actor

    def _answer(self, reference: Any) -> str:
        try:
            return str(self.ray.get(reference))
        except self.ray.exceptions.RayError as error:
            return _first_line(error)

    def _assign(self, waiting: deque[TrainingTask], actor: Any) -> Iterator[TrainingResult]:
        """Assign ``actor`` the next task whose photos can be read; yields the results of those that cannot."""
        while waiting:
            task = waiting.popleft()
            try:
                contents = [[_read(path) for path in person.photos] for person in task.people]
            except CelebBasisError as error:
                yield failed_result(task, error)
                continue
            self.busy[actor.learn.remote(task, contents, platform.node())] = (actor, task)
            return


def _read(path: Path) -> bytes:
    data = read_bytes(path, _MAX_PHOTO)
    if len(data) > _MAX_PHOTO:
        raise PhotoError(f"{path.name} is larger than {_MAX_PHOTO >> 20} MB: save it as a JPEG first.")
    return data


def _write_photos(folder: Path, task: TrainingTask, contents: Sequence[Sequence[bytes]]) -> Iterator[PhotoInput]:
    """Write the photos to ``folder`` under their own names; yields the people with the new paths."""
    for number, (person, pictures) in enumerate(zip(task.people, contents, strict=True)):
        paths = []
        for index, (path, content) in enumerate(zip(person.photos, pictures, strict=True)):
            own = folder / f"{number}-{index}"  # photos from different folders may have the same name
            own.mkdir()
            (own / path.name).write_bytes(content)
            paths.append(own / path.name)
        yield replace(person, photos=tuple(paths))


def _with_machine(result: TrainingResult, state: Path | None, home: str) -> TrainingResult:
    """``result`` with the machine added to an error that names a saved state, unless that machine is ``home``."""
    if state is None or str(state) not in result.error or platform.node() == home:
        return result
    return replace(result, error=f"{result.error} That file is on the machine {platform.node()}.")


def _lost(task: TrainingTask, error: Exception) -> TrainingResult:
    _log.info("%s failed", ", ".join(task.names), exc_info=error)
    reason = f"The Ray worker process died ({_first_line(error)}): it may have run out of memory, so use fewer workers."
    return replace(failed_result(task, TrainingError(reason)), error=reason)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError("Ray is not installed: run pip install 'celeb-basis[ray]'.") from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, options: RayOptions) -> Iterator[None]:
    """Connect to the cluster, or start Ray on this machine's loopback; disconnects at the end unless already connected."""
    if ray.is_initialized():
        yield
        return
    # Workers import this package from the same place as this process.
    package_root = str(Path(celeb_basis.__file__).resolve().parents[1])
    local: dict[str, Any] = {
        "num_cpus": options.workers,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "runtime_env": {
            "env_vars": {
                **{name: os.environ[name] for name in celeb_basis.NO_TELEMETRY if name in os.environ},
                "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")])),
            }
        },
    }
    try:
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(local if options.address is None else {"address": options.address}),
        )
    except Exception as error:  # ConnectionError, RuntimeError, and gRPC's own
        where = "on this machine" if options.address is None else f"at {options.address}"
        raise TrainingError(
            f"Ray {where} cannot be used ({_first_line(error)}): check the address and that it runs."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
