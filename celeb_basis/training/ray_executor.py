"""Jobs spread over a Ray cluster: every worker process loads the model once and takes tasks until there are none.

Photos travel to the workers and identities travel back, as bytes: workers need the model's files at the same path, and
nothing else of the head node's disk.
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
from celeb_basis.errors import CelebBasisError, MissingPackageError, TrainingError, error_message, is_user_error
from celeb_basis.files import explained_os_errors
from celeb_basis.training.run import PhotoInput, TaskRunner, TrainingResult, TrainingTask, failed_result, run_one

_log = logging.getLogger(__name__)

_POLL = 0.5
"""Seconds between two looks at a wish to stop."""
_INTERRUPTED = "Interrupted on its Ray worker, and nothing of it is kept: learn this person again."


@dataclass(frozen=True)
class RayOptions:
    """Where and how wide."""

    workers: int = 2
    address: str | None = None
    """A running cluster's, such as ``auto`` or ``ray://head:10001``; a Ray of our own on this machine if ``None``."""


def run_on_ray(
    make_runner: Callable[[], TaskRunner], tasks: Sequence[TrainingTask], interrupt: threading.Event, options: RayOptions
) -> Iterator[TrainingResult]:
    """Learn ``tasks`` on Ray and yield how each ended, as they end; one that fails, or dies, stops no other.

    Parameters: ``make_runner`` is pickled and called once in every worker process.

    Raises: :class:`MissingPackageError` without Ray; :class:`TrainingError` if the cluster cannot be reached or no worker
    can load the model.
    """
    ray = _import_ray()
    with _connected(ray, options):
        crew = _Crew(ray, make_runner, min(options.workers, len(tasks)))
        try:
            yield from crew.run(tasks, interrupt)
        finally:
            crew.dismiss()


class _Actor:
    """Lives in a worker process. Its constructor does nothing that can fail: Ray would hide the reason."""

    def __init__(self, make_runner: Callable[[], TaskRunner]) -> None:
        self._make_runner = make_runner
        self._runner: TaskRunner | None = None

    def open(self) -> str:
        """Load the model; answers what is wrong, or nothing."""
        try:
            self._runner = self._make_runner()
        except Exception as error:
            if not is_user_error(error):
                _log.error("The worker could not start", exc_info=error)
            return error_message(error)
        return ""

    def learn(self, task: TrainingTask, contents: Sequence[Sequence[bytes]], home: str) -> TrainingResult:
        """Learn ``task`` for the machine called ``home``."""
        assert self._runner is not None
        try:
            with tempfile.TemporaryDirectory(prefix="celeb-basis-") as folder:
                here = replace(task, people=tuple(_unpacked(Path(folder), task, contents)))
                return run_one(self._runner, here, threading.Event())
        except Exception as error:
            return _placed(failed_result(task, error), task.state, home)


