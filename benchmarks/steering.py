"""``python -m benchmarks.steering``: whether steering changes what it says, by judges that no training saw, on the miniature.

Invented people are steered to celebrities whom the model knows, and the judges compare their images with the celebrity's and
with the person's own. Groups are measured by what images show of them: groups are made of how light
the people's skins are, which an image shows as brightness. What was measured of each person is kept in
``--results``, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.testbed import EvidenceTestbed, FaceJudge, generate
from benchmarks.invention.measures import interval
from celeb_basis.basis import BasisOptions, build_bases, fitting_components
from celeb_basis.faces.network import DetectedFace, Pixels
from celeb_basis.files import atomic_path
from celeb_basis.identities.expand import tensors_of
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.invention import Inventor
from celeb_basis.identities.steering import celebrity_direction, group_direction, turned
from celeb_basis.method import Basis
from celeb_basis.names.lists import NameList, name_list

STRENGTHS = (-0.6, 0.0, 0.3, 0.6, 1.0)
"""Of steering to a celebrity."""

GROUP_STRENGTHS = (-0.6, 0.6)
UNSTEERED = "toward 0"
SEEDS = 2
"""Images of each person at each strength."""

CELEBRITY, GROUP = "celebrity", "group"
"""What is measured of a person: steering to a celebrity, and along a group."""

BRIGHT, DARK = "bright", "dark"
MEANS, DISCRIMINANT = "means", "discriminant"
"""Directions of a group: from the others' mean to its own, and that of the regularized linear discriminant."""

_SEED, _THEIR_SEED = 80_000, 82_000
_SHRINKAGE = 1.0
_FOLDS = 5

Floats: TypeAlias = npt.NDArray[np.float64]
Direction: TypeAlias = Callable[[NameList, Basis], torch.Tensor]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not known yet, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steering", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, metavar="FOLDER", help="where measurements are kept")
    parser.add_argument("--people", type=int, default=12, metavar="N", help="people who are steered (%(default)s)")
    parser.add_argument("--table", action="store_true", help="print what is known, and measure nothing")
    options = parser.parse_args(arguments)
    report = Reporter()
    study = Study(report)
    people: list[dict[str, np.ndarray]] = [{} for _ in range(options.people)]
    for part in (CELEBRITY, GROUP):
        for number, known in enumerate(people):
            file = options.results / f"{part}-{number}.npz"
            if not file.exists() and not options.table:
                report.say(f"{part}: steering person {number + 1} of {options.people}")
                _save(file, study.measure(number, part))
            if file.exists():
                with np.load(file) as stored:
                    known |= dict(stored)
    sys.stdout.write("\n".join([*study.directions(), "", *table(people, study.judges)]) + "\n")
    return 0


