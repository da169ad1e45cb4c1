"""``python -m benchmarks.face_guidance``: face guidance on the miniature, by the learning network and by independent judges.

Strangers get the coefficients that the presets' first guess gives for their photo, without training, and are generated with
every strength from the same noise. Each face is compared with other photos of the stranger. The network that guides is
optimized, so that its own figure is only a check; the judges are dlib's network and MobileFaceNet, which nothing here was
trained with. What was measured is kept in ``--results``, a file for each strength; an interrupted run goes on with the next
stranger.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.testbed import EvidenceTestbed, FaceJudge, PromptCase
from benchmarks.invention.measures import interval
from celeb_basis.basis import BasisOptions, build_bases, fitting_components
from celeb_basis.diffusion_model import GenerationRequest, TokenVectors
from celeb_basis.events import follow
from celeb_basis.faces import guidance
from celeb_basis.faces.guidance import FaceGuidance, open_recognizer, portrait_vector
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import Floats
from celeb_basis.files import atomic_path
from celeb_basis.settings import PRESETS
from celeb_basis.training.first_guess import celebrity_faces_for, first_guesses, guess_for_portraits

STRENGTHS = (0.0, 0.25, 0.5, 1.0)
_SCENES = (0, 2, 4)
"""Which of the testbed's prompts: one image of each."""
_SCALE = 4.0
_FOUND, _PROMPT, _SECONDS = "found", "prompt", "seconds"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print the table of what is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.face_guidance", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, metavar="FOLDER", help="where measurements are kept")
    parser.add_argument("--strangers", type=int, default=12, metavar="N", help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="sampling steps (%(default)s)")
    parser.add_argument(
        "--full-step", type=float, default=guidance.FULL_STEP, metavar="X", help="of strength 1 (%(default)s)"
    )
    parser.add_argument(
        "--skipped", type=int, default=0, metavar="N", help="strangers left out before them, to tune on"
    )
    parser.add_argument("--strength", type=float, action="append", metavar="X", help="measure only this")
    options = parser.parse_args(arguments)
    guidance.FULL_STEP = options.full_step
    wanted = options.strength or list(STRENGTHS)
    if missing := [one for one in wanted if len(_stored(options, one)[_FOUND]) < options.strangers]:
        _measure(options, missing)
    sys.stdout.write(_table(options, wanted))
    return 0


def _measure(options: argparse.Namespace, strengths: Sequence[float]) -> None:
    from benchmarks.evidence.miniature import miniature_testbed
    from benchmarks.evidence.real_weights import mobile_face_net

    report = Reporter()
    testbed = miniature_testbed(None, strangers=options.strangers, skipped=options.skipped, report=report)
    judges = [one for one in (testbed.second_judge, testbed.judge, mobile_face_net(report)) if one is not None]
    cases = [testbed.prompts[place] for place in _SCENES]
    words = _words(testbed)
    known = [
        {
            judge.name: np.stack([judge.embed(one, testbed.detect(one)[0]) for one in stranger.references])
            for judge in judges
        }
        for stranger in testbed.strangers
    ]
    assert isinstance(testbed.faces, InsightFaceNetwork)
    recognizer = open_recognizer(testbed.faces)
    done = {strength: _stored(options, strength) for strength in strengths}
    for number, (stranger, vectors) in enumerate(zip(testbed.strangers, words, strict=True)):
        target = portrait_vector(stranger.portrait.picture, testbed.faces)
        for strength, rows in done.items():
            if number < len(rows[_FOUND]):
                continue
            report.say(f"measuring stranger {number + 1} with strength {strength:g}")
            request = GenerationRequest(
                "",
                placeholder_tokens={"<x>": vectors},
                steps=options.steps,
                guidance=_SCALE,
                refine=FaceGuidance(testbed.faces, recognizer, [target], strength) if strength else None,
            )
            images = [
                _image(
                    testbed,
                    judges,
                    known[number],
                    case,
                    replace(request, prompt=case.prompt.format("<x>"), seed=1000 + 10 * number + place),
                )
                for place, case in enumerate(cases)
            ]
            for key in images[0]:
                row = np.array([[one[key] for one in images]])
                rows[key] = np.concatenate([rows[key], row]) if key in rows and len(rows[key]) else row
            _save(_file(options, strength), rows)


