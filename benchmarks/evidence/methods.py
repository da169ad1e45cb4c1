"""The methods that are compared: ways from one photo to token vectors, each described by data that results refer to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.evidence.baselines import RANK, FreeLearner, LoraLearner, lora_adapters
from benchmarks.evidence.precompute import Precomputed, Space
from benchmarks.evidence.reporting import Reporter, clock_of
from benchmarks.evidence.stable_identity import (
    HAIR,
    NAMES,
    PHASES,
    StableIdentityLearner,
    encode_masked_views,
)
from benchmarks.evidence.testbed import References, Stranger
from celeb_basis.diffusion_model import TokenVectors
from celeb_basis.errors import TrainingError
from celeb_basis.method import Basis, DirectCoefficients, ScaledCoefficients
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.dataset import ViewPool
from celeb_basis.training.first_guess import guess_coefficients
from celeb_basis.training.trainer import Trainer

Source = Literal["random name", "nearest name", "mean", "first guess"]
Loop = Literal["plain", "free", "lora", "stable identity"]
Start = Literal["random", "first guess", "person", "text encoder's output"]

_NO_RECIPE = frozenset({"seed", "cuda_graph"})
"""Settings that are no part of a recipe: the seed is the cell's, and a recorded step computes the same."""

_NEED_NAME_FACES = ("nearest name", "first guess")
"""Sources and starts that need the celebrities' face vectors."""

_LOOPS: Mapping[str, type[Trainer]] = {
    "plain": Trainer,
    "free": FreeLearner,
    "lora": LoraLearner,
    "stable identity": StableIdentityLearner,
}


@dataclass(frozen=True)
class Milestone:
    """The state of a run at a milestone. Until the next one is requested, the model generates with this state."""

    token_vectors: Mapping[str, TokenVectors]
    """By the strangers' names."""
    step: int
    evaluations: int
    """Of the denoiser: one per sample, with forward and backward counted together."""
    seconds: float
    """Of learning alone."""
    encoding_seconds: float
    """Spent on encoding views before."""


@dataclass(frozen=True)
class Untrained:
    """Token vectors without any training."""

    name: str
    source: Source

    def prepare(self, shared: Precomputed) -> None:
        """Compute the celebrities' faces if this method needs them: they are stored for all workers."""
        if self.source in _NEED_NAME_FACES:
            _ = shared.celebrity_faces

    def describe(self) -> dict[str, Any]:
        """The recipe, JSON-ready."""
        return {"untrained": self.source}

    def learn(
        self,
        shared: Precomputed,
        group: Sequence[Stranger],
        seed: int,
        milestones: Sequence[float],
        budget: float | None,
    ) -> Iterator[Milestone]:
        """Yield one milestone, at no cost."""
        del milestones, budget
        bases = shared.bases(Space(), 10_000)
        yield Milestone({one.name: self._vectors(shared, bases, one, seed) for one in group}, 0, 0, 0.0, 0.0)

    def _vectors(self, shared: Precomputed, bases: Sequence[Basis], stranger: Stranger, seed: int) -> TokenVectors:
        if self.source == "mean":
            return [basis.mean for basis in bases]
        if self.source == "first guess":
            coefficients = _first_guess(shared, bases, stranger)
            return [basis.expand(one) for basis, one in zip(bases, coefficients, strict=True)]
        if self.source == "nearest name":
            name = shared.nearest_name(stranger)
        else:
            names = bases[0].names
            name = names[int(np.random.default_rng([seed, *stranger.name.encode()]).integers(len(names)))]
        return [basis.expand(basis.name_coefficients[basis.names.index(name)]) for basis in bases]


@dataclass(frozen=True)
class KnownName:
    """Names of the list, drawn by the model as it knows them: what a method can reach at best.

    They are scored among as many names as there are strangers. Nothing of a stranger is used.
    """

    name: str
    references: References = "images"
    """What they are compared with: other images of the same name, by other prompts and seeds, or pictures of the person whom
    the model was shown, as strangers are."""

    def prepare(self, shared: Precomputed) -> None:
        """Generate the references: they are stored for all workers."""
        _ = shared.known_people(self.references)

    def describe(self) -> dict[str, Any]:
        """The recipe, JSON-ready."""
        return {"untrained": "a name of the list", "references": self.references}


