"""The end of a learning job: its people are added to the library, then the likeness of a few images is measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import CelebBasisError, HostError, IdentityError, StoppedError
from celeb_basis.events import MeasuringPicture, follow, until_set
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.identities.folder_lock import writing
from celeb_basis.identities.identity import Identity, identity_from_bytes
from celeb_basis.identities.library import Library
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.webui.tasks.generation import interruptible

if TYPE_CHECKING:
    from celeb_basis.evaluation.clip import ClipScorer
    from celeb_basis.faces.network import Portrait
    from celeb_basis.training.run import TrainingResult
    from celeb_basis.webui.face_models import FaceModels
    from celeb_basis.webui.host_queue import HostQueue
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.options import Workspace
    from celeb_basis.webui.tasks.saved_runs import RunRecord


def add_people(job: Job, result: TrainingResult, record: RunRecord, library: Library) -> None:
    """Add the identities of a run to the library, and make them the job's result.

    Raises:
        CelebBasisError: They cannot be saved.
    """
    rows = []
    for content in result.identities:
        identity = identity_from_bytes(content)
        progress = result.progress[identity.name]
        identity = replace(identity, metadata=replace(identity.metadata, notes=record.notes))
        with writing(library.folder, create=True):  # the name that is deleted may not be the one that is added
            library.check_not_deleted(identity.name, job.created)
            identity, path = _added(identity, library, job.created, replaces=record.replace)
        rows.append(
            {
                "name": identity.name,
                "word": f"<{identity.name}>",
                "hash": identity.content_hash,
                "file": path.name,
                "distance": progress.distance,
                "movement": progress.movement,
                "nearest": [list(pair) for pair in progress.nearest],
                "likeness": None,
            }
        )
    job.result = job.result | {
        "people": rows,
        "reason": result.reason,
        "steps": result.steps,
        "seconds": result.seconds,
        "warnings": list(result.warnings),
    }
    shown = job.progress().warnings
    more = tuple(text for text in result.warnings if not any(text in before for before in shown))
    job.report(f"Done: {result.reason}", seconds_left=0.0, warnings=(*shown, *more))


def _added(identity: Identity, library: Library, begun: float, *, replaces: bool) -> tuple[Identity, Path]:
    """Add ``identity``, with a number behind its name if that was taken during learning: it must not cost the run."""
    name, number = identity.name, 2
    while True:
        named = replace(identity, name=name)
        if not library.path_of(name).exists() or replaces:
            try:
                return named, library.add(named, replace=replaces, begun=begun)
            except IdentityError:
                if not library.path_of(name).exists():  # the name is not what is wrong
                    raise
        elif _is_in(library, named):  # the run ended after it had added this one
            return named, library.path_of(name)
        name, number = f"{identity.name}-{number}", number + 1


def _is_in(library: Library, identity: Identity) -> bool:
    try:
        return library.load(identity.name).content_hash == identity.content_hash
    except CelebBasisError:
        return False


# The likeness


@dataclass(frozen=True)
class LikenessTask:
    """Measures the people of a job that has saved them; whatever fails becomes a sentence."""

    queue: HostQueue
    faces: FaceModels
    workspace: Workspace

    def run(self, job: Job, portraits: Mapping[str, Sequence[Portrait]], checkpoint: object) -> None:
        """Generate images of the people and measure them, with the host's queue held.

        The images become the job's, and each person's figures a part of the job's result.

        Args:
            job: Its result names the people.
            portraits: What they were learned from, by the names that the job was started with.
            checkpoint: The key of the checkpoint that they were learned on.
        """
        from celeb_basis.evaluation.likeness import not_measured

        before = job.progress()
        try:
            problem = self._measure(job, portraits, checkpoint)
        except StoppedError as error:
            problem = f"The person is saved, but the likeness was not measured: {error}"
        except Exception as error:  # of any kind: the people are saved
            problem = not_measured(error)
        warnings = (*job.progress().warnings, problem) if problem else job.progress().warnings
        job.report(before.stage, step=before.step, total=before.total, seconds_left=0.0, warnings=warnings)

    def _measure(self, job: Job, portraits: Mapping[str, Sequence[Portrait]], checkpoint: object) -> str:
        """The work; returns why there is no result, or nothing."""
        from celeb_basis.evaluation.likeness import measure_people, person_to_measure

        host = self.queue.app
        job.report("Measuring the likeness", step=0, total=0, seconds_left=None)
        network = self.faces.network()
        people = []
        for row, name in zip(job.result["people"], job.people, strict=True):
            identity = self.workspace.library.load(row["name"])
            person = person_to_measure(identity, network, portraits.get(name, ()))
            if person is None:
                raise CelebBasisError(f"there is no photo of {name} to compare with.")
            people.append(person)
        clip, begun = self._clip(), time.monotonic()
        pictures: dict[str, list[int]] = {person.identity.name: [] for person in people}

        def on_event(event: MeasuringPicture) -> None:
            if job.interrupt.is_set() or host.stop_reason():  # that image may be unfinished
                job.interrupt.set()
                return
            if event.image is not None:
                pictures[event.name].append(len(job.pictures))
                job.pictures = (*job.pictures, event.image)
            left = (time.monotonic() - begun) / event.done * (event.total - event.done)
            job.report("Measuring the likeness", step=event.done, total=event.total, seconds_left=left)
            host.report(job.host_progress())

        with self.queue.write_lock(job.task, job.interrupt):
            if host.model_key() != checkpoint:
                raise HostError("another checkpoint was loaded. Load that one again and use Evaluate.")
            model = open_loaded_model(host)
            with interruptible(job, host):
                work = measure_people(
                    model, people, network, self.workspace.names(), known_faces=[CELEBRITY_FACES], clip=clip
                )
                found = follow(until_set(work, job.interrupt), on_event)
        if found is None:
            return "The person is saved, but the likeness was not measured: it was interrupted."
        rows: list[dict[str, Any]] = [
            row | {"likeness": one.as_dict() | {"images": pictures[row["name"]]}}
            for row, one in zip(job.result["people"], found, strict=True)
        ]
        job.result = job.result | {"people": rows}
        return ""

    def _clip(self) -> ClipScorer | None:
        """The CLIP of the settings, if it is on this machine."""
        from celeb_basis.evaluation.clip import is_on_disk, load_clip

        spec = self.workspace.options().clip
        return load_clip(spec) if spec and is_on_disk(spec) else None
