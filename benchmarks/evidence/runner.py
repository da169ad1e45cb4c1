"""Runs a plan cell by cell. Cells that are finished are not run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.evidence.methods import KnownName, Method, Trained, Untuned
from benchmarks.evidence.metrics import Evaluator
from benchmarks.evidence.plan import GROUP_SIZES, Plan, groups_of, shortened
from benchmarks.evidence.precompute import Precomputed
from benchmarks.evidence.results import Cell, Finished, Measurements, Results
from benchmarks.evidence.testbed import EvidenceTestbed, Person, Stranger
from celeb_basis.errors import CelebBasisError, TrainingError

_STRANGERS = "strangers"
"""Those whom methods learn, beside those whom the model knows by name, who are called by their references."""


@dataclass(frozen=True)
class Progress:
    """One cell of a run was handled."""

    cell: Cell
    number: int
    total: int
    status: str
    """``"new"``, ``"known"`` for one that was finished before, or a sentence that says why there is no result."""


def cells_of(
    testbed: EvidenceTestbed, plan: Plan, known: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[tuple[Cell, Method]]:
    """All cells in the order in which they are run: groups outermost, so that encoded views are reused.

    Args:
        testbed: What methods are measured on.
        plan: What is run.
        known: The names of :meth:`Precomputed.known_people`, by their references.
    """
    protocol = {
        "testbed": testbed.key,
        "images_per_prompt": plan.images_per_prompt,
        "sampling_steps": testbed.sampler.steps,
        "guidance": testbed.sampler.guidance,
        "prompts": [[case.prompt, case.label] for case in (*testbed.prompts, *testbed.pair_prompts)],
    }
    strangers = [stranger.name for stranger in testbed.strangers]
    found: list[tuple[int, int, Cell, Method]] = []
    for order, one in enumerate(plan.methods):
        if isinstance(one, Untuned):
            continue
        method = shortened(one, plan.steps)
        names = list(known.get(one.references, ())) if isinstance(one, KnownName) else strangers
        count, seeds = plan.extent(one.name)
        for group in groups_of(names[: min(count, plan.strangers)], GROUP_SIZES.get(one.name, 2)):
            first = names.index(group[0])
            for seed in seeds:
                milestones = plan.milestones_of(one.name, first, seed)
                cell = Cell(one.name, method.describe(), group, seed, milestones, protocol)
                found.append((seed * len(strangers) + first, order, cell, method))
    return [(cell, method) for _, _, cell, method in sorted(found, key=lambda row: row[:2])]


def run(
    testbed: EvidenceTestbed,
    plan: Plan,
    results: Results,
    *,
    cache: Path | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Progress]:
    """Run what is missing, yielding after each cell.

    A method that cannot run on this testbed (a LoRA without access to the denoiser, say) is reported and skipped.

    Args:
        testbed: What methods are measured on.
        plan: What is run.
        results: Where finished cells are read from and saved to.
        cache: Folder of files that can be computed again; by default the results' own.
        share: A worker's number and how many workers there are. All cells of a pair of strangers and a seed belong to
            the same worker.
    """
    shared = Precomputed(testbed, cache or results.folder)
    people: dict[str, tuple[Person, ...]] = {_STRANGERS: testbed.strangers, **_known_people(shared, plan)}
    cells = cells_of(testbed, plan, {kind: [one.name for one in known] for kind, known in people.items()})
    if share[1] > 1:
        places = {person.name: at // 2 for group in people.values() for at, person in enumerate(group)}
        cells = [one for one in cells if (places[one[0].group[0]] + one[0].seed) % share[1] == share[0]]
    evaluators: dict[str, Evaluator] = {}
    seconds: dict[tuple[str, tuple[str, ...], int], float] = {}
    finished = results.by_key()
    for number, (cell, method) in enumerate(cells, 1):
        measurements, status = finished.get(cell.key), "known"
        if measurements is None:
            kind = _kind(method)
            try:
                if kind not in evaluators:
                    evaluators[kind] = Evaluator(testbed, plan.images_per_prompt, people[kind])
                by_name = {person.name: person for person in people[kind]}
                group = [by_name[name] for name in cell.group]
                budget = None
                if isinstance(method, Trained) and method.same_time_as:
                    budget = _budget(seconds, cell, method)
                measurements, status = measured(cell, method, shared, group, evaluators[kind], budget), "new"
                results.save(cell, measurements)
            except CelebBasisError as error:
                yield Progress(cell, number, len(cells), str(error))
                continue
        if measurements:
            seconds[cell.method, cell.group, cell.seed] = measurements[-1]["seconds"] * len(cell.group)
        yield Progress(cell, number, len(cells), status)


def _kind(method: Method) -> str:
    """Whom a method is measured on."""
    return method.references if isinstance(method, KnownName) else _STRANGERS


def _known_people(shared: Precomputed, plan: Plan) -> dict[str, tuple[Person, ...]]:
    """The people of the ceilings, by their references; nobody where the model draws too few of its names."""
    found: dict[str, tuple[Person, ...]] = {}
    for method in plan.methods:
        if isinstance(method, KnownName):
            try:
                found[method.references] = shared.known_people(method.references)
            except TrainingError as error:
                shared.testbed.report.say(f"There is no ceiling: {error}")
                found[method.references] = ()
    return found


def measured(
    cell: Cell,
    method: Method,
    shared: Precomputed,
    group: Sequence[Person],
    evaluator: Evaluator,
    budget: float | None = None,
) -> Measurements:
    """Learn the ``group`` of a cell: one entry per milestone, with its costs per person and its metrics."""
    measurements = []
    if isinstance(method, (KnownName, Untuned)):
        free = {"step": 0, "evaluations": 0.0, "seconds": 0.0, "encoding_seconds": 0.0}
        return [{**free, **evaluator.measure(group, {}, cell.seed)}]
    strangers = [one for one in group if isinstance(one, Stranger)]
    for milestone in method.learn(shared, strangers, cell.seed, cell.milestones, budget):
        costs = {
            "step": milestone.step,
            "evaluations": milestone.evaluations / len(group),
            "seconds": milestone.seconds / len(group),
            "encoding_seconds": milestone.encoding_seconds / len(group),
        }
        measurements.append({**costs, **evaluator.measure(group, milestone.token_vectors, cell.seed)})
    return measurements


def _budget(seconds: dict[Any, float], cell: Cell, method: Trained) -> float:
    key = (method.same_time_as, cell.group, cell.seed)
    if key not in seconds:
        raise CelebBasisError(f"{method.name} is given the time of {method.same_time_as}: put that first in the plan.")
    return seconds[key]


def matching(results: Results, plan: Plan, testbed: str | None = None) -> list[Finished]:
    """Finished cells that were learned and measured as ``plan`` says.

    Results may also hold cells with other steps, images and recipes: they are never averaged with these.

    Args:
        results: The finished cells.
        plan: The methods and the protocol.
        testbed: The key of the testbed; any if ``None``.
    """
    recipes = {one.name: shortened(one, plan.steps).describe() for one in plan.methods}
    wanted = {
        "images_per_prompt": plan.images_per_prompt,
        **({} if testbed is None else {"testbed": testbed}),
    }
    best: dict[tuple[Any, ...], Finished] = {}
    for cell, measurements in results.all():
        if recipes.get(cell.method) != cell.recipe or any(
            cell.protocol.get(key) != value for key, value in wanted.items()
        ):
            continue
        tracked = cell.milestones == plan.milestones
        key = (cell.protocol["testbed"], cell.method, cell.group, cell.seed)
        # A run that is measured at every milestone includes all that one measured at its end alone holds.
        if tracked or (cell.milestones == plan.milestones[-1:] and key not in best):
            best[key] = cell, measurements
    return list(best.values())