@dataclass(frozen=True)
class Trained:
    """Token vectors that a training loop learns."""

    name: str
    settings: TrainingSettings
    space: Space = field(default_factory=Space)
    loop: Loop = "plain"
    start: Start = "random"
    same_time_as: str = ""
    """Learn for as many seconds as the method of that name took, instead of a number of steps."""
    word: str = "person"
    """The word whose token vector every position starts from, where ``start`` is ``person``."""
    rank: int = RANK
    """Of a LoRA."""

    def prepare(self, shared: Precomputed) -> None:
        """Compute the celebrities' faces if this method needs them: they are stored for all workers."""
        if self.initialization in _NEED_NAME_FACES:
            _ = shared.celebrity_faces

    @property
    def initialization(self) -> Start:
        """Where the coefficients start, which the settings may define as well."""
        return "first guess" if self.settings.start == "guess" else self.start

    @property
    def learner(self) -> type[Trainer]:
        """The training loop."""
        return _LOOPS[self.loop]

    def describe(self) -> dict[str, Any]:
        """The recipe, JSON-ready. It holds no seed, which is the cell's."""
        settings = {key: value for key, value in self.settings.as_dict().items() if key not in _NO_RECIPE}
        if self.same_time_as:
            settings.pop("steps")
        return {
            "settings": settings,
            "space": asdict(self.space),
            "loop": self.loop,
            "start": self.start,
            "same_time_as": self.same_time_as,
            **({"rank": self.rank} if self.loop == "lora" else {}),
            **({"word": self.word} if self.start == "person" and self.word != "person" else {}),
            **({"names": NAMES, "phases": PHASES, "hair": HAIR} if self.loop == "stable identity" else {}),
        }

    def learn(
        self,
        shared: Precomputed,
        group: Sequence[Stranger],
        seed: int,
        milestones: Sequence[float],
        budget: float | None,
    ) -> Iterator[Milestone]:
        """Run the training loop once, yielding at each milestone.

        Args:
            shared: Bases, views and name faces.
            group: The strangers that are learned together.
            seed: Seed of the run.
            milestones: Shares of the run's steps, or of its time, at which to yield.
            budget: Seconds to learn for, for a method that gets another's time; ``None`` for its own number of steps.
        """
        testbed, masked = shared.testbed, None
        if self.loop == "stable identity":
            masked = encode_masked_views(testbed, group, seed, self.settings.views)
            pool, encoding_seconds = masked.pool, masked.seconds
        else:
            pool, encoding_seconds = shared.pool(group, seed, self.settings.views, self.settings.smallest)
        trainer = self._learner(shared, group, pool, seed, timed=budget is not None)
        with ExitStack() as stack:
            if isinstance(trainer, LoraLearner):
                if testbed.denoiser is None:
                    raise TrainingError("This testbed does not expose its denoiser's layers: run it without the LoRA.")
                trainer.use(stack.enter_context(lora_adapters(testbed.denoiser, trainer.generator, self.rank)))
            if isinstance(trainer, StableIdentityLearner) and masked is not None:
                trainer.use(masked, testbed.latent_scale)
            seconds = 0.0
            for share in milestones:
                seconds = _advance(trainer, share, seconds, budget, testbed.report)
                values = [trainer.average.value(number) for number in range(len(group))]
                if any(value is None for value in values):
                    continue  # a person of the group has not been in any batch yet
                with torch.no_grad():
                    token_vectors = {
                        person.name: [
                            one.detach().cpu() for one in trainer.token_vectors(value.to(trainer.model.device))
                        ]
                        for person, value in zip(group, values, strict=True)
                        if value is not None
                    }
                samples = self.settings.batch_size * self.settings.accumulation
                evaluations = trainer.step * samples
                yield Milestone(token_vectors, trainer.step, evaluations, seconds, encoding_seconds)

    def _learner(
        self, shared: Precomputed, group: Sequence[Stranger], pool: ViewPool, seed: int, *, timed: bool
    ) -> Trainer:
        bases = shared.bases(self.space, self.settings.components)
        changes: dict[str, Any] = {"components": bases[0].size, "seed": seed, "early_stop": False}
        if timed:
            changes["steps"] = 100_000
        settings = replace(self.settings, **changes)
        trainer = self.learner(shared.testbed.model, bases, pool, settings)
        if self.initialization != "random":
            if not isinstance(trainer.module, (DirectCoefficients, ScaledCoefficients)):
                raise TrainingError("Only coefficients that are parameters themselves can be initialized: use direct.")
            people = [torch.stack(self._initial(shared, bases, one)) for one in group]
            trainer.module.initialize_from(torch.stack(people).to(trainer.model.device))
        return trainer

    def _initial(self, shared: Precomputed, bases: Sequence[Basis], stranger: Stranger) -> list[torch.Tensor]:
        """``(E, K)`` coefficients to start from, one per text encoder."""
        if self.initialization == "first guess":
            return _first_guess(shared, bases, stranger)
        if self.initialization == "person":
            rows = [_word_rows(shared, number, basis, self.word) for number, basis in enumerate(bases)]
        else:
            rows = text_output(shared, [basis.expand(basis.name_coefficients).mean(dim=0) for basis in bases])
        return [basis.project(one) for basis, one in zip(bases, rows, strict=True)]


