"""Who competes in what, and in which order: first those that others need the time of, then the rest, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.evidence.contestants import Contestant, Trained, Untrained
from benchmarks.evidence.spaces import Space
from celeb_basis.settings import PRESETS, TrainingSettings

PAPER = "paper"
TEXTUAL_INVERSION = "textual inversion, same steps"
TEXTUAL_INVERSION_TIMED = "textual inversion, same time"
LORA = "LoRA, same time"
DESCRIBED = "views described"
TEXTUAL_INVERSION_DESCRIBED = "textual inversion, views described"
RANDOM, NEAREST, MEAN, GUESS = "random name", "nearest name", "mean", "first guess"
PRESETS_GUESS = "first guess, names drawn as by the presets"

_PAPER = PRESETS["paper"]
_OURS = replace(PRESETS["balanced"], early_stop=False)


def _textual_inversion(name: str, *, describe: bool = False, same_time_as: str = "") -> Trained:
    settings = replace(_PAPER, mode="direct", learning_rate=5e-3, average_decay=0.0, describe=describe)
    return Trained(name, settings, space=Space("free"), loop="free", start="person", same_time_as=same_time_as)


MAIN: tuple[Contestant, ...] = (
    Untrained(RANDOM, "random name"),
    Untrained(NEAREST, "nearest name"),
    Untrained(MEAN, "mean"),
    Untrained(GUESS, "first guess"),
    Untrained(PRESETS_GUESS, "presets' guess"),
    Trained(PAPER, _PAPER),
    _textual_inversion(TEXTUAL_INVERSION),
    _textual_inversion(TEXTUAL_INVERSION_TIMED, same_time_as=PAPER),
    Trained(
        LORA,
        replace(_PAPER, mode="direct", learning_rate=1e-3),
        space=Space("free"),
        loop="lora",
        same_time_as=PAPER,
    ),
    Trained("quick", replace(PRESETS["quick"], early_stop=False)),
    Trained("balanced", _OURS),
    Trained("best", PRESETS["best"]),
)
"""The comparison: what costs nothing, the paper's recipe, what others do, and our presets."""

BALANCED_BEFORE = "head and unit sphere"
"""What *balanced* was until learning began at the mean: the paper's head and sphere, with views described."""

LEFT = (
    BALANCED_BEFORE,
    "radius of celebrities",
    "low noise",
    "middle noise",
    "high noise",
    "face masked",
    "identity loss",
    "two-phase loss",
    "StableIdentity",
    "Cross Initialization",
    "three vectors",
    "four vectors",
    "start at the nearest name",
    "start at the first guess, unit sphere",
    "guess, radius, middle noise, mask",
    "best, fast",
    "best, large views",
    "best, face masked",
)
"""What was tried and left away: their code is gone, their results are kept."""


def _with(**changes: object) -> TrainingSettings:
    return replace(_PAPER, **changes)  # type: ignore[arg-type]


ABLATIONS: tuple[Contestant, ...] = (
    *(Trained(f"K = {size}", _with(components=size)) for size in (8, 32, 128)),
    *(Trained(f"{names} names", _PAPER, space=Space(names=names)) for names in (50, 150, 300)),
    Trained(DESCRIBED, _with(describe=True)),
    _textual_inversion(TEXTUAL_INVERSION_DESCRIBED, describe=True),
    Trained("large views", _with(smallest=0.6)),
    Trained("random basis", _PAPER, space=Space("random")),
    Trained("no unit sphere", _PAPER, loop="free"),
    Trained("direct", _with(mode="direct")),
    Trained("every token once", _PAPER, space=Space(distinct=True)),
    Trained("alone", _PAPER),
    Trained("ten at once", _PAPER),
)
"""The paper's ablations, each one thing beside *paper*."""

SIZES = {"alone": 1, "ten at once": 10}
"""People learned together, where it is not two."""


