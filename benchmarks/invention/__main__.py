"""``python -m benchmarks.invention``: invented people on the miniature, by judges that no training saw.

Each way of inventing is measured beside celebrities whom the model knows: whether a face is found, whether it is the same
person over seeds and in scenes, how alike the nearest celebrity is, and whether the prompt is followed. What was measured is
kept in ``--results``, so that parts can be measured one after another (``--only``) and the table is printed from all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.testbed import EvidenceTestbed, FaceJudge
from benchmarks.invention.measures import (
    Looks,
    Measured,
    Subject,
    different_people,
    gallery,
    interval,
    measure,
    nearest_celebrity,
    same_person,
    share_of,
)
from benchmarks.invention.steering import MARKED, steered
from celeb_basis.basis import BasisOptions, build_bases, fitting_components
from celeb_basis.files import atomic_path
from celeb_basis.identities.invention import InventionSettings, Inventor
from celeb_basis.method import Basis

CELEBRITIES, GALLERY, STEERED = "celebrities", "gallery", "steered"
GALLERY_PART, PEOPLE_PART = 64, 20
"""People of one file: what is interrupted goes on with the next file."""
WAYS = ("mixed", "gaussian", "gan")
_SCENES = (0, 2, 4, 6, 7)
"""Which of the testbed's prompts; the first is the plain one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, and print the table of what is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.invention", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, metavar="FOLDER", help="where measurements are kept")
    parser.add_argument("--people", type=int, default=40, metavar="N", help="people of each way (%(default)s)")
    parser.add_argument(
        "--only", action="append", choices=(GALLERY, CELEBRITIES, *WAYS, STEERED), help="measure only this"
    )
    parser.add_argument(
        "--others",
        type=int,
        default=128,
        metavar="N",
        help="celebrities of the gallery beside the halves (%(default)s)",
    )
    parser.add_argument("--distance", type=float, default=1.0, help="of invented people to the mean (%(default)s)")
    options = parser.parse_args(arguments)
    report = Reporter()
    testbed = _testbed(report)
    judges = [one for one in (testbed.judge, testbed.third_judge or _third_judge(report)) if one is not None]
    for part in options.only or (GALLERY, CELEBRITIES, *WAYS, STEERED):
        if part == GALLERY:
            _measure_gallery(options, testbed, judges)
        elif part == STEERED:
            if not (file := options.results / "steered.npz").exists():
                report.say("measuring more and less")
                _save(file, steered(testbed, _inventor(testbed, "mixed", options), judges))
        else:
            _measure_people(part, options, testbed, judges)
    sys.stdout.write(_table(options, judges))
    return 0


def _testbed(report: Reporter) -> EvidenceTestbed:
    from dataclasses import replace

    from benchmarks.evidence.miniature import miniature_testbed

    testbed = miniature_testbed(None, strangers=0, report=report)
    return replace(testbed, prompts=tuple(testbed.prompts[place] for place in _SCENES))


def _third_judge(report: Reporter) -> FaceJudge | None:
    from benchmarks.evidence.real_weights import mobile_face_net

    return mobile_face_net(report)


def _subjects(testbed: EvidenceTestbed, part: str, options: argparse.Namespace) -> list[Subject]:
    names = testbed.names.names
    if part == CELEBRITIES:
        chosen = np.random.default_rng(7).permutation(len(names))[: options.people]
        return [Subject(names[place], None) for place in sorted(chosen.tolist())]
    if part == "gan":
        from benchmarks.invention.character_factory import generated_vectors

        file = options.results / f"gan-{options.people}.npz"
        if not file.exists():
            made = generated_vectors(testbed, _bases(testbed)[0], options.people)
            _save(file, {"vectors": torch.stack(made).numpy()})
        with np.load(file) as stored:
            rows = torch.from_numpy(stored["vectors"])
        return [Subject(f"gan {seed}", [row]) for seed, row in enumerate(rows)]
    inventor = _inventor(testbed, part, options)
    people = [inventor.invent(seed, name=f"{part} {seed}") for seed in range(options.people)]
    return [Subject(one.name, one.token_vectors()) for one in people]


def _bases(testbed: EvidenceTestbed) -> list[Basis]:
    encoders = testbed.model.text_encoders
    built = build_bases(encoders, testbed.names, BasisOptions(fitting_components(encoders, 512)))
    return [one.basis for one in built]


def _inventor(testbed: EvidenceTestbed, way: str, options: argparse.Namespace) -> Inventor:
    settings = InventionSettings(way, distance=options.distance)  # type: ignore[arg-type]
    return Inventor(_bases(testbed), testbed.model.info, testbed.names, settings)


# What was measured, as files


def _measure_gallery(options: argparse.Namespace, testbed: EvidenceTestbed, judges: Sequence[FaceJudge]) -> None:
    names = testbed.names.names
    rows = _gallery_rows(options, testbed)
    for file, part in _gallery_files(options, len(rows)):
        if not file.exists():
            testbed.report.say(f"measuring celebrities {part.start} to {part.stop} of {len(rows)}")
            chosen = [rows[place] for place in part]
            labels = {"names": np.array([names[row] for row in chosen])}
            _save(file, labels | gallery(testbed, names, chosen, judges))


def _gallery_rows(options: argparse.Namespace, testbed: EvidenceTestbed) -> list[int]:
    """Celebrities of whom everybody could be a likeness: all whose halves make a mixed person, and others by chance."""
    names = testbed.names.names
    inventor, place = _inventor(testbed, "mixed", options), {name: row for row, name in enumerate(names)}
    people = [inventor.invent(seed) for seed in range(options.people)]
    halves = {place[name] for one in people for name in one.metadata.settings["vectors_of"]}
    others = np.random.default_rng(8).permutation(len(names))[: options.others].tolist()
    return sorted(halves | set(others))