@dataclass(frozen=True)
class Untuned:
    """A baseline that is not tuned yet: tuning puts a :class:`Trained` method in its place."""

    name: str

    def prepare(self, shared: Precomputed) -> None:
        """There is nothing to prepare."""

    def describe(self) -> dict[str, Any]:
        """No recipe: nothing was measured with it."""
        return {"untuned": True}


Method = Untrained | KnownName | Untuned | Trained


def _word_rows(shared: Precomputed, number: int, basis: Basis, word: str) -> torch.Tensor:
    """``(E, D)``: the token vector of a word's first token at every position."""
    encoder = shared.testbed.model.text_encoders[number]
    ids = encoder.tokenize([word])[0]
    row: torch.Tensor = encoder.token_table()[torch.tensor(ids[:1])].float().cpu()
    return row.expand(basis.positions, -1)


def text_output(shared: Precomputed, vectors: TokenVectors) -> list[torch.Tensor]:
    """``(E, D)`` per text encoder: what it makes of token vectors, from where Cross Initialization starts.

    Args:
        shared: Its testbed's model.
        vectors: ``(E, D)`` per text encoder.

    Raises:
        TrainingError: For hosts whose encoded prompts do not hold the text encoders' states.
    """
    with torch.no_grad():
        encoded = shared.testbed.model.encode_prompts(["<mean>"], {"<mean>": vectors})
    states = getattr(encoded, "states", None)
    widths = [one.shape[-1] for one in vectors]
    if states is None or states.shape[-1] != sum(widths):
        raise TrainingError("This model does not show its text encoder's output: leave Cross Initialization out.")
    outputs = states[0, 1 : 1 + len(vectors[0])].float().cpu().split(widths, dim=-1)
    return list(outputs)


def _first_guess(shared: Precomputed, bases: Sequence[Basis], stranger: Stranger) -> list[torch.Tensor]:
    vector = torch.from_numpy(np.asarray(stranger.portrait.vector, np.float32))
    return list(guess_coefficients(bases, shared.guess(bases), vector))


def _advance(trainer: Trainer, share: float, seconds: float, budget: float | None, report: Reporter) -> float:
    """Run until a share of all steps, or a share of the seconds and until everyone has been in a batch.

    Args:
        trainer: What learns.
        share: Of its steps, or of ``budget``.
        seconds: It has learned for.
        budget: Seconds in all; ``None`` for its own number of steps.
        report: Gets its events.

    Returns:
        The seconds it has learned for now.
    """
    if budget is None and trainer.step >= round(share * trainer.total):
        return seconds
    clock = clock_of(trainer.model.device)
    enough, before = threading.Event(), clock()
    for event in trainer.run(enough):
        now = clock()
        seconds, before = seconds + now - before, now
        report.event(event)
        if budget is None:
            reached = trainer.step >= round(share * trainer.total)
        else:
            sampled = (trainer.average.value(number) is not None for number in range(len(trainer.pool.people)))
            reached = seconds >= share * budget and all(sampled)
        if reached:
            enough.set()
    return seconds