PAIRED: tuple[tuple[str, str], ...] = (
    (GUESS, NEAREST),
    (PRESETS_GUESS, GUESS),
    ("best", GUESS),
    ("quick", GUESS),
    ("best", "quick"),
    ("best", LORA),
    ("balanced", MEAN),
    ("balanced", PAPER),
    ("balanced", TEXTUAL_INVERSION_DESCRIBED),
    (PAPER, RANDOM),
    (PAPER, MEAN),
    (PAPER, TEXTUAL_INVERSION),
    (PAPER, TEXTUAL_INVERSION_TIMED),
    (PAPER, LORA),
    ("balanced", TEXTUAL_INVERSION),
    ("best", "balanced"),
    (DESCRIBED, MEAN),
    (DESCRIBED, TEXTUAL_INVERSION),
    (DESCRIBED, TEXTUAL_INVERSION_DESCRIBED),
    *((one.name, PAPER) for one in ABLATIONS if one.name != TEXTUAL_INVERSION_DESCRIBED),
)
"""Who is compared with whom on the same strangers."""
PAIRED_LEFT = (
    (BALANCED_BEFORE, "balanced"),
    *((name, "best" if name.startswith("best") else BALANCED_BEFORE) for name in LEFT[1:]),
)
"""The same of what was left away: each beside what it changed."""


@dataclass(frozen=True)
class Plan:
    """What is run."""

    contestants: tuple[Contestant, ...]
    strangers: int
    seeds: tuple[int, ...]
    pictures: int
    """Of each prompt."""
    milestones: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    """Shares of a run's steps (or of its time) at which it is measured."""
    name_pictures: int = 2
    """Drawn of each name, to learn what its face is."""
    steps: int = 0
    """The most steps a person for every loop; 0 for the recipe's own."""
    watched: int = 1_000_000
    """Strangers whose runs with the first seed are measured on the way, if the contestant is in :data:`MAIN`; everybody
    else's are at their end alone."""
    aside: tuple[int, int] | None = None
    """Strangers and seeds for whoever is not in :data:`MAIN`; as for the others if ``None``."""

    def __post_init__(self) -> None:
        names = [one.name for one in self.contestants]
        assert len(set(names)) == len(names), "two contestants of one name"

    def extent(self, contestant: str) -> tuple[int, tuple[int, ...]]:
        """How many strangers, and which seeds, a contestant has."""
        if self.aside is None or contestant in {one.name for one in MAIN}:
            return self.strangers, self.seeds
        if contestant in (DESCRIBED, TEXTUAL_INVERSION_DESCRIBED):  # they tell why *paper* stands where it does
            return self.strangers, self.seeds[: self.aside[1]]
        return min(self.strangers, self.aside[0]), self.seeds[: self.aside[1]]

    def milestones_of(self, contestant: str, stranger: int, seed: int) -> tuple[float, ...]:
        """When a contestant's run is measured whose first stranger has that number."""
        watched = self.aside is None or contestant in {one.name for one in MAIN}
        if watched and stranger < self.watched and seed == self.seeds[0]:
            return self.milestones
        return self.milestones[-1:]


FULL = Plan(
    (*MAIN, *ABLATIONS),
    strangers=30,
    seeds=(0, 1, 2),
    pictures=2,
    name_pictures=4,
    watched=6,
    aside=(10, 1),
)
QUICK = Plan(MAIN, strangers=4, seeds=(0,), pictures=1, milestones=(0.25, 1.0), name_pictures=1, steps=100)


def shortened(contestant: Contestant, steps: int) -> Contestant:
    """The contestant with no more steps than so many, and no more views than they can use."""
    if not steps or isinstance(contestant, Untrained):
        return contestant
    settings = contestant.settings
    steps = min(steps, settings.steps)
    most = steps * settings.batch_size * settings.accumulation
    return replace(contestant, settings=replace(settings, steps=steps, views=min(settings.views, most)))


def groups_of(names: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Whole groups of neighbours; who is left over at the end is in none."""
    return [tuple(names[start : start + size]) for start in range(0, len(names) - size + 1, size)]
