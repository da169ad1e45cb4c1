"""The likeness at the end of ``learn``: a few images of each person, measured after the person was saved."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.arguments import text_argument
from celeb_basis.cli.common import face_pack
from celeb_basis.cli.progress import Console, LearnBar
from celeb_basis.miniature import CELEBRITY_FACES

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.evaluation.clip import ClipScorer
    from celeb_basis.evaluation.likeness import Likeness
    from celeb_basis.events import Event, MeasuringPicture
    from celeb_basis.faces.network import FaceNetwork, Portrait
    from celeb_basis.names.lists import NameList


def add_likeness(parser: argparse.ArgumentParser) -> None:
    """Add ``--likeness``, ``--no-likeness`` and ``--clip``."""
    group = parser.add_argument_group("likeness")
    group.add_argument(
        "--likeness",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="at the end, generate four images of each person and at most four of celebrities, and say how alike the "
        "person is (default: yes)",
    )
    group.add_argument(
        "--clip",
        type=text_argument,
        default="",
        metavar="SPEC",
        help="also measure how these images follow their prompts, with a CLIP that is on this machine: a folder, or "
        "open_clip:ARCHITECTURE:FILE.safetensors",
    )


@dataclass
class LikenessMeter:
    """Measures the people of runs, unless ``--no-likeness`` is given. A failure is a remark: the people are saved."""

    arguments: argparse.Namespace
    console: Console
    names: NameList
    portraits: dict[str, tuple[Portrait, ...]] = field(default_factory=dict)
    """What people are learned from, by their names, as the events of runs have shown."""

    def note(self, event: Event) -> None:
        """Keep the portraits of an event."""
        from celeb_basis.training.dataset import PortraitsFound

        if isinstance(event, PortraitsFound):
            self.portraits |= {name: tuple(found) for name, found in event.portraits.items()}

    def measure(
        self,
        rows: Sequence[dict[str, Any]],
        model: DiffusionModel,
        faces: FaceNetwork | None,
        bar: LearnBar,
        interrupt: threading.Event,
    ) -> None:
        """Measure people who were saved, and add what comes of it to their rows.

        Args:
            rows: The results of people; those without a file are left alone.
            model: The model that they were learned on.
            faces: The face network; if ``None``, that of ``--faces`` if it is on this machine.
            bar: Shows the progress.
            interrupt: Ends it without a result when it is set.
        """
        rows = [row for row in rows if row["ok"]]
        if not self.arguments.likeness or not rows or interrupt.is_set():
            return
        from celeb_basis.evaluation.likeness import not_measured
        from celeb_basis.events import follow, until_set

        try:
            files = [Path(row["file"]) for row in rows]
            found = follow(until_set(self._work(files, model, faces or self._faces()), interrupt), bar.show)
        except Exception as error:  # of any kind: the people are saved
            self.console.note(not_measured(error))
            return
        if found is None:
            self.console.note("The likeness was not measured, since you stopped it. What was learned is saved.")
            return
        for row, one in zip(rows, found, strict=True):
            row["likeness"] = one.as_dict()

    def _work(
        self, files: Sequence[Path], model: DiffusionModel, faces: FaceNetwork
    ) -> Generator[MeasuringPicture, None, tuple[Likeness, ...]]:
        from celeb_basis.errors import EvaluationError
        from celeb_basis.evaluation.likeness import measure_people, person_to_measure
        from celeb_basis.identities.identity import load_identity

        people = []
        for file in files:
            identity = load_identity(file)
            person = person_to_measure(identity, faces, self.portraits.get(identity.name, ()))
            if person is None:
                raise EvaluationError(f"there is no photo of {identity.name} to compare with.")
            people.append(person)
        clip = _clip(self.arguments.clip)
        return measure_people(model, people, faces, self.names, known_faces=[CELEBRITY_FACES], clip=clip)

    def _faces(self) -> FaceNetwork:
        from celeb_basis.faces.insight import InsightFaceNetwork
        from celeb_basis.faces.packs import find_pack

        return InsightFaceNetwork(find_pack(face_pack(self.arguments)).folder)


def _clip(spec: str) -> ClipScorer | None:
    from celeb_basis.errors import EvaluationError
    from celeb_basis.evaluation.clip import is_on_disk, load_clip

    if not spec:
        return None
    if not is_on_disk(spec):
        raise EvaluationError(f"{spec} is not on this machine, and nothing is downloaded for this: fetch it first.")
    return load_clip(spec)


def likeness_lines(likeness: Mapping[str, Any] | None) -> list[str]:
    """Lines about a person's likeness for people to read; none if it was not measured.

    Args:
        likeness: :meth:`~celeb_basis.evaluation.likeness.Likeness.as_dict`.
    """
    if likeness is None:
        return []
    first, *others = likeness["sentences"]
    if 0 < likeness["faces"] < likeness["pictures"]:
        others.append(f"A face was found in {likeness['faces']} of {likeness['pictures']} images.")
    if likeness["prompt"] is not None:
        others.append(f"Prompt: {likeness['prompt']:.3f} ({likeness['clip']}).")
    return [f"likeness: {first}", *(f"  {text}" for text in others)]


def likeness_remark(likeness: Mapping[str, Any] | None) -> str:
    """The likeness in a few words behind how a run ended; empty if it was not measured."""
    if likeness is None or likeness["share"] is None:
        return ""
    return f", likeness {likeness['share']:.0%} ({likeness['verdict']})"