class _Crew:
    """The worker processes, each busy with one task at a time."""

    def __init__(self, ray: Any, make_runner: Callable[[], TaskRunner], size: int) -> None:
        self.ray, self.make_runner, self.size = ray, make_runner, size
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self.kind = ray.remote(num_cpus=1, num_gpus=gpus)(_Actor)
        self.actors: list[Any] = []
        self.opening: dict[Any, Any] = {}
        """Workers that are loading the model, by the reference to their answer."""
        self.busy: dict[Any, tuple[Any, TrainingTask]] = {}

    def run(self, tasks: Sequence[TrainingTask], interrupt: threading.Event) -> Iterator[TrainingResult]:
        """Hand out ``tasks``; yields results as they come."""
        waiting = deque(tasks)
        for _ in range(self.size):
            self._hire()
        problem = ""
        while (waiting or self.busy) and not interrupt.is_set():
            if not self.opening and not self.busy:
                raise TrainingError(f"No Ray worker could start. {problem}")
            done, _ = self.ray.wait([*self.opening, *self.busy], timeout=_POLL)
            for reference in done:
                if reference in self.opening:
                    actor = self.opening.pop(reference)
                    if said := self._answer(reference):
                        problem = said
                        _log.warning("A Ray worker could not start: %s", problem)
                        continue
                else:
                    actor, task = self.busy.pop(reference)
                    result, alive = self._result(reference, task)
                    yield result
                    if not alive:
                        if waiting and not interrupt.is_set():
                            self._hire()
                        continue
                if not interrupt.is_set():
                    yield from self._hand_out(waiting, actor)
        yield from self._broken_off()

    def dismiss(self) -> None:
        """End all worker processes."""
        for actor in self.actors:
            with contextlib.suppress(Exception):  # it may be dead already
                self.ray.kill(actor)

    def _broken_off(self) -> Iterator[TrainingResult]:
        """The results of those who were being learned when somebody wished to stop."""
        references = list(self.busy)
        done = self.ray.wait(references, num_returns=len(references), timeout=0)[0] if references else []
        for reference, (_, task) in self.busy.items():
            if reference in done:
                yield self._result(reference, task)[0]
            else:
                yield TrainingResult(task.names, reason="interrupted", error=_INTERRUPTED)

    def _result(self, reference: Any, task: TrainingTask) -> tuple[TrainingResult, bool]:
        """How ``task`` ended, and whether its worker is still alive."""
        try:
            result: TrainingResult = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            return _lost(task, error), False
        return result, True

    def _hire(self) -> None:
        actor = self.kind.remote(self.make_runner)
        self.actors.append(actor)
        self.opening[actor.open.remote()] = actor

    def _answer(self, reference: Any) -> str:
        try:
            return str(self.ray.get(reference))
        except self.ray.exceptions.RayError as error:
            return _first_line(error)

    def _hand_out(self, waiting: deque[TrainingTask], actor: Any) -> Iterator[TrainingResult]:
        """Give ``actor`` the next task whose photos can be read; yields the results of those that cannot."""
        while waiting:
            task = waiting.popleft()
            try:
                contents = [[_content(path) for path in person.photos] for person in task.people]
            except CelebBasisError as error:
                yield failed_result(task, error)
                continue
            self.busy[actor.learn.remote(task, contents, platform.node())] = (actor, task)
            return


def _content(path: Path) -> bytes:
    with explained_os_errors(path, "read"):
        return path.read_bytes()


def _unpacked(folder: Path, task: TrainingTask, contents: Sequence[Sequence[bytes]]) -> Iterator[PhotoInput]:
    """The task's people with their photos in ``folder``, under the names that they had."""
    for number, (person, pictures) in enumerate(zip(task.people, contents, strict=True)):
        paths = []
        for index, (path, content) in enumerate(zip(person.photos, pictures, strict=True)):
            place = folder / f"{number}-{index}"  # two folders may hold photos of one name
            place.mkdir()
            (place / path.name).write_bytes(content)
            paths.append(place / path.name)
        yield replace(person, photos=tuple(paths))


def _placed(result: TrainingResult, state: Path | None, home: str) -> TrainingResult:
    """``result`` that says which machine a state is on, where its error names one that is not on ``home``."""
    if state is None or str(state) not in result.error or platform.node() == home:
        return result
    return replace(result, error=f"{result.error} That file is on the machine {platform.node()}.")


def _lost(task: TrainingTask, error: Exception) -> TrainingResult:
    _log.info("%s failed", ", ".join(task.names), exc_info=error)
    reason = f"The Ray worker process died ({_first_line(error)}): it may have run out of memory, so use fewer workers."
    return TrainingResult(task.names, error=reason)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError("Ray is not installed: run pip install 'celeb-basis[ray]'.") from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, options: RayOptions) -> Iterator[None]:
    """Join the cluster, or start a Ray on this machine's loopback, and leave it again if it was us who joined."""
    if ray.is_initialized():
        yield
        return
    # Workers import this package from where this process has it.
    package_root = str(Path(celeb_basis.__file__).resolve().parents[1])
    local: dict[str, Any] = {
        "num_cpus": options.workers,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "runtime_env": {
            "env_vars": {
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
