"""``python -m benchmarks.places``: two people in one image, by judges that no training saw.

Names that the model knows stand for the people, so that nothing of learning is in the figures. Each pair is asked for as the
prompt has them, the first-named on the left, and exchanged. On each side of an image, a face is compared with everybody's
images alone: the nearest may be the side's own person, the other one of the two, which is bleeding, or another person.
What was measured is kept in ``--results``, so that parts can be measured one after another (``--only``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.testbed import EvidenceTestbed, FaceJudge, generate
from benchmarks.invention.measures import interval
from benchmarks.places.ways import WAYS, RegionalModel, Way
from celeb_basis.faces.network import Floats, Pixels
from celeb_basis.files import atomic_path
from celeb_basis.prompts.places import Places, parse_places

PROMPT = "a photo of {} and {}"
ALONE = "a photo of {}, small, on the left"
"""One person, as small as each of two: what the model can show of a face of that size."""
GALLERY, ALONE_PART = "gallery", "alone"
ORDERS = {"named": "{}: left; {}: right", "exchanged": "{}: right; {}: left"}
GALLERY_IMAGES = 2
NOBODY, OWN, OTHER, ELSE = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, and print the table of what is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.places", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, metavar="FOLDER", help="where measurements are kept")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a miniature; by default the one that ships")
    parser.add_argument("--pairs", type=int, default=24, metavar="N", help="pairs of people (%(default)s)")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="images of each pair (%(default)s)")
    # Without places the images of both orders are the same, so one is measured.
    cells = [GALLERY, ALONE_PART, "without-named", *(f"{way}-{order}" for order in ORDERS for way in WAYS[1:])]
    parser.add_argument("--only", action="append", choices=cells, help="measure only this")
    options = parser.parse_args(arguments)
    report = Reporter()
    testbed, judges = _testbed(options.model, report)
    chosen = np.random.default_rng(11).permutation(len(testbed.names.names))[: 2 * options.pairs]
    names = [testbed.names.names[row] for row in chosen.tolist()]
    for cell in [one for one in cells if not options.only or one in options.only]:
        if not (file := options.results / f"{cell}-{options.pairs}-{options.seeds}.npz").exists():
            report.say(f"measuring {cell}")
            _save(file, _measured(cell, testbed, judges, names, options))
    sys.stdout.write(_table(options, cells, judges))
    return 0


def _testbed(model: Path | None, report: Reporter) -> tuple[EvidenceTestbed, list[FaceJudge]]:
    from benchmarks.evidence.miniature import miniature_testbed
    from benchmarks.evidence.real_weights import mobile_face_net

    testbed = miniature_testbed(model, strangers=0, report=report)
    third = mobile_face_net(report)
    return testbed, [testbed.judge, *([] if third is None else [third])]


def _measured(
    cell: str, testbed: EvidenceTestbed, judges: Sequence[FaceJudge], names: Sequence[str], options: argparse.Namespace
) -> dict[str, np.ndarray]:
    if cell == GALLERY:
        return _gallery(testbed, judges, names)
    with np.load(options.results / f"{GALLERY}-{options.pairs}-{options.seeds}.npz") as stored:
        known = {judge.name: stored[judge.name] for judge in judges}
    seeds = [500 + 10 * pair + number for pair in range(options.pairs) for number in range(options.seeds)]
    rows = [(2 * pair, 2 * pair + 1) for pair in range(options.pairs) for _ in range(options.seeds)]
    if cell == ALONE_PART:
        prompts = [ALONE.format(names[row[number % 2]]) for number, row in enumerate(rows)]
        images = generate(testbed, prompts, {}, seeds)
        sides = [(row[number % 2], row[1 - number % 2]) for number, row in enumerate(rows)]
        return {
            judge.name: np.array(
                [
                    _seen(testbed, judge, known[judge.name], image, own, other, whole=True)
                    for image, (own, other) in zip(images, sides, strict=True)
                ]
            )
            for judge in judges
        }
    way, order = cell.split("-")
    prompts = [PROMPT.format(names[one], names[other]) for one, other in rows]
    places = {
        prompt: _places(ORDERS[order].format(names[one], names[other]))
        for prompt, (one, other) in zip(prompts, rows, strict=True)
    }
    images = generate(_regional(testbed, places, way), prompts, {}, seeds)  # type: ignore[arg-type]
    sides = rows if order == "named" else [(other, one) for one, other in rows]
    return {
        judge.name: np.array(
            [
                [_seen(testbed, judge, known[judge.name], image, *who, side=side) for side, who in _both(left, right)]
                for image, (left, right) in zip(images, sides, strict=True)
            ]
        )
        for judge in judges
    }


def _both(left: int, right: int) -> tuple[tuple[int, tuple[int, int]], ...]:
    return (0, (left, right)), (1, (right, left))


def _places(text: str) -> Places:
    places = parse_places(text)
    assert places is not None
    return places


def _regional(testbed: EvidenceTestbed, places: dict[str, Places], way: Way) -> EvidenceTestbed:
    shape = testbed.sampler.latent_shape  # type: ignore[attr-defined]
    model = RegionalModel(testbed.model, testbed.denoiser, places, way, shape[1:])
    return replace(testbed, sampler=replace(testbed.sampler, model=model))  # type: ignore[type-var]


def _gallery(testbed: EvidenceTestbed, judges: Sequence[FaceJudge], names: Sequence[str]) -> dict[str, np.ndarray]:
    """``(P, D)`` by each judge: the mean of everybody's images alone."""
    prompts = [testbed.prompts[0].prompt.format(name) for _ in range(GALLERY_IMAGES) for name in names]
    seeds = [90_000 + 1000 * number + row for number in range(GALLERY_IMAGES) for row in range(len(names))]
    images = generate(testbed, prompts, {}, seeds)
    faces = [testbed.detect(image) for image in images]
    found: dict[str, np.ndarray] = {}
    for judge in judges:
        seen = [judge.embed(image, one[0]) if one else None for image, one in zip(images, faces, strict=True)]
        width = next(len(one) for one in seen if one is not None)
        vectors = np.stack([np.full(width, np.nan, np.float32) if one is None else one for one in seen])
        found[judge.name] = np.nanmean(vectors.reshape(GALLERY_IMAGES, len(names), width), axis=0)
    return found


