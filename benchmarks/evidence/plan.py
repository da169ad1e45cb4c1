"""What is run: the methods, how many strangers and seeds each of them gets, and which of them are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.evidence.methods import KnownName, Method, Trained, Untrained, Untuned
from benchmarks.evidence.precompute import Space
from celeb_basis.settings import PRESETS, TrainingSettings

CEILING = "a name that the model knows"
CEILING_PICTURES = "a name that the model knows, by pictures"
PAPER = "paper"
TEXTUAL_INVERSION = "textual inversion, same steps"
DESCRIBED = "views described"
TEXTUAL_INVERSION_DESCRIBED = "textual inversion, views described"
LONGER = "balanced, 400 steps"
STABLE_IDENTITY = "StableIdentity, in full"
CROSS_INITIALIZATION = "Cross Initialization, 320 steps"
TEXTUAL_INVERSION_TUNED = "textual inversion, tuned"
TEXTUAL_INVERSION_TUNED_TIMED = "textual inversion, tuned, same time"
LORA_TUNED = "LoRA, tuned"
LORA_TUNED_TIMED = "LoRA, tuned, same time"
TUNED = (TEXTUAL_INVERSION_TUNED, TEXTUAL_INVERSION_TUNED_TIMED, LORA_TUNED, LORA_TUNED_TIMED)
"""Baselines whose settings :mod:`benchmarks.evidence.tuning` chooses on strangers that are not evaluated: for as many steps as
they like, and for as many seconds as *paper* takes."""
TIMED = (TEXTUAL_INVERSION_TUNED_TIMED, LORA_TUNED_TIMED)
"""Those that are given the time of *paper*."""
RANDOM, NEAREST, MEAN, GUESS = "random name", "nearest name", "mean", "first guess"

_PAPER = PRESETS["paper"]
_BALANCED = replace(PRESETS["balanced"], early_stop=False)


def _textual_inversion(name: str, *, describe: bool = False) -> Trained:
    settings = replace(_PAPER, mode="direct", learning_rate=5e-3, average_decay=0.0, describe=describe)
    return Trained(name, settings, space=Space("free"), loop="free", start="person")


MAIN: tuple[Method, ...] = (
    KnownName(CEILING),
    KnownName(CEILING_PICTURES, "pictures"),
    Untrained(RANDOM, "random name"),
    Untrained(NEAREST, "nearest name"),
    Untrained(MEAN, "mean"),
    Untrained(GUESS, "first guess"),
    Trained(PAPER, _PAPER),
    _textual_inversion(TEXTUAL_INVERSION),
    Trained(
        STABLE_IDENTITY,
        replace(_PAPER, mode="direct", steps=451, batch_size=1, learning_rate=5e-5, average_decay=0.0, views=400),
        space=Space("free"),
        loop="stable identity",
    ),
    Trained(
        CROSS_INITIALIZATION,
        replace(_PAPER, mode="direct", learning_rate=5e-3, steps=320, average_decay=0.0),
        space=Space("free"),
        loop="free",
        start="text encoder's output",
    ),
    *(Untuned(name) for name in TUNED),
    Trained("quick", replace(PRESETS["quick"], early_stop=False)),
    Trained("balanced", _BALANCED),
    Trained("best", PRESETS["best"]),
)
"""The main comparison: the ceiling, methods without training, the paper's recipe, the baselines, and the presets."""


def _named(methods: Sequence[Method], *names: str) -> tuple[Method, ...]:
    return tuple(one for one in methods if one.name in names)


def _with(**changes: object) -> TrainingSettings:
    return replace(_PAPER, **changes)  # type: ignore[arg-type]


ABLATIONS: tuple[Method, ...] = (
    *(Trained(f"K = {size}", _with(components=size)) for size in (8, 32, 64)),
    *(Trained(f"{names} names", _PAPER, space=Space(names=names)) for names in (50, 150, 300)),
    Trained(DESCRIBED, _with(describe=True)),
    _textual_inversion(TEXTUAL_INVERSION_DESCRIBED, describe=True),
    Trained("larger views", _with(smallest=_BALANCED.smallest)),
    Trained("less noise", _with(highest_noise=_BALANCED.highest_noise)),
    Trained("random basis", _PAPER, space=Space("random")),
    Trained("no unit sphere", _PAPER, loop="free"),
    Trained("direct", _with(mode="direct")),
    Trained("every token once", _PAPER, space=Space(distinct=True)),
    Trained("alone", _PAPER),
    Trained("ten at once", _PAPER),
)
"""The paper's ablations: each changes one thing of *paper*."""

OURS: tuple[Method, ...] = (Trained(LONGER, replace(_BALANCED, steps=400)),)
"""Ablations of the presets."""

GROUP_SIZES = {"alone": 1, "ten at once": 10}
"""How many people a method learns together, where it is not two."""


