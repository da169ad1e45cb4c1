"""Collecting the report on a training run while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis import __version__
from celeb_basis.events import DrawingNames, Event, Preparing, StepDone, Warned
from celeb_basis.identities.identity import identity_from_bytes
from celeb_basis.report import (
    Report,
    ReportBasis,
    ReportFile,
    ReportLoss,
    ReportModel,
    ReportPerson,
    ReportPhoto,
    ReportStage,
)
from celeb_basis.training.run import PortraitsFound, TrainingResult, TrainingTask

if TYPE_CHECKING:
    from celeb_basis.faces.network import DetectedFace, Pixels, Portrait
    from celeb_basis.training.run import TrainingSession


class RunReport:
    """Collects events while a run is under way, and builds the report when it has ended."""

    def __init__(self, task: TrainingTask | None) -> None:
        """Begin to measure time.

        Args:
            task: What is learned; ``None`` for a resumed run, whose photos are not available.
        """
        self.task = task
        self._photos: dict[Path, tuple[Pixels, DetectedFace, list[DetectedFace]]] = {}
        self._portraits: Mapping[str, Sequence[Portrait]] = {}
        self._steps: list[StepDone] = []
        self._warnings: list[str] = []
        self._began = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def photo(self, path: Path, picture: Pixels, face: DetectedFace, found: list[DetectedFace]) -> None:
        """Add a photo with the face that is learned and all faces found in it."""
        self._photos[path] = (picture, face, found)

    def note(self, event: Event) -> None:
        """Record an event, and the time since the last one as part of its stage."""
        now = time.perf_counter()
        names = {
            PortraitsFound: "Loading, basis, faces",
            DrawingNames: "Generating the celebrities",
            Preparing: "Encoding views",
            StepDone: "Learning",
        }
        if (stage := names.get(type(event))) is not None:
            self._stages[stage] = self._stages.get(stage, 0.0) + now - self._last
        self._last = now
        if isinstance(event, PortraitsFound):
            self._portraits = event.portraits
        elif isinstance(event, StepDone):
            self._steps.append(event)
        elif isinstance(event, Warned):
            self._warnings.append(event.message)

    def build(self, worker: TrainingSession, outcome: TrainingResult, files: Sequence[Path] = ()) -> Report:
        """Build the report.

        Args:
            worker: What the run used.
            outcome: How the run ended, with at least one identity.
            files: Identity files that were written.
        """
        identity = identity_from_bytes(outcome.identities[0])
        settings = dict(identity.metadata.settings)
        built = worker.built_bases(int(settings["components"]))[0]
        info = worker.model.info
        people = [self._person(name, outcome) for name in outcome.names]
        return Report(
            title=f"Learning {', '.join(outcome.names)}",
            summary=f"{' and '.join(outcome.names)} learned on {info.name} in {outcome.steps} steps.",
            model=ReportModel(info.name, info.family),
            people=people,
            loss=self._loss(),
            settled=float(settings["settled"]),
            basis=ReportBasis(
                variance=(built.basis.variance / built.basis.total_variance[:, None]).tolist(),
                names_used=len(built.basis.names),
                names_dropped=len(built.filtered.dropped),
                components=built.basis.size,
                celebrities=(built.basis.name_coefficients.norm(dim=-1) / built.basis.spread).mean(dim=-1).tolist(),
            ),
            files=[ReportFile.of(path, "the identity") for path in files],
            stages=[ReportStage(name, seconds) for name, seconds in self._stages.items()],
            seconds=time.perf_counter() - self._began,
            settings=settings,
            date=identity.metadata.created,
            version=__version__,
        )

    def _loss(self) -> ReportLoss | None:
        if not self._steps:
            return None
        return ReportLoss(
            [one.step for one in self._steps],
            [one.loss for one in self._steps],
            [one.average_loss for one in self._steps],
        )

    def _person(self, name: str, outcome: TrainingResult) -> ReportPerson:
        progress = outcome.progress[name]
        reports = [(one.step, one.people[name]) for one in self._steps if one.people and name in one.people]
        ended = "Settled" if outcome.reason == "settled" else "Done"
        return ReportPerson(
            name=name,
            word=f"<{name}>",
            photos=self._photos_of(name),
            distance=progress.distance,
            nearest=progress.nearest,
            movement_steps=[step for step, _ in reports],
            movement=[one.movement for _, one in reports],
            outcome=" ".join((f"{ended} after {outcome.steps} steps.", *self._warnings)),
        )

    def _photos_of(self, name: str) -> list[ReportPhoto]:
        """The photos of ``name`` with their crops; none for a resumed run."""
        paths = next((one.photos for one in self.task.people if one.name == name), ()) if self.task else ()
        photos = []
        for path, portrait in zip(paths, self._portraits.get(name, ()), strict=False):
            picture, face, found = self._photos[path]
            photos.append(
                ReportPhoto(
                    name=path.name,
                    picture=picture,
                    box=face.box,
                    landmarks=face.landmarks,
                    others=[one.box for one in found if one is not face],
                    crop=portrait.picture,
                    warnings=portrait.warnings,
                )
            )
        return photos
