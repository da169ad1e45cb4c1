"""Who competes: ways from one picture to a word. Each is data, so that a result can say exactly what made it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.evidence.bench import Bench
from benchmarks.evidence.learners import FreeLearner
from benchmarks.evidence.lora import RANK, LoraLearner, LowRank
from benchmarks.evidence.spaces import Space
from benchmarks.evidence.world import Stranger
from celeb_basis.diffusion_model import TokenVectors
from celeb_basis.errors import TrainingError
from celeb_basis.method import Basis, DirectCoefficients, ScaledCoefficients
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.first_guess import guess_coefficients
from celeb_basis.training.trainer import Trainer

Known = Literal["random name", "nearest name", "mean", "first guess", "presets' guess"]
Loop = Literal["plain", "free", "lora"]
Start = Literal["random", "first guess", "person"]

_OF_DRAWN_NAMES = ("nearest name", "first guess")

_LOOPS: Mapping[str, type[Trainer]] = {
    "plain": Trainer,
    "free": FreeLearner,
    "lora": LoraLearner,
}


@dataclass(frozen=True)
class Milestone:
    """Where a contestant stands. While it is handed over, the model draws with it."""

    words: Mapping[str, TokenVectors]
    """By the strangers' names."""
    step: int
    evaluations: int
    """Of the denoiser, one a sample, forward and backward counted as one."""
    seconds: float
    """Of learning alone."""
    prepared: float
    """Seconds of encoding views before."""


@dataclass(frozen=True)
class Untrained:
    """A word without any training."""

    name: str
    way: Known

    def prepare(self, bench: Bench) -> None:
        """Have the names drawn, if it needs to know how the model draws them: they are kept, for all workers."""
        if self.way == "presets' guess":
            _ = bench.presets_faces
        elif self.way in _OF_DRAWN_NAMES:
            _ = bench.name_vectors

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"untrained": self.way}

    def learn(
        self, bench: Bench, group: Sequence[Stranger], seed: int, milestones: Sequence[float], budget: float | None
    ) -> Iterator[Milestone]:
        """One milestone, at no cost."""
        del milestones, budget
        bases = bench.bases(Space(), 10_000)
        yield Milestone({one.name: self._vectors(bench, bases, one, seed) for one in group}, 0, 0, 0.0, 0.0)

    def _vectors(self, bench: Bench, bases: Sequence[Basis], stranger: Stranger, seed: int) -> TokenVectors:
        if self.way == "mean":
            return [basis.mean for basis in bases]
        if self.way in ("first guess", "presets' guess"):
            coefficients = _guessed(bench, bases, stranger, as_presets=self.way == "presets' guess")
            return [basis.expand(one) for basis, one in zip(bases, coefficients, strict=True)]
        if self.way == "nearest name":
            row = bench.nearest_name(stranger)
        else:
            row = int(np.random.default_rng([seed, *stranger.name.encode()]).integers(len(bases[0].names)))
        return [basis.expand(basis.name_coefficients[basis.names.index(bases[0].names[row])]) for basis in bases]


