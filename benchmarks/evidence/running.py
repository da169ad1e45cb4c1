"""Running a plan, cell by cell; what was finished before is not run again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.evidence.bench import Bench
from benchmarks.evidence.contestants import Contestant, Trained
from benchmarks.evidence.measuring import Ruler
from benchmarks.evidence.plan import SIZES, Plan, groups_of, shortened
from benchmarks.evidence.results import Cell, Results
from benchmarks.evidence.world import EvidenceWorld
from celeb_basis.errors import CelebBasisError


@dataclass(frozen=True)
class Done:
    """One cell is finished, was finished before, or cannot be."""

    cell: Cell
    number: int
    total: int
    how: str
    """``"new"``, ``"kept"``, or a sentence that says why there is no result."""


def cells_of(world: EvidenceWorld, plan: Plan) -> list[tuple[Cell, Contestant]]:
    """Every cell, in the order in which they are run: groups outermost, so that encoded views are used again."""
    measured = {
        "world": world.key,
        "pictures": plan.pictures,
        "name_pictures": plan.name_pictures,
        "steps": world.steps,
        "guidance": world.guidance,
        "prompts": [[ask.prompt, ask.label] for ask in (*world.asks, *world.together)],
    }
    names = [stranger.name for stranger in world.strangers[: plan.strangers]]
    found: list[tuple[int, int, Cell, Contestant]] = []
    for order, one in enumerate(plan.contestants):
        contestant = shortened(one, plan.steps)
        strangers, seeds = plan.extent(one.name)
        for group in groups_of(names[:strangers], SIZES.get(one.name, 2)):
            first = names.index(group[0])
            for seed in seeds:
                how = {**measured, "milestones": list(plan.milestones_of(one.name, first, seed))}
                cell = Cell(one.name, contestant.describe(), group, seed, how)
                found.append((seed * len(names) + first, order, cell, contestant))
    return [(cell, contestant) for _, _, cell, contestant in sorted(found, key=lambda row: row[:2])]


def run(
    world: EvidenceWorld, plan: Plan, results: Results, *, cache: Path | None = None, share: tuple[int, int] = (0, 1)
) -> Iterator[Done]:
    """Run what is missing, yielding after each cell.

    A contestant that this world cannot hold (no recognition network with gradients, say) is told and left out.

    Parameters: ``cache`` is the folder of what can be made again, by default the results' own; ``share`` is a worker's
    number and how many there are: all cells of a pair of strangers and a seed are one worker's.
    """
    cells = cells_of(world, plan)
    if share[1] > 1:
        places = {stranger.name: place // 2 for place, stranger in enumerate(world.strangers)}
        cells = [one for one in cells if (places[one[0].group[0]] + one[0].seed) % share[1] == share[0]]
    bench = Bench(world, cache or results.folder, name_pictures=plan.name_pictures)
    ruler: Ruler | None = None
    strangers = {stranger.name: stranger for stranger in world.strangers}
    seconds: dict[tuple[str, tuple[str, ...], int], float] = {}
    for number, (cell, contestant) in enumerate(cells, 1):
        known = results.get(cell)
        how = "kept"
        if known is None:
            ruler = ruler or Ruler(world, plan.pictures)
            budget = None
            group = [strangers[name] for name in cell.group]
            try:
                if isinstance(contestant, Trained) and contestant.same_time_as:
                    budget = _budget(seconds, cell, contestant)
                known, how = [], "new"
                for milestone in contestant.learn(bench, group, cell.seed, cell.measured["milestones"], budget):
                    costs = {
                        "step": milestone.step,
                        "evaluations": milestone.evaluations / len(group),
                        "seconds": milestone.seconds / len(group),
                        "prepared": milestone.prepared / len(group),
                    }
                    known.append({**costs, **ruler.measure(group, milestone.words, cell.seed)})
                results.put(cell, known)
            except CelebBasisError as error:
                yield Done(cell, number, len(cells), str(error))
                continue
        if known:
            seconds[cell.contestant, cell.group, cell.seed] = known[-1]["seconds"] * len(cell.group)
        yield Done(cell, number, len(cells), how)


def _budget(seconds: dict[Any, float], cell: Cell, contestant: Trained) -> float:
    key = (contestant.same_time_as, cell.group, cell.seed)
    if key not in seconds:
        raise CelebBasisError(
            f"{contestant.name} needs the time of {contestant.same_time_as}: put it in the plan, first."
        )
    return seconds[key]


def matching(
    results: Results, plan: Plan, world: str | None = None
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Finished cells that were learned and measured as ``plan`` says, of the world of that key or of any.

    A folder may hold results of other steps, pictures and recipes: they are never averaged with these.
    """
    described = {one.name: shortened(one, plan.steps).describe() for one in plan.contestants}
    wanted = {
        "pictures": plan.pictures,
        "name_pictures": plan.name_pictures,
        **({} if world is None else {"world": world}),
    }
    best: dict[tuple[Any, ...], tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for cell, milestones in results.all():
        measured = cell["measured"]
        if described.get(cell["contestant"]) != cell["description"] or any(
            measured.get(key) != value for key, value in wanted.items()
        ):
            continue
        watched = measured["milestones"] == list(plan.milestones)
        key = (measured["world"], cell["contestant"], tuple(cell["group"]), cell["seed"])
        # A run that was measured on the way tells all that one measured at its end alone does.
        if watched or (measured["milestones"] == list(plan.milestones[-1:]) and key not in best):
            best[key] = cell, milestones
    return list(best.values())


def limited(plan: Plan, only: list[str]) -> Plan:
    """The plan with some contestants alone, and those whose time they need."""
    wanted = set(only)
    for one in plan.contestants:
        if one.name in wanted and isinstance(one, Trained) and one.same_time_as:
            wanted.add(one.same_time_as)
    return replace(plan, contestants=tuple(one for one in plan.contestants if one.name in wanted))
