"""The files of learning runs that have not ended: a record of the request, the photos, and the trainer's state."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from celeb_basis.errors import CelebBasisError, printable
from celeb_basis.files import checked_name, write_bytes, write_json
from celeb_basis.reading import read_json
from celeb_basis.settings import TrainingSettings, stored_settings
from celeb_basis.training.run import PhotoInput
from celeb_basis.training.run_lock import is_running, sweep_locks
from celeb_basis.training.state import read_summary
from celeb_basis.webui.options import Paths
from celeb_basis.webui.schemas import LearnRequest, SavedRun

_log = logging.getLogger(__name__)

_JOB_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class RunRecord:
    """What beginning or resuming a run needs beside photos and state; a JSON file beside the state."""

    people: tuple[str, ...]
    consent: str
    notes: str
    replace: bool
    created: float
    preview_every: int = 0
    previews: int = 0
    """How many previews are spread over the run, where ``preview_every`` is 0."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    photos: tuple[tuple[str, ...], ...] = ()
    """Each person's photos, as paths below the run's folder of photos; empty in records of version 0.1.0."""
    faces: tuple[tuple[int | None, ...], ...] = ()
    """Which face of each photo."""
    if_prepared: Mapping[str, Any] | None = None
    """Settings in place of :attr:`settings` where the checkpoint is prepared."""
    likeness: bool = False
    """Whether the likeness is measured at the end."""

    def learn_settings(self) -> TrainingSettings:
        """The settings of the run.

        Raises:
            SettingsError: They are not this version's.
        """
        return stored_settings(self.settings)

    def settings_if_prepared(self) -> TrainingSettings | None:
        """Those that take their place where the checkpoint is prepared, if the choice was left open.

        Raises:
            SettingsError: They are not this version's.
        """
        return None if self.if_prepared is None else stored_settings(self.if_prepared)


class RunFiles:
    """The files of the runs in one data folder, by the run's id.

    The record is written when the run is requested and deleted last, so a run that ends with the host is found by it.
    """

    def __init__(self, paths: Paths) -> None:
        self._unfinished, self._uploads = paths.unfinished, paths.uploads

    def state(self, run: str) -> Path:
        """The file of the trainer's state."""
        return self._unfinished / f"{run}.safetensors"

    def record(self, run: str) -> Path:
        """The file of the record."""
        return self._unfinished / f"{run}.json"

    def photos(self, run: str) -> Path:
        """The folder of the photos."""
        return self._uploads / run

    def people(self, run: str, record: RunRecord) -> tuple[PhotoInput, ...]:
        """The people with their photos as files; empty if a photo is missing."""
        folder = self.photos(run)
        people = tuple(
            PhotoInput(name, tuple(folder / path for path in paths), tuple(faces))
            for name, paths, faces in zip(record.people, record.photos, record.faces, strict=False)
        )
        complete = len(people) == len(record.people) and all(one.photos for one in people)
        return people if complete and all(path.is_file() for one in people for path in one.photos) else ()

    def can_go_on(self, run: str, record: RunRecord) -> bool:
        """Whether the run can be resumed from its state, or begun again from its photos."""
        return self.state(run).is_file() or bool(self.people(run, record))

    def save_photos(self, run: str, request: LearnRequest) -> tuple[tuple[str, ...], ...]:
        """Write the photos of ``request``, and return each person's paths below :meth:`photos`.

        Raises:
            FileError: The disk is full or the like.
        """
        photos = []
        for number, person in enumerate(request.people):
            paths = [f"{number}/{index}/{_file_name(photo.name)}" for index, photo in enumerate(person.photos)]
            for path, photo in zip(paths, person.photos, strict=True):
                write_bytes(self.photos(run) / path, photo.file_content())
            photos.append(tuple(paths))
        return tuple(photos)

    def save_record(self, run: str, record: RunRecord) -> None:
        """Write the record.

        Raises:
            FileError: The disk is full or the like.
        """
        write_json(self.record(run), asdict(record))

    def all_files(self, run: str) -> tuple[Path, ...]:
        """Every file of the run."""
        files = [self.state(run), self.record(run), *sorted(self.photos(run).rglob("*"))]
        return tuple(path for path in files if path.is_file())

    def delete_photos(self, run: str) -> None:
        """Delete the photos."""
        shutil.rmtree(self.photos(run), ignore_errors=True)

    def delete(self, run: str) -> None:
        """Delete everything of the run, the record last."""
        self.delete_photos(run)
        for path in (self.state(run), self.record(run)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def find(self, known: Collection[str]) -> Iterator[tuple[str, RunRecord, bool]]:
        """The runs beside those of ``known`` that can go on, and whether another program is running them.

        What is left of runs that cannot go on is deleted.
        """
        for path in sorted(self._unfinished.glob("*.json")):
            run = path.stem
            if run in known or not _JOB_ID.fullmatch(run):
                continue
            try:
                record = _read(path)
            except (OSError, ValueError, TypeError, KeyError, RecursionError, CelebBasisError) as error:
                _log.warning("%s is unusable: %s", printable(str(path)), error)
                continue
            running = is_running(self.state(run))
            if running or self.can_go_on(run, record):
                yield run, record, running
            else:
                self.delete(run)

    def delete_orphans(self, known: Collection[str]) -> None:
        """Delete photos that belong to no run: not to one of ``known``, to one with a record or to one that just begins."""
        with contextlib.suppress(OSError):
            for folder in self._uploads.iterdir():
                begins = is_running(self.state(folder.name))  # looked at first: the record is written while it is held
                if folder.name not in known and not begins and not self.record(folder.name).is_file():
                    shutil.rmtree(folder, ignore_errors=True)
        sweep_locks(self._unfinished)

    def describe(self, run: str, record: RunRecord, *, running: bool = False) -> SavedRun:
        """What there is to show about a run."""
        state = self.state(run)
        checkpoint, step = "", 0
        steps = 0
        when = record.created
        try:
            summary = read_summary(state)
            checkpoint, step, steps = summary.model, summary.step, summary.steps
            when = state.stat().st_mtime
        except (OSError, CelebBasisError):
            with contextlib.suppress(CelebBasisError):
                steps = record.learn_settings().steps * len(record.people)
        saved = datetime.fromtimestamp(when, timezone.utc).isoformat(timespec="seconds")
        return SavedRun(run, record.people, checkpoint, step, steps, saved, running)


def _read(path: Path) -> RunRecord:
    """The record in the file ``path``; an error of any kind if it is none."""
    described = read_json(path)
    record = RunRecord(**described)
    photos = tuple(tuple(map(str, paths)) for paths in record.photos)
    if any(part in ("", "..") for one in photos for path in one for part in re.split(r"[/\\:]", path)):
        raise ValueError("a photo is outside of the run's folder")
    changes: dict[str, Any] = {
        "people": tuple(map(checked_name, record.people)),
        "photos": photos,
        "faces": tuple(tuple(None if face is None else int(face) for face in faces) for faces in record.faces),
        "created": float(record.created),
    }
    return RunRecord(**described | changes)


def _file_name(name: str) -> str:
    """The user's own file name as far as every file system takes it; it appears in messages."""
    plain = re.sub(r"[^\w. -]", "_", Path(name.replace("\\", "/")).name).strip(". ")[-80:]
    return plain if plain and not plain.startswith(".") else "photo"