class Study:
    """The miniature, its names with groups by the brightness of their faces, and the judges."""

    def __init__(self, report: Reporter) -> None:
        from benchmarks.evidence.miniature import miniature_testbed
        from benchmarks.evidence.real_weights import mobile_face_net

        testbed = miniature_testbed(None, strangers=0, report=report)
        encoders = testbed.model.text_encoders
        options = BasisOptions(fitting_components(encoders, 512))
        self.testbed: EvidenceTestbed = testbed
        self.judges: list[FaceJudge] = [one for one in (testbed.judge, mobile_face_net(report)) if one is not None]
        self.bases = tuple(one.basis for one in build_bases(encoders, testbed.names, options))
        self.names = _names_by_brightness(testbed.names)
        self.inventor = Inventor(self.bases, testbed.model.info, testbed.names)

    def measure(self, number: int, part: str) -> dict[str, np.ndarray]:
        """What images show of one person, steered and not, and of the celebrity.

        Args:
            number: The seed of the person, by which the celebrity is drawn, too.
            part: :data:`CELEBRITY` or :data:`GROUP`.

        Returns:
            By ``"judge: kind"``, ``(images, D)`` vectors, NaN where no face was found; by ``"light: kind"``, ``(images,)``
            brightness of the face. The kinds are ``"celebrity"``, ``"toward 0.3"`` and the like, and ``"means 0.6"`` and
            the like; all but the first have the same seeds.
        """
        person = self.inventor.invent(number, name=f"person {number}")
        celebrity = self._celebrity(number, person.metadata.settings["vectors_of"])
        vectors = self._steered(person, celebrity, part)
        subjects = {kind: (f"<{kind}>", _SEED + SEEDS * number) for kind in vectors}
        if part == CELEBRITY:
            subjects["celebrity"] = (celebrity, _THEIR_SEED + SEEDS * number)
        jobs = [(kind, who, seed + at) for kind, (who, seed) in subjects.items() for at in range(SEEDS)]
        prompt = self.testbed.prompts[0].prompt
        tokens = {f"<{kind}>": rows for kind, rows in vectors.items()}
        images = generate(
            self.testbed, [prompt.format(who) for _, who, _ in jobs], tokens, [seed for _, _, seed in jobs]
        )
        faces = [self.testbed.detect(image) for image in images]
        seen: dict[str, list[npt.NDArray[np.float32] | None]] = {}
        light: dict[str, list[float]] = {}
        for (kind, _, _), image, found in zip(jobs, images, faces, strict=True):
            light.setdefault(f"light: {kind}", []).append(_brightness(image, found[0]) if found else np.nan)
            for judge in self.judges:
                seen.setdefault(f"{judge.name}: {kind}", []).append(judge.embed(image, found[0]) if found else None)
        return {key: _rows(rows) for key, rows in seen.items()} | {key: np.array(rows) for key, rows in light.items()}

    def directions(self) -> list[str]:
        """How well directions of groups tell names apart that they were not made from, as lines.

        The figure is the probability that a name of the group lies further along the direction than one of another group.
        """
        from celeb_basis.names.lists import shipped_names

        shipped = dict(zip(shipped_names().names, shipped_names().columns, strict=True))
        rows = [shipped.get(name, ()) for name in self.testbed.names.names]
        listed = name_list(self.testbed.names.names, "the shipped list's columns", rows)
        lines = []
        for names, group in ((self.names, BRIGHT), (listed, "women")):
            for kind, direction in (
                (MEANS, lambda n, b, g=group: group_direction(g, n, b)),
                (DISCRIMINANT, lambda n, b, g=group: discriminant(g, n, b)),
            ):
                apart = held_out(names, group, self.bases[0], direction)
                lines.append(f"{group}, {kind}: held-out names separated {apart:.2f}")
        return lines

    def _celebrity(self, number: int, halves: Sequence[str]) -> str:
        names: Sequence[str] = self.testbed.names.names
        order = np.random.default_rng([80, number]).permutation(len(names))
        return next(name for name in (names[int(place)] for place in order) if name not in halves)

    def _steered(self, person: Identity, celebrity: str, part: str) -> dict[str, list[torch.Tensor]]:
        own, found = tensors_of(person.coefficients), {}
        ways: dict[str, tuple[Sequence[float], Direction]] = {
            MEANS: (GROUP_STRENGTHS, lambda names, basis: group_direction(BRIGHT, names, basis)),
            DISCRIMINANT: (GROUP_STRENGTHS, lambda names, basis: discriminant(BRIGHT, names, basis)),
        }
        if part == CELEBRITY:
            ways = {"toward": (STRENGTHS, lambda _, basis: celebrity_direction(celebrity, basis))}
        for kind, (strengths, direction) in ways.items():
            for strength in strengths:
                found[f"{kind} {strength:g}"] = [
                    basis.expand(turned(rows, strength * direction(self.names, basis)))
                    for rows, basis in zip(own, self.bases, strict=True)
                ]
        return found


def discriminant(group: str, names: NameList, basis: Basis) -> torch.Tensor:
    """``(E, K)``: the direction of Fisher's linear discriminant, its covariance shrunk toward a multiple of the identity."""
    rows = basis.name_coefficients.cpu().double().flatten(1)
    difference = group_direction(group, names, basis).double().flatten()
    members = _members(group, names, basis)
    within = torch.cat([rows[part] - rows[part].mean(0) for part in (members, ~members)])
    covariance = within.T @ within / len(within)
    covariance += _SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    found = torch.linalg.solve(covariance, difference)
    direction: torch.Tensor = (found / found.norm() * basis.positions**0.5).float()
    return direction.reshape(basis.positions, basis.size)


def held_out(names: NameList, group: str, basis: Basis, direction: Direction) -> float:
    """Probability that a held-out name of the group lies further along the direction than one of another group."""
    from dataclasses import replace

    members = _members(group, names, basis).numpy()
    folds = np.random.default_rng(5).permutation(len(basis.names)) % _FOLDS
    wins = []
    for fold in range(_FOLDS):
        kept = np.flatnonzero(folds != fold)
        part = replace(
            basis,
            names=tuple(basis.names[place] for place in kept),
            name_coefficients=basis.name_coefficients[torch.from_numpy(kept)],
        )
        along = (basis.name_coefficients * direction(names, part)).sum((1, 2)).numpy()
        inside, outside = along[(folds == fold) & members], along[(folds == fold) & ~members]
        wins.append(float((inside[:, None] > outside[None]).mean()))
    return float(np.mean(wins))


