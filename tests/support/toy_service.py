"""A service without a WebUI: a toy model, real face networks, and a program that holds a lock as the host does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.toys import ToyModel

from celeb_basis.errors import HostError
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.hosts.a1111.app import HostProgress
from celeb_basis.names.lists import read_names, shipped_names
from celeb_basis.prompts.registry import Checkpoint, Registry
from celeb_basis.webui.options import Options, Workspace
from celeb_basis.webui.service import Service


@dataclass
class ToyProgram:
    """A program with one toy checkpoint, a queue lock that is not re-entrant, and an Interrupt button."""

    model: ToyModel | None = field(default_factory=ToyModel)
    folder: Path = Path("embeddings")
    embeddings: frozenset[str] = frozenset()
    stop: bool = False
    reloads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    held: list[str] = field(default_factory=list)
    reported: list[tuple[int, int]] = field(default_factory=list)
    _known: tuple[Any, Checkpoint] | None = None

    def loaded_model(self) -> Any:
        if self.model is None:
            raise HostError("No checkpoint is loaded: choose one.")
        return self.model

    def model_key(self) -> object | None:
        return None if self.model is None else id(self.model)

    @contextlib.contextmanager
    def write_lock(self, task: str | None) -> Iterator[None]:
        assert self.lock.acquire(timeout=60), "the lock is taken twice by one thread"
        self.held.append(task or "")
        self.stop = False
        try:
            yield
        finally:
            self.lock.release()

    def stop_reason(self) -> str:
        return "It was interrupted with the program's own button." if self.stop else ""

    def reload_began(self) -> None:
        self.reloads += 1

    def stop_generation(self) -> None:
        assert self.lock.locked()
        self.stop = True

    def sampling_step(self) -> int:
        return 0

    def report(self, progress: HostProgress) -> None:
        assert self.lock.locked()
        self.reported.append((progress.step, progress.total))

    def embedding_names(self) -> frozenset[str]:
        return self.embeddings

    def embeddings_folder(self) -> Path:
        return self.folder

    def checkpoint(self) -> Checkpoint | None:
        model = self.model
        if model is None:
            return None
        if self._known is None or self._known[0] is not model:
            self._known = model, Checkpoint(model.info, lambda: model.text_encoders)
        return self._known[1]


@pytest.fixture
def program(tmp_path: Path) -> ToyProgram:
    (tmp_path / "embeddings").mkdir()
    return ToyProgram(folder=tmp_path / "embeddings")


@pytest.fixture
def service(
    program: ToyProgram, tmp_path: Path, miniature_folder: Path, miniature_faces: InsightFaceNetwork
) -> Iterator[Service]:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(shipped_names().names[:60]), "utf-8")
    # A likeness is measured where a test asks for it: it takes longer than all the rest of a short run.
    options = Options(face_pack=str(miniature_folder), names_file=str(names), likeness=False)
    made = Service(program, Workspace(lambda: options, tmp_path))
    made.workspace.registry = Registry(made.workspace.paths.people, lists=lambda: (read_names(names),))
    made.faces._loaded = str(miniature_folder), miniature_faces  # loaded once for all tests
    yield made
    for job in made.queue.jobs():
        made.queue.interrupt(job.id)
        assert job.wait(60)
