"""What a report tells, as plain data: pictures are ``(H, W, 3)`` uint8 RGB arrays, curves are sequences of numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celeb_basis.files import explained_os_errors, sha256_of_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from celeb_basis.evaluation.metrics import EvaluationResult
    from celeb_basis.faces.types import Floats, Pixels

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in the photo's pixels."""


@dataclass(frozen=True)
class ReportPhoto:
    """One photo of a person and what was found in it."""

    name: str
    """File name, for the caption."""
    picture: Pixels
    box: Box | None = None
    """The face that was learned."""
    landmarks: Floats | None = None
    """``(5, 2)`` x, y in the photo's pixels."""
    others: Sequence[Box] = ()
    """Faces that were found and not learned."""
    crop: Pixels | None = None
    """The square crop that was learned from."""
    warnings: Sequence[str] = ()
    """Sentences about the photo's quality."""


@dataclass(frozen=True)
class ReportPerson:
    """One learned person."""

    name: str
    word: str
    """As it is written in a prompt, brackets and all."""
    photos: Sequence[ReportPhoto] = ()
    distance: float | None = None
    """Distance of the token vectors to the mean, in units of the celebrities' own root-mean-square distance."""
    nearest: Sequence[tuple[str, float]] = ()
    """Celebrities and their cosines in coefficient space, best first."""
    movement_steps: Sequence[int] = ()
    """The steps at which ``movement`` was measured."""
    movement: Sequence[float] = ()
    """Relative movement of the averaged coefficients."""
    outcome: str = ""
    """A sentence on how learning ended, such as "Settled after 275 of 400 steps."."""


@dataclass(frozen=True)
class ReportLoss:
    """The loss of a run; everybody who was learned together shares it."""

    steps: Sequence[int]
    losses: Sequence[float]
    averages: Sequence[float]


@dataclass(frozen=True)
class ReportBasis:
    """The basis that people were learned in."""

    variance: Sequence[Sequence[float]]
    """Share of the variance that each component explains, 0 to 1: one sequence of ``K`` a token position."""
    names_used: int
    names_dropped: int = 0
    components: int = 0
    celebrities: Sequence[float] | None = None
    """The celebrities' own distances to the mean, in units of their root mean square: the gauge's grey hill."""


@dataclass(frozen=True)
class ReportModel:
    """The checkpoint that was learned on and drawn with."""

    name: str
    family: str
    """``"sd1"``, ``"sd2"`` or ``"sdxl"``."""
    trained: bool = True
    """``False`` for random weights: the page then says that its pictures are noise."""
    note: str = ""
    """Where it came from, a sentence."""


@dataclass(frozen=True)
class ReportPicture:
    """One generated picture."""

    picture: Pixels
    prompt: str
    seed: int
    settings: Mapping[str, object] = field(default_factory=dict)
    """Steps, guidance and the like."""
    note: str = ""
    """What it is for, such as "the same prompt with the mean celebrity in the word's place"."""
    identity: float | None = None
    prompt_score: float | None = None
    words: Sequence[str] = ()
    """Of the people whom it shows, brackets and all; written into the picture."""


@dataclass(frozen=True)
class ReportFile:
    """A file that was written."""

    path: str
    size: int
    """Bytes."""
    sha256: str
    purpose: str = ""

    @staticmethod
    def of(path: Path, purpose: str = "") -> ReportFile:
        """Measure and hash a file on the disk.

        Raises: :class:`~celeb_basis.errors.FileError` if it cannot be read.
        """
        with explained_os_errors(path, "read"):
            size = path.stat().st_size
        return ReportFile(str(path), size, sha256_of_file(path), purpose)


@dataclass(frozen=True)
class ReportStage:
    """A part of the work and the time it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class ReportCommand:
    """A next step."""

    command: str
    """To be typed into a shell as it stands."""
    purpose: str


@dataclass(frozen=True)
class Report:
    """Everything that the page of a demo or of any learning run shows. Sections without content are left out."""

    title: str
    summary: str
    """One or two sentences on what was done."""
    model: ReportModel
    people: Sequence[ReportPerson] = ()
    loss: ReportLoss | None = None
    settled: float | None = None
    """The setting of that name: the threshold in the plot of movement."""
    basis: ReportBasis | None = None
    pictures: Sequence[ReportPicture] = ()
    verdict: EvaluationResult | None = None
    """The three figures, if the pictures were judged."""
    files: Sequence[ReportFile] = ()
    stages: Sequence[ReportStage] = ()
    seconds: float | None = None
    """Wall time of the whole run; the sum of the stages if ``None``."""
    settings: Mapping[str, object] = field(default_factory=dict)
    commands: Sequence[ReportCommand] = ()
    date: str = ""
    """As it is to be shown; left out if empty, so that the same report gives the same page."""
    version: str = ""
    """Of this package."""