def _measure_people(
    part: str, options: argparse.Namespace, testbed: EvidenceTestbed, judges: Sequence[FaceJudge]
) -> None:
    files = _people_files(part, options)
    if all(file.exists() for file, _ in files):
        return
    subjects = _subjects(testbed, part, options)
    for file, rows in files:
        if not file.exists():
            testbed.report.say(f"measuring {part}, {rows.start} to {rows.stop} of {len(subjects)}")
            _save(file, _arrays(measure(testbed, subjects[rows.start : rows.stop], judges, 1000 * (1 + rows.start))))


def _people_files(part: str, options: argparse.Namespace) -> list[tuple[Path, range]]:
    distance = "" if part == CELEBRITIES or options.distance == 1 else f"-{options.distance:g}"
    starts = range(0, options.people, PEOPLE_PART)
    ranges = [range(at, min(at + PEOPLE_PART, options.people)) for at in starts]
    return [(options.results / f"{part}{distance}-{rows.start}-{rows.stop}.npz", rows) for rows in ranges]


def _gallery_files(options: argparse.Namespace, count: int) -> list[tuple[Path, range]]:
    starts = range(0, count, GALLERY_PART)
    ranges = [range(at, min(at + GALLERY_PART, count)) for at in starts]
    return [(options.results / f"gallery-{rows.start}-{rows.stop}.npz", rows) for rows in ranges]


def _read_gallery(options: argparse.Namespace) -> dict[str, np.ndarray] | None:
    """What is known of the gallery; ``None`` while a part is missing."""
    files = sorted(options.results.glob("gallery-*.npz"), key=lambda file: int(file.stem.split("-")[1]))
    parts = []
    for file in files:
        with np.load(file) as stored:
            parts.append(dict(stored))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else None


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _arrays(measured: Measured) -> dict[str, np.ndarray]:
    arrays = {"names": np.array(measured.names), "found": measured.found, "prompts": measured.prompts}
    for judge, looks in measured.looks.items():
        arrays |= {f"plain {judge}": looks.plain, f"scenes {judge}": looks.scenes}
    return arrays


def _read(part: str, options: argparse.Namespace, judges: Sequence[FaceJudge]) -> Measured | None:
    """What is known of a part; ``None`` for nothing."""
    stored = []
    for file, _ in _people_files(part, options):
        if file.exists():
            with np.load(file) as arrays:
                stored.append(dict(arrays))
    if not stored:
        return None
    whole = {key: np.concatenate([one[key] for one in stored]) for key in stored[0]}
    looks = {one.name: Looks(whole[f"plain {one.name}"], whole[f"scenes {one.name}"]) for one in judges}
    return Measured(tuple(whole["names"].tolist()), whole["found"], whole["prompts"], looks)


def _table(options: argparse.Namespace, judges: Sequence[FaceJudge]) -> str:
    celebrities, known = _read(CELEBRITIES, options, judges), _read_gallery(options)
    if celebrities is None or known is None:
        return "The gallery and the celebrities have to be measured first: leave out --only.\n"
    rows = {name: row for row, name in enumerate(known["names"].tolist())}
    lines = [f"{len(rows)} celebrities in the gallery"]
    for part in (CELEBRITIES, *WAYS):
        if (people := _read(part, options, judges)) is None:
            continue
        count = len(people.names)
        lines += ["", f"{part} ({count} people)"]
        lines.append(_line("face found", *interval(_mean_of(people.found), count)))
        lines.append(_line("prompt followed", *interval(_mean_of(people.prompts), count)))
        for judge in judges:
            lines += _lines_of(
                judge,
                people.looks[judge.name],
                celebrities.looks[judge.name],
                known[judge.name],
                [rows.get(name) for name in people.names],
            )
    if (file := options.results / "steered.npz").exists():
        with np.load(file) as stored:
            lines += ["", f"likeness of one more image to the marked person ({MARKED} people)"]
            for kind, values in stored.items():
                lines.append(_line(kind, *interval(_mean_of(values), len(values))))
    return "\n".join(lines) + "\n"


def _mean_of(values: np.ndarray) -> Callable[[npt.NDArray[np.int64]], float]:
    """The mean of the values of some people, by their rows."""
    return lambda at: float(np.nanmean(values[at]))


def _lines_of(
    judge: FaceJudge, looks: Looks, celebrities: Looks, known: np.ndarray, own: Sequence[int | None]
) -> list[str]:
    count = len(looks.plain)
    apart, theirs_apart = different_people(looks, judge), different_people(celebrities, judge)
    figures = {"different people": apart, "nearest celebrity": nearest_celebrity(looks, judge, known, own)}
    lines = []
    for label, scenes in (("same over seeds", False), ("same in scenes", True)):
        same, theirs = (same_person(one, judge, scenes=scenes) for one in (looks, celebrities))
        figures[label] = same
        lines.append(
            _line(f"{judge.name}: {label}, share of a celebrity's", *share_of(same, apart, theirs, theirs_apart))
        )
    return [
        _line(f"{judge.name}: {label}", *interval(_mean_of(values), count)) for label, values in figures.items()
    ] + lines


def _line(label: str, value: float, low: float, high: float) -> str:
    return f"  {label:<60} {value:6.3f}  ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