def _seen(
    testbed: EvidenceTestbed,
    judge: FaceJudge,
    known: Floats,
    image: Pixels,
    own: int,
    other: int,
    *,
    side: int = 0,
    whole: bool = False,
) -> int:
    """Who is seen on a side of an image: its largest face there, compared with everybody."""
    middle = image.shape[1] / 2
    faces = [face for face in testbed.detect(image) if whole or int((face.box[0] + face.box[2]) / 2 >= middle) == side]
    if not faces:
        return NOBODY
    nearest = int(np.nanargmax(judge.likeness(np.asarray(judge.embed(image, faces[0]))[None], known)[0]))
    return OWN if nearest == own else OTHER if nearest == other else ELSE


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _table(options: argparse.Namespace, cells: Sequence[str], judges: Sequence[FaceJudge]) -> str:
    lines = [f"{options.pairs} pairs, {options.seeds} images each, among {2 * options.pairs} people"]
    for cell in cells:
        file = options.results / f"{cell}-{options.pairs}-{options.seeds}.npz"
        if cell == GALLERY or not file.exists():
            continue
        with np.load(file) as stored:
            for judge in judges:
                seen = stored[judge.name]
                lines += ["", f"{cell}, by {judge.name}"]
                lines += [
                    f"  {label:<24} {value:.3f}  ({low:.3f} to {high:.3f})"
                    for label, (value, low, high) in _figures(seen, options.pairs).items()
                ]
    return "\n".join(lines) + "\n"


def _figures(seen: np.ndarray, pairs: int) -> dict[str, tuple[float, float, float]]:
    """Shares with intervals from resampling the pairs.

    Args:
        seen: Who is seen, ``(N,)`` of images with one person or ``(N, 2)`` by side.
        pairs: How many pairs the ``N`` images are of, in order.
    """

    def share(hits: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
        of_pairs = hits.reshape(pairs, -1).astype(float).mean(1)
        return interval(lambda at: float(of_pairs[at].mean()), pairs)

    if seen.ndim == 1:
        return {"face found": share(seen != NOBODY), "recognized": share(seen == OWN)}
    return {
        "two faces": share((seen != NOBODY).all(1)),
        "each on their side": share(seen == OWN),
        "both on their sides": share((seen == OWN).all(1)),
        "the other on a side": share(seen == OTHER),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
