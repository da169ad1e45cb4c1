"""``python -m benchmarks.preparation``: does *quick* lose Identity if the celebrities are generated more cheaply?

On the miniature, people that it has never seen are learned with the preset *quick* from the faces of celebrities that were
generated in several ways, and are compared in pairs. It can be killed and resumed: what is finished is saved.

It needs the packages of ``benchmarks/evidence/requirements.txt``, which ``make evidence`` installs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.methods import Trained
from benchmarks.evidence.metrics import Evaluator
from benchmarks.evidence.miniature import miniature_testbed
from benchmarks.evidence.precompute import Precomputed, Space
from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.results import Cell, Finished, Results
from benchmarks.evidence.runner import measured
from benchmarks.evidence.summary import paired_differences, shown, summarize
from benchmarks.evidence.testbed import EvidenceTestbed
from celeb_basis.errors import CelebBasisError
from celeb_basis.events import follow
from celeb_basis.settings import PRESETS, TrainingSettings
from celeb_basis.training.celebrity_faces import (
    PILOT,
    REFERENCE,
    CelebrityFaces,
    generate_celebrity_faces,
    spread_order,
)
from celeb_basis.training.celebrity_files import Drawing
from celeb_basis.training.first_guess import explained_share

CACHE = Path(__file__).resolve().parents[1] / ".assets" / "preparation"
BASELINE = "first version"
BASELINE_EVALUATIONS = 640 * 2 * 20 * 2
"""640 names, two pictures, 20 steps, with guidance."""

GALLERY = 30
"""Strangers among whom everyone has to be recognized, as in the evidence."""


@dataclass(frozen=True)
class Preparation:
    """How the celebrities' faces are generated."""

    name: str
    drawing: Drawing | None = None
    """``None`` for the faces that ship with the miniature, generated as the first version did."""
    names: int = 640
    size: int = 0

    @property
    def folder(self) -> str:
        """Where its faces are stored: preparations of fewer names use those of more."""
        if self.drawing is None:
            return "shipped"
        return f"{self.drawing.sampler}-{self.drawing.steps}-{self.drawing.guidance:g}-{self.size}"


TWO, FOUR = Drawing(steps=2), Drawing(steps=4)
PREPARATIONS = (
    Preparation(BASELINE),
    Preparation("2 steps", TWO),
    Preparation("4 steps", FOUR),
    Preparation("4 steps, 512 names", FOUR, names=512),
    Preparation("2 steps, 320 names", TWO, names=320),
    Preparation("2 steps, 160 names", TWO, names=160),
    Preparation("2 steps, 96 pixels", TWO, size=96),
)


@dataclass(frozen=True)
class Prepared:
    """What a preparation has given."""

    faces: CelebrityFaces
    evaluations: int
    """Of the denoiser, those of the pilot included."""
    explained: float
    """Leave-one-out, by the regression."""

    @property
    def seen(self) -> float:
        """The share of names whose picture shows a face."""
        return float(self.faces.vectors.isfinite().all(dim=1).float().mean())


def prepared(testbed: EvidenceTestbed, shared: Precomputed, preparation: Preparation, folder: Path) -> Prepared:
    """Generate the faces of a preparation, or read those that are there."""
    bases = shared.bases(Space(), 10_000)
    names = bases[0].names
    known = testbed.known_faces if preparation.drawing is None else ()
    drawing = preparation.drawing or Drawing(steps=20, guidance=5.0)  # where no faces ship, one such picture of each
    work = generate_celebrity_faces(
        testbed.model,
        names,
        testbed.faces,
        folder / preparation.folder,
        known=known,
        most=preparation.names,
        size=preparation.size,
        drawings=(drawing,),
    )
    faces = follow(work, testbed.report.event)
    kept = set(spread_order(names)[: preparation.names])
    rows = [row for row, name in enumerate(faces.names) if name in kept]
    faces = CelebrityFaces(tuple(faces.names[row] for row in rows), faces.vectors[torch.tensor(rows)])
    evaluations = len(rows) * drawing.evaluations + PILOT * REFERENCE.evaluations
    if preparation.drawing is None:
        evaluations = BASELINE_EVALUATIONS
    return Prepared(faces, evaluations, explained_share(bases, faces))


def measure(
    testbed: EvidenceTestbed,
    chosen: Sequence[Preparation],
    strangers: int,
    folder: Path,
    settings: TrainingSettings = PRESETS["quick"],
) -> Iterator[tuple[Preparation, Prepared | None, Finished | None]]:
    """Prepare, then learn and measure every stranger with every preparation; yields each when it is known."""
    results, shared = Results(folder), Precomputed(testbed, folder)
    ready: dict[str, Prepared] = {}
    for one in chosen:
        ready[one.name] = prepared(testbed, shared, one, folder)
        yield one, ready[one.name], None
    method = Trained("quick", replace(settings, early_stop=False))
    evaluator, finished = Evaluator(testbed, 1), results.by_key()
    protocol = {"testbed": testbed.key, "sampling_steps": testbed.sampler.steps, "guidance": testbed.sampler.guidance}
    for stranger in testbed.strangers[:strangers]:
        for one in chosen:
            recipe = {**method.describe(), "preparation": asdict(one)}
            cell = Cell(one.name, recipe, (stranger.name,), 0, (1.0,), protocol)
            if (known := finished.get(cell.key)) is None:
                shared.__dict__["celebrity_faces"] = ready[one.name].faces
                known = measured(cell, method, shared, [stranger], evaluator)
                results.save(cell, known)
                testbed.report.say(f"{stranger.name}, {one.name}: measured")
            yield one, None, (cell, known)


def table(chosen: Sequence[Preparation], ready: dict[str, Prepared], finished: Sequence[Finished]) -> str:
    """The results as Markdown."""
    head = ("preparation", "evaluations", "names", "show a face", "explained", "strangers", "Identity", "Recognized")
    titles = (*head, "Identity, paired", "Recognized, paired")
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    rows = {row.method: row for row in summarize(finished, [one.name for one in chosen])}
    pairs = {one.method: one for one in paired_differences(finished, [(one.name, BASELINE) for one in chosen[1:]])}
    for one in chosen:
        result, row = ready[one.name], rows.get(one.name)
        cells = [one.name, f"{result.evaluations:,}", str(len(result.faces.names)), f"{result.seen:.1%}"]
        cells += [f"{result.explained:.1%}", str(row.strangers if row else 0)]
        cells += [shown(row.last.figures[name] if row else None) for name in ("identity", "recognized")]
        figures: dict[str, Any] = pairs[one.name].figures if one.name in pairs else {}
        cells += [shown(figures.get(name), signed=True) for name in ("identity", "recognized")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__)
    parser.add_argument("--strangers", type=int, default=GALLERY, metavar="N", help="how many people to learn")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this preparation and the baseline")
    parser.add_argument("--results", type=Path, default=CACHE, metavar="FOLDER", help="where results are saved")
    options = parser.parse_args(arguments)
    chosen = [one for one in PREPARATIONS if not options.only or one.name in (BASELINE, *options.only)]
    try:
        testbed = miniature_testbed(None, strangers=max(GALLERY, options.strangers), report=Reporter())
        ready: dict[str, Prepared] = {}
        finished: list[Finished] = []
        for one, result, cell in measure(testbed, chosen, options.strangers, options.results):
            if result is not None:
                ready[one.name] = result
            if cell is not None:
                finished.append(cell)
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(table(chosen, ready, finished) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