@dataclass(frozen=True)
class Trained:
    """A word that a loop learns."""

    name: str
    settings: TrainingSettings
    space: Space = field(default_factory=Space)
    loop: Loop = "plain"
    start: Start = "random"
    same_time_as: str = ""
    """Learn for as many seconds as the contestant of that name did, instead of a number of steps."""

    def prepare(self, bench: Bench) -> None:
        """Have the names drawn, if it needs to know how the model draws them: they are kept, for all workers."""
        if self.begins in _OF_DRAWN_NAMES:
            _ = bench.name_vectors

    @property
    def begins(self) -> Start:
        """Where coefficients begin: the settings may say it, too."""
        return "first guess" if self.settings.start == "guess" else self.start

    def describe(self) -> dict[str, Any]:
        """JSON-ready; the seed is the cell's, not the settings'."""
        settings = {key: value for key, value in self.settings.as_dict().items() if key != "seed"}
        if self.same_time_as:
            settings.pop("steps")
        return {
            "settings": settings,
            "space": asdict(self.space),
            "loop": self.loop,
            "start": self.start,
            "same_time_as": self.same_time_as,
            **({"rank": RANK} if self.loop == "lora" else {}),
        }

    def learn(
        self, bench: Bench, group: Sequence[Stranger], seed: int, milestones: Sequence[float], budget: float | None
    ) -> Iterator[Milestone]:
        """One run, stopped at shares of its steps, or of ``budget`` seconds for who learns for another's time."""
        pool, prepared = bench.pool(group, seed, self.settings.views, self.settings.smallest)
        trainer = self._learner(bench, group, pool, seed, timed=budget is not None)
        with ExitStack() as stack:
            if isinstance(trainer, LoraLearner):
                if bench.world.denoiser is None:
                    raise TrainingError("This world does not show its denoiser's layers: leave the LoRA out.")
                low_rank = LowRank(bench.world.denoiser, RANK, trainer.generator)
                trainer.use(low_rank)
                stack.enter_context(low_rank.added())
            for share in milestones:
                _advance(trainer, share, budget)
                values = [trainer.average.value(number) for number in range(len(group))]
                if any(value is None for value in values):
                    continue  # somebody has not been drawn yet
                with torch.no_grad():
                    words = {
                        person.name: [one.detach().cpu() for one in trainer.token_vectors(value.to(trainer.model.device))]
                        for person, value in zip(group, values, strict=True)
                        if value is not None
                    }
                samples = self.settings.batch_size * self.settings.accumulation
                yield Milestone(words, trainer.step, trainer.step * samples, trainer.seconds, prepared)

    def _learner(self, bench: Bench, group: Sequence[Stranger], pool: Any, seed: int, *, timed: bool) -> Trainer:
        bases = bench.bases(self.space, self.settings.components)
        changes: dict[str, Any] = {"components": bases[0].size, "seed": seed, "early_stop": False}
        if timed:
            changes["steps"] = 100_000
        settings = replace(self.settings, **changes)
        trainer = _LOOPS[self.loop](bench.world.host, bases, pool, settings)
        if self.begins != "random":
            if not isinstance(trainer.module, (DirectCoefficients, ScaledCoefficients)):
                raise TrainingError("Only coefficients that are learned themselves can start somewhere: use direct.")
            people = [torch.stack(self._begin(bench, bases, one)) for one in group]
            trainer.module.initialize_from(torch.stack(people).to(trainer.model.device))
        return trainer

    def _begin(self, bench: Bench, bases: Sequence[Basis], stranger: Stranger) -> list[torch.Tensor]:
        """``(E, K)`` coefficients to start from, one a text encoder."""
        if self.begins == "first guess":
            return _guessed(bench, bases, stranger)
        return [basis.project(_rows_of_person(bench, number, basis)) for number, basis in enumerate(bases)]


Contestant = Untrained | Trained


def _rows_of_person(bench: Bench, number: int, basis: Basis) -> torch.Tensor:
    encoder = bench.world.host.text_encoders[number]
    ids = encoder.tokenize(["person"])[0]
    row: torch.Tensor = encoder.token_table()[torch.tensor(ids[:1])].float().cpu()
    return row.expand(basis.positions, -1)


def _guessed(
    bench: Bench, bases: Sequence[Basis], stranger: Stranger, *, as_presets: bool = False
) -> list[torch.Tensor]:
    vector = torch.from_numpy(np.asarray(stranger.portrait.vector, np.float32))
    return list(guess_coefficients(bases, bench.guess(bases, as_presets=as_presets), vector))


def _advance(trainer: Trainer, share: float, budget: float | None) -> None:
    """Run on to a share of all steps; or of the seconds, and until everybody was drawn once."""
    if budget is None and trainer.step >= round(share * trainer.total):
        return
    enough = threading.Event()
    for _ in trainer.run(enough):
        if budget is None:
            reached = trainer.step >= round(share * trainer.total)
        else:
            drawn = (trainer.average.value(number) is not None for number in range(len(trainer.pool.people)))
            reached = trainer.seconds >= share * budget and all(drawn)
        if reached:
            enough.set()