def _stored(options: argparse.Namespace, strength: float) -> dict[str, np.ndarray]:
    """``(S, C)`` arrays of what was measured of the first strangers."""
    file = _file(options, strength)
    if not file.exists():
        return {_FOUND: np.zeros((0, len(_SCENES)))}
    with np.load(file) as stored:
        return dict(stored)


def _save(file: Path, rows: dict[str, np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **rows)  # type: ignore[arg-type]


def _words(testbed: EvidenceTestbed) -> list[TokenVectors]:
    """Each stranger's token vectors: the first guess of the presets."""
    settings = PRESETS["quick"]
    encoders = testbed.model.text_encoders
    options = BasisOptions(components=fitting_components(encoders, settings.components))
    bases = [one.basis for one in build_bases(encoders, testbed.names, options)]
    known = follow(celebrity_faces_for(testbed.model, bases, testbed.faces, settings, testbed.known_faces))
    guesses = first_guesses(bases, known)
    return [
        [
            basis.expand(one)
            for basis, one in zip(
                bases, guess_for_portraits(bases, guesses, [stranger.portrait], shared=False), strict=True
            )
        ]
        for stranger in testbed.strangers
    ]


def _image(
    testbed: EvidenceTestbed,
    judges: Sequence[FaceJudge],
    references: dict[str, Floats],
    case: PromptCase,
    request: GenerationRequest,
) -> dict[str, float]:
    """What is measured of one image."""
    began = time.process_time()
    (image,) = testbed.model.generate(request)
    seconds = time.process_time() - began
    pixels = np.asarray(image)
    faces = testbed.detect(pixels)
    score = testbed.score_prompts([pixels], [case])[0]
    measured = {
        _FOUND: float(bool(faces)),
        _PROMPT: float("nan") if score is None else score,
        _SECONDS: seconds,
    }
    for judge in judges:
        alike = float("nan")
        if faces:
            own = np.asarray(judge.embed(pixels, faces[0]))[None]
            alike = float(judge.likeness(own, references[judge.name]).mean())
        measured[judge.name] = alike
    return measured


def _file(options: argparse.Namespace, strength: float) -> Path:
    folder: Path = options.results
    return folder / f"{options.skipped}-{options.strangers}-{options.steps}-{options.full_step:g}-{strength:g}.npz"


def _table(options: argparse.Namespace, strengths: Sequence[float]) -> str:
    everything = {strength: _stored(options, strength) for strength in strengths}
    count = min(len(one[_FOUND]) for one in everything.values())
    if not count:
        return "Nothing is measured yet.\n"
    measured = {strength: {key: one[:count] for key, one in rows.items()} for strength, rows in everything.items()}
    plain = measured.get(0.0)
    first = next(iter(measured.values()))
    lines = [f"{first[_FOUND].shape[0]} strangers, {first[_FOUND].shape[1]} images each, {options.steps} steps"]
    for strength, figures in measured.items():
        lines += ["", f"face guidance {strength:g}"]
        for key, values in figures.items():
            value, low, high = _mean(values)
            line = f"  {key:<16} {value:7.3f}  ({low:.3f} to {high:.3f})"
            if plain is not None and strength and key != _SECONDS:
                value, low, high = _mean(values - plain[key])
                line += f"   difference {value:+.3f}  ({low:+.3f} to {high:+.3f})"
            lines.append(line)
    return "\n".join(lines) + "\n"


def _mean(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over strangers with its 95 % interval from resampling them; images without a face do not count."""
    of_people = np.array([np.nanmean(row) if np.isfinite(row).any() else np.nan for row in values])
    return interval(lambda at: float(np.nanmean(of_people[at])), len(of_people))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