def table(people: Sequence[Mapping[str, np.ndarray]], judges: Sequence[FaceJudge]) -> list[str]:
    """Lines with the figures of all people and their intervals."""
    kinds = [f"toward {strength:g}" for strength in STRENGTHS]
    group_kinds = [f"{MEANS} {strength:g}" for strength in GROUP_STRENGTHS]
    group_kinds += [f"{DISCRIMINANT} {strength:g}" for strength in GROUP_STRENGTHS]
    both = (*kinds, *group_kinds)
    light = {kind: [one[f"light: {kind}"] for one in people if f"light: {kind}" in one] for kind in both}
    kinds, group_kinds = ([kind for kind in some if light[kind]] for some in (kinds, group_kinds))
    both = (*kinds, *group_kinds)
    lines = [f"{len(light[UNSTEERED])} people steered to a celebrity, {SEEDS} images each"]
    lines += [f"{len(light[kind])} people steered by {kind}" for kind in group_kinds]
    lines += [f"face found, fewest of any kind: {min(float(np.isfinite(light[kind]).mean()) for kind in both):.3f}"]
    for judge in judges:
        lines += ["", f"{judge.name}: likeness to the celebrity"]
        lines += [_line(kind, alike(people, judge, kind, "celebrity")) for kind in kinds]
        lines += [f"{judge.name}: likeness to the person's own images"]
        lines += [_line(kind, alike(people, judge, kind, UNSTEERED)) for kind in both]
        lines += [f"{judge.name}: likeness of the celebrity's images"]
        lines += [_line("celebrity", alike(people, judge, "celebrity", "celebrity"))]
    lines += ["", "brightness of the face, difference to the unsteered person's"]
    for kind in group_kinds:
        key = f"light: {kind}"
        lines.append(
            _line(kind, np.array([_mean(p[key]) - _mean(p[f"light: {UNSTEERED}"]) for p in people if key in p]))
        )
    return lines


def alike(people: Sequence[Mapping[str, np.ndarray]], judge: FaceJudge, kind: str, other: str) -> Floats:
    """``(P,)`` mean likeness of images of one kind to those of another, or to the person's unsteered ones with another seed."""
    figures = []
    keys = (f"{judge.name}: {kind}", f"{judge.name}: {other}")
    for one in people:
        if not one.keys() >= {*keys}:
            continue  # not measured yet
        values = np.array(judge.likeness(*(one[key] for key in keys)), float)
        if other in (kind, UNSTEERED):
            np.fill_diagonal(values, np.nan)
        figures.append(_mean(values))
    return np.array(figures)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _line(label: str, values: Floats) -> str:
    value, low, high = interval(lambda at: float(np.nanmean(values[at])), len(values))
    return f"  {label:<20} {value:7.3f}  ({low:.3f} to {high:.3f})"


def _members(group: str, names: NameList, basis: Basis) -> torch.Tensor:
    """``(N,)`` whether each of the basis' names is in the group."""
    _, column = names.find_group(group)
    known = {name: row[column] for name, row in zip(names.names, names.columns, strict=True) if len(row) > column}
    return torch.tensor([known.get(name) == group for name in basis.names])


def _names_by_brightness(names: NameList) -> NameList:
    """The miniature's names with the lighter and the darker half of their people's skins as groups."""
    from miniature.people3d.person import draw_person
    from miniature.world.people import read_people

    people = read_people()
    light = {
        name: -draw_person(number, people.spread).skin.darkness
        for name, number in zip(people.names, people.named, strict=True)
    }
    middle = np.median([light[name] for name in names.names])
    columns = [(BRIGHT if light[name] > middle else DARK,) for name in names.names]
    return name_list(names.names, "the skins' lightness", columns)


def _brightness(image: Pixels, face: DetectedFace) -> float:
    """Mean of the middle of a face, 0 to 255."""
    left, top, right, bottom = (float(value) for value in face.box)
    width, height = right - left, bottom - top
    rows = slice(max(0, round(top + 0.25 * height)), round(bottom - 0.2 * height))
    columns = slice(max(0, round(left + 0.25 * width)), round(right - 0.25 * width))
    return float(image[rows, columns].mean())


def _rows(vectors: Sequence[npt.NDArray[np.float32] | None]) -> npt.NDArray[np.float32]:
    width = next((len(one) for one in vectors if one is not None), 1)
    return np.stack([np.full(width, np.nan, np.float32) if one is None else one for one in vectors])


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
