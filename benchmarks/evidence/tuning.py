"""Tuning of the baselines on people who are not evaluated, so that no baseline loses because its settings were never chosen.

The candidates are run and measured as everything else, at several shares of their steps, on their own strangers. The best are
written to ``tuned.json``, which plans read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.evidence.methods import Method, Trained, Untuned
from benchmarks.evidence.plan import (
    LORA_TUNED,
    LORA_TUNED_TIMED,
    PAPER,
    TEXTUAL_INVERSION_TUNED,
    TEXTUAL_INVERSION_TUNED_TIMED,
    TIMED,
    Plan,
)
from benchmarks.evidence.precompute import Space
from benchmarks.evidence.results import Results
from benchmarks.evidence.runner import matching
from benchmarks.evidence.summary import Point, Row, summarize
from benchmarks.evidence.testbed import EvidenceTestbed, Stranger
from celeb_basis.errors import FileError, TrainingError
from celeb_basis.files import write_json
from celeb_basis.reading import read_json
from celeb_basis.settings import PRESETS

STEPS = 800
"""Of a candidate: twice *paper*'s."""

SHARES = (1 / 4, 1 / 2, 1.0)
"""At which it is measured; :data:`PAPERS_SHARE` of its steps are as many as *paper*'s."""

PAPERS_SHARE = 1 / 2

INVERSIONS = ((5e-4, "person"), (2e-3, "person"), (5e-3, "person"), (2e-2, "person"), (5e-3, "face"))
"""Learning rates and first words of textual inversion."""
LORAS = ((1e-4, 4), (3e-4, 4), (1e-3, 4), (3e-3, 4), (3e-4, 16), (1e-3, 16))
"""Learning rates and ranks of the LoRA."""
FILE = "tuned.json"
_TEXTUAL_INVERSION, _LORA = "textual inversion", "LoRA"


def candidates() -> tuple[Trained, ...]:
    """Textual inversion and LoRA with several settings; their views and timesteps are those of *balanced*."""
    settings = replace(PRESETS["balanced"], start="random", steps=STEPS, average_decay=0.0, early_stop=False)
    free = Space("free")
    inversions = [
        Trained(
            f"{_TEXTUAL_INVERSION}, rate {rate:g}, {word}",
            replace(settings, learning_rate=rate),
            space=free,
            loop="free",
            start="person",
            word=word,
        )
        for rate, word in INVERSIONS
    ]
    loras = [
        Trained(
            f"{_LORA}, rate {rate:g}, rank {rank}",
            replace(settings, learning_rate=rate),
            space=free,
            loop="lora",
            rank=rank,
        )
        for rate, rank in LORAS
    ]
    return (*inversions, *loras)


def tuning_plan(plan: Plan) -> Plan:
    """The plan that measures all candidates as ``plan`` measures its methods, with one seed."""
    return replace(plan, methods=candidates(), seeds=plan.seeds[:1], milestones=SHARES, tracked=1_000_000, reduced=None)


@dataclass(frozen=True)
class Tuned:
    """The settings of a baseline that were chosen."""

    candidate: str
    steps: int
    score: float
    """Identity x Prompt x Detect on the strangers of tuning; Prompt counts as 1 where it is not measured."""


def choose(rows: Sequence[Row], plan: Plan) -> dict[str, Tuned]:
    """The best candidate of each baseline: at any of its milestones, and at the one with as many steps as *paper*'s.

    Args:
        rows: The candidates' results.
        plan: The plan that they were measured with; candidates without results do not count.
    """
    chosen: dict[str, Tuned] = {}
    steps = {one.name: _steps(one, plan) for one in candidates()}
    for family, timed, untimed in (
        (_TEXTUAL_INVERSION, TEXTUAL_INVERSION_TUNED_TIMED, TEXTUAL_INVERSION_TUNED),
        (_LORA, LORA_TUNED_TIMED, LORA_TUNED),
    ):
        found = [
            (share, Tuned(row.method, max(1, round(share * steps[row.method])), score(point)))
            for row in rows
            if row.method.startswith(family)
            for share, point in zip(SHARES[-len(row.points) :], row.points, strict=True)
        ]
        if found:
            chosen[untimed] = max((one for _, one in found), key=lambda one: one.score)
            at_papers = [one for share, one in found if share == PAPERS_SHARE]
            if at_papers:
                chosen[timed] = max(at_papers, key=lambda one: one.score)
    return chosen


def score(point: Point) -> float:
    """What candidates are compared by; 0 if no image shows a face."""
    identity, prompt, detect = (point.figures[name] for name in ("identity", "prompt", "detect"))
    if identity is None or detect is None:
        return 0.0
    return identity.value * detect.value * (1.0 if prompt is None else prompt.value)


def save_tuned(folder: Path, results: Results, plan: Plan, testbed: EvidenceTestbed) -> dict[str, Tuned]:
    """Choose from the finished candidates of a testbed, and write :data:`FILE` into ``folder``.

    Returns:
        What was chosen, by method.
    """
    rows = summarize(matching(results, plan, testbed.key), [one.name for one in candidates()])
    chosen = choose(rows, plan)
    stored = {
        "testbed": testbed.key,
        "strangers": [_digest(stranger) for stranger in testbed.strangers],
        "methods": {name: asdict(one) for name, one in chosen.items()},
    }
    write_json(folder / FILE, stored)
    return chosen


def read_tuned(folder: Path, strangers: Sequence[Stranger] = ()) -> dict[str, Tuned]:
    """What was chosen, by method; nothing if there is no :data:`FILE` in ``folder``.

    Args:
        folder: Where :func:`save_tuned` wrote it.
        strangers: The people who are evaluated.

    Raises:
        FileError: If it is damaged.
        TrainingError: If one of ``strangers`` was tuned on.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        stored = read_json(path)
        seen = set(stored["strangers"])
        found = {str(name): Tuned(**values) for name, values in stored["methods"].items()}
    except (FileError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path} is damaged ({error!r}): delete it, and tune again with --tune.") from error
    for stranger in strangers:
        if _digest(stranger) in seen:
            raise TrainingError(
                f"{stranger.name} is one of those whom the baselines were tuned on, and would favor them: evaluate other "
                f"people, or delete {path} and tune on others."
            )
    return found


def _digest(stranger: Stranger) -> str:
    return hashlib.sha256(stranger.portrait.picture.tobytes()).hexdigest()


def with_tuned(plan: Plan, tuned: dict[str, Tuned]) -> Plan:
    """The plan with the tuned baselines; those that are not tuned yet are left out.

    Raises:
        FileError: If a tuned candidate is none of :func:`candidates`.
    """
    known = {one.name: one for one in candidates()}
    methods: list[Method] = []
    for method in plan.methods:
        if not isinstance(method, Untuned):
            methods.append(method)
        elif (one := tuned.get(method.name)) is not None:
            if one.candidate not in known:
                raise FileError(f"{FILE} names {one.candidate!r}, which is no candidate: tune again with --tune.")
            candidate = known[one.candidate]
            timed = method.name in TIMED
            settings = replace(candidate.settings, steps=PRESETS["paper"].steps if timed else one.steps)
            methods.append(replace(candidate, name=method.name, settings=settings, same_time_as=PAPER if timed else ""))
    return replace(plan, methods=tuple(methods))


def _steps(method: Trained, plan: Plan) -> int:
    return min(method.settings.steps, plan.steps or method.settings.steps)
