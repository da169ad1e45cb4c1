"""The content of a report as plain data: images are ``(H, W, 3)`` uint8 RGB arrays, curves are sequences of numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celeb_basis.files import explained_os_errors, sha256_of_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from celeb_basis.evaluation.metrics import EvaluationResult
    from celeb_basis.faces.network import Floats, Pixels

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in the photo's pixels."""


@dataclass(frozen=True)
class ReportPhoto:
    """One photo of a person and what was found in it."""

    name: str
    """File name, for the caption."""
    picture: Pixels
    box: Box | None = None
    """The face that was learned."""
    landmarks: Floats | None = None
    """``(5, 2)``: x and y in the photo's pixels."""
    others: Sequence[Box] = ()
    """The other faces that were found."""
    crop: Pixels | None = None
    """The square crop around the face, the training picture."""
    warnings: Sequence[str] = ()
    """Sentences about the photo's quality."""


@dataclass(frozen=True)
class ReportPerson:
    """One learned person."""

    name: str
    word: str
    """The placeholder token as written in a prompt, with its brackets: ``<ada>``."""
    photos: Sequence[ReportPhoto] = ()
    distance: float | None = None
    """Distance of the token vectors to the mean, in units of the celebrities' own root-mean-square distance."""
    nearest: Sequence[tuple[str, float]] = ()
    """Celebrities and their cosine similarities in coefficient space, nearest first."""
    movement_steps: Sequence[int] = ()
    """Steps at which ``movement`` was measured."""
    movement: Sequence[float] = ()
    """Relative movement of the averaged coefficients at these steps."""
    outcome: str = ""
    """How training ended, as a sentence: ``"Settled after 275 steps."``"""
    invented: bool = False
    """Whether nobody's photo is behind this person."""


@dataclass(frozen=True)
class ReportLoss:
    """The loss of a run, shared by all people who were learned together."""

    steps: Sequence[int]
    losses: Sequence[float]
    averages: Sequence[float]


@dataclass(frozen=True)
class ReportBasis:
    """The celeb basis that people were learned in."""

    variance: Sequence[Sequence[float]]
    """Share of the variance that each component explains, 0 to 1: a sequence of ``K`` numbers per token position."""
    names_used: int
    names_dropped: int = 0
    components: int = 0
    celebrities: Sequence[float] | None = None
    """The celebrities' own distances to the mean, in units of their root mean square: the gauge's gray histogram."""


@dataclass(frozen=True)
class ReportModel:
    """The checkpoint that was used for training and generation."""

    name: str
    family: str
    """``"sd1"``, ``"sd2"`` or ``"sdxl"``."""
    trained: bool = True
    """``False`` for random weights: the page then says that its images are noise."""
    note: str = ""
    """Where it came from, as a sentence."""


@dataclass(frozen=True)
class ReportPicture:
    """A generated image."""

    picture: Pixels
    prompt: str
    seed: int
    settings: Mapping[str, object] = field(default_factory=dict)
    """Sampling settings such as steps and guidance."""
    note: str = ""
    """A remark on the image, such as how similar its face is to the person's."""
    identity: float | None = None
    prompt_score: float | None = None
    words: Sequence[str] = ()
    """Placeholder tokens of the people in it, with their brackets; written into the image's metadata."""


@dataclass(frozen=True)
class ReportScale:
    """What a likeness is measured by: cosine similarities of faces, as Identity is."""

    anybody: float
    """Of the photos and of the checkpoint's celebrities: what anybody would reach."""
    known: float
    """Of two images of a celebrity whom the checkpoint knows: as well as it can show anyone."""


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

        Raises:
            FileError: The file cannot be read.
        """
        with explained_os_errors(path, "read"):
            size = path.stat().st_size
        return ReportFile(str(path), size, sha256_of_file(path), purpose)


@dataclass(frozen=True)
class ReportStage:
    """A stage of the work and the time it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class ReportCommand:
    """A next step for the reader."""

    command: str
    """A complete command for the shell."""
    purpose: str


@dataclass(frozen=True)
class Report:
    """Everything that the page of a demo or a training run shows. Sections without content are omitted."""

    title: str
    summary: str
    """One or two sentences on what was done."""
    model: ReportModel
    people: Sequence[ReportPerson] = ()
    loss: ReportLoss | None = None
    settled: float | None = None
    """The setting of that name: the threshold in the chart of movements."""
    basis: ReportBasis | None = None
    pictures: Sequence[ReportPicture] = ()
    verdict: EvaluationResult | None = None
    """The paper's metrics, if the images were evaluated."""
    scale: ReportScale | None = None
    """What Identity is compared with, if it was measured."""
    files: Sequence[ReportFile] = ()
    stages: Sequence[ReportStage] = ()
    seconds: float | None = None
    """Wall-clock time of the whole run; the sum of the stages if ``None``."""
    settings: Mapping[str, object] = field(default_factory=dict)
    commands: Sequence[ReportCommand] = ()
    date: str = ""
    """Shown as it is. Without one, the same report always gives the same page."""
    version: str = ""
    """Version of this package."""