PAIRED: tuple[tuple[str, str], ...] = (
    (GUESS, NEAREST),
    ("best", GUESS),
    ("quick", GUESS),
    ("best", "quick"),
    ("balanced", MEAN),
    ("balanced", PAPER),
    ("balanced", TEXTUAL_INVERSION_DESCRIBED),
    (PAPER, RANDOM),
    (PAPER, MEAN),
    (PAPER, TEXTUAL_INVERSION),
    *((PAPER, other) for other in TUNED),
    *(("best", other) for other in (STABLE_IDENTITY, CROSS_INITIALIZATION, *TUNED)),
    (STABLE_IDENTITY, PAPER),
    (CROSS_INITIALIZATION, TEXTUAL_INVERSION),
    (TEXTUAL_INVERSION_TUNED, TEXTUAL_INVERSION),
    ("balanced", TEXTUAL_INVERSION),
    ("best", "balanced"),
    (LONGER, "balanced"),
    (DESCRIBED, MEAN),
    (DESCRIBED, TEXTUAL_INVERSION),
    (DESCRIBED, TEXTUAL_INVERSION_DESCRIBED),
    *((one.name, PAPER) for one in ABLATIONS if one.name != TEXTUAL_INVERSION_DESCRIBED),
)
"""Methods and the baselines that they are compared with on the same strangers."""


@dataclass(frozen=True)
class Plan:
    """Which methods are run, on whom, and how they are measured."""

    methods: tuple[Method, ...]
    strangers: int
    seeds: tuple[int, ...]
    images_per_prompt: int
    milestones: tuple[float, ...] = (1 / 8, 1 / 4, 1 / 2, 1.0)
    """Shares of a run's steps (or of its time) at which it is measured."""
    steps: int = 0
    """The most steps per person of every training loop; 0 for the recipe's own."""
    tracked: int = 1_000_000
    """How many strangers' runs with the first seed are measured at every milestone, for methods of :data:`MAIN`. All
    other runs are measured at their end alone."""
    reduced: tuple[int, int] | None = None
    """How many strangers and seeds methods outside :data:`MAIN` get; ``None`` for as many as the others."""

    def __post_init__(self) -> None:
        names = [one.name for one in self.methods]
        assert len(set(names)) == len(names), "two methods have the same name"

    def extent(self, method: str) -> tuple[int, tuple[int, ...]]:
        """The number of strangers and the seeds of a method."""
        if self.reduced is None or method in {one.name for one in MAIN}:
            return self.strangers, self.seeds
        if method in (DESCRIBED, TEXTUAL_INVERSION_DESCRIBED, LONGER):  # they explain *paper* and *balanced*
            return self.strangers, self.seeds[: self.reduced[1]]
        return min(self.strangers, self.reduced[0]), self.seeds[: self.reduced[1]]

    def milestones_of(self, method: str, stranger: int, seed: int) -> tuple[float, ...]:
        """The milestones of a run; ``stranger`` is the number of its first stranger."""
        tracked = self.reduced is None or method in {one.name for one in MAIN}
        if tracked and stranger < self.tracked and seed == self.seeds[0]:
            return self.milestones
        return self.milestones[-1:]


FULL = Plan(
    (*MAIN, *ABLATIONS, *OURS),
    strangers=30,
    seeds=(0,),
    images_per_prompt=1,
    tracked=0,
    reduced=(10, 1),
)
"""Many people rather than many images of each: people differ more than the images of one do."""
QUICK = Plan(
    _named(MAIN, CEILING, RANDOM, NEAREST, MEAN, GUESS, PAPER, TEXTUAL_INVERSION, "quick", "balanced", "best"),
    strangers=4,
    seeds=(0,),
    images_per_prompt=1,
    milestones=(1.0,),
    steps=30,
)
"""A small version of the main comparison, to see that all of it works: its figures say little."""

REAL = Plan(
    tuple(one for one in MAIN if one.name != CEILING_PICTURES),
    strangers=1_000_000,
    seeds=(0,),
    images_per_prompt=1,
    milestones=(1.0,),
)
"""The main comparison on any checkpoint, with all people of a folder."""


def limited(plan: Plan, only: Sequence[str]) -> Plan:
    """The plan with the methods in ``only``, and those whose time they are given."""
    wanted = set(only)
    if wanted & set(TIMED):
        wanted.add(PAPER)
    return replace(plan, methods=tuple(one for one in plan.methods if one.name in wanted))


def shortened(method: Method, steps: int) -> Method:
    """The method with at most ``steps`` steps, and no more views than those can use; unchanged for 0."""
    if not steps or not isinstance(method, Trained):
        return method
    settings = method.settings
    steps = min(steps, settings.steps)
    most = steps * settings.batch_size * settings.accumulation
    return replace(method, settings=replace(settings, steps=steps, views=min(settings.views, most)))


def groups_of(names: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Complete groups of neighbors; a remainder at the end is dropped."""
    return [tuple(names[start : start + size]) for start in range(0, len(names) - size + 1, size)]
