"""The training loop (paper section 4): one object that can be stepped, watched, interrupted, kept and resumed."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from celeb_basis.diffusion_model import DiffusionModel, TokenVectors
from celeb_basis.errors import NotFiniteError, TrainingError
from celeb_basis.events import Event, Finished, PersonProgress, StepDone
from celeb_basis.method import (
    Basis,
    CoefficientHead,
    CoefficientShape,
    DirectCoefficients,
    MovingAverage,
    ScaledCoefficients,
    diffusion_loss,
)
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.augment import TEMPLATES, training_prompt
from celeb_basis.training.dataset import ViewPool
from celeb_basis.training.memory import estimate
from celeb_basis.training.precision import make_scaler, resolve_precision

# FOLDED: Where the coefficients stand: how far they moved, how far out they are, whom they are like.

WINDOW = 50
"""Steps over which movement is measured."""

REPORT_EVERY = 10
"""Steps between two reports: often enough for a live page, seldom enough to cost nothing."""


class MovementTracker:
    """Remembers averaged coefficients ``(P, G, E, K)`` at every report, to tell how far they moved over the window."""

    def __init__(self) -> None:
        self.snapshots: deque[torch.Tensor] = deque(maxlen=WINDOW // REPORT_EVERY + 1)

    def take(self, averages: torch.Tensor) -> None:
        """Remember where the averages are at a report."""
        self.snapshots.append(averages.clone())

    @property
    def full(self) -> bool:
        """Whether a whole window lies behind."""
        return len(self.snapshots) == self.snapshots.maxlen

    def movement(self, person: int) -> float:
        """Length of the way from the oldest snapshot to the newest, relative to the newest's own length.

        A person whose window is not full yet counts as moving: 1 at least.
        """
        if not self.full:
            return 1.0
        new, old = self.snapshots[-1][person], self.snapshots[0][person]
        length = float(new.norm())
        return float((new - old).norm()) / length if length > 0 else 1.0


def distance_to_mean(bases: Sequence[Basis], coefficients: Sequence[torch.Tensor]) -> float:
    """Mean over the text encoders of :meth:`Basis.distance`."""
    return sum(b.distance(c) for b, c in zip(bases, coefficients, strict=True)) / len(bases)


def _name_cosines(basis: Basis, coefficients: torch.Tensor) -> torch.Tensor:
    """``(N,)`` cosines between ``(E, K)`` coefficients and those of every name, all positions taken as one vector."""
    wanted = coefficients.detach().to("cpu", torch.float32).reshape(-1)
    known = basis.name_coefficients.reshape(len(basis.names), -1)
    norms = known.norm(dim=1) * wanted.norm()
    cosines: torch.Tensor = (known @ wanted) / norms.clamp(min=torch.finfo(torch.float32).tiny)
    return cosines


def nearest_names(
    bases: Sequence[Basis], coefficients: Sequence[torch.Tensor], count: int
) -> tuple[tuple[str, float], ...]:
    """Names by cosine in coefficient space, averaged over text encoders whose bases hold the same names."""
    first = bases[0]
    alike = [(b, c) for b, c in zip(bases, coefficients, strict=True) if b.names == first.names]
    cosines = torch.stack([_name_cosines(b, c) for b, c in alike]).mean(dim=0)
    best = cosines.topk(min(count, len(first.names)))
    return tuple((first.names[i], float(c)) for c, i in zip(best.values.tolist(), best.indices.tolist(), strict=True))


def person_progress(bases: Sequence[Basis], coefficients: Sequence[torch.Tensor], movement: float) -> PersonProgress:
    """The report of one person; ``coefficients`` holds one ``(E, K)`` a text encoder."""
    return PersonProgress(
        movement=movement,
        distance=distance_to_mean(bases, coefficients),
        nearest=nearest_names(bases, coefficients, 5),
    )


_log = logging.getLogger(__name__)

_LOSS_DECAY = 0.98
# fp16's scaler skips a step whose gradients overflowed; this many in a row mean that no scale will do.
_MAX_SKIPPED = 20


@dataclass(frozen=True)
class TrainedCoefficients:
    """One person's result."""

    name: str
    coefficients: tuple[torch.Tensor, ...]
    """One ``(E, K)`` float32 a text encoder: the bias-corrected moving average."""
    thumbnail: bytes


@dataclass(frozen=True)
class Draw:
    """The random choices of one batch."""

    people: torch.Tensor
    """``(B,)`` index of the person."""
    views: torch.Tensor
    """``(B,)`` index of the person's view."""
    prompts: list[str]
    clean: torch.Tensor
    """``(B, C, h, w)`` latents drawn from the VAE's posterior."""
    noise: torch.Tensor
    timesteps: torch.Tensor


class Trainer:
    """Learns the people of a pool together. Nothing of the host changes; ``run`` puts everything back when it ends.

    The state (parameters, optimizer, averages, random state, pool) is all in public attributes that ``learning.state``
    writes and reads; between two steps it may be kept at any time.

    Parameters: ``bases`` holds one basis for each text encoder of the host, in its order.

    Raises: :class:`TrainingError` if bases and host do not belong together.
    """

    def __init__(
        self,
        model: DiffusionModel,
        bases: Sequence[Basis],
        pool: ViewPool,
        settings: TrainingSettings,
    ) -> None:
        _check_bases(model, bases, settings)
        self.model = model
        self.bases = tuple(bases)
        self.pool = pool
        self.settings = settings
        self.precision = resolve_precision(settings.precision, model.dtype, model.device)
        self.shape = CoefficientShape(
            groups=1 if settings.shared else len(bases), positions=bases[0].positions, components=bases[0].size
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        people = len(pool.people)
        self.module = self.make_module(people)
        self.module.to(model.device)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scaler = make_scaler(model.device, self.precision)
        self.average = MovingAverage(
            people, (self.shape.groups, self.shape.positions, self.shape.components), settings.average_decay
        )
        self.tracker = MovementTracker()
        self.step = 0
        self.seconds = 0.0
        self.loss_sum = 0.0
        self._skipped = 0
        self._interrupted = False
        # Expanding happens at every step: the bases are brought to the device once.
        self._bases_on_device = [basis.to(model.device) for basis in bases]

    def make_module(self, people: int) -> CoefficientHead | DirectCoefficients | ScaledCoefficients:
        """What is trained: the head, or everybody's coefficients themselves."""
        if self.settings.mode == "head":
            return CoefficientHead(self.shape, self.generator)
        if self.settings.start != "random":
            deviations = _for_groups([basis.deviations for basis in self.bases], self.settings.shared)
            return ScaledCoefficients(self.shape, people, deviations)
        return DirectCoefficients(self.shape, people, self.generator)

    @property
    def total(self) -> int:
        """Optimizer steps in all: the setting's steps for each person."""
        return self.settings.steps * len(self.pool.people)

    def interrupt(self) -> None:
        """Ask :meth:`run` to end after the step under way; safe from another thread."""
        self._interrupted = True

    def run(self) -> Iterator[Event]:
        """Step until done, settled or interrupted, yielding an event a step; calling it again goes on.

        Raises: :class:`NotFiniteError` as soon as the loss or a gradient is not finite. The learner then stands as it
        was before that step.
        """
        self._interrupted = False
        reason = None
        need = estimate(self.model, self.settings)
        _log.info("%s", need.sentence())
        with self.model.prepare_for_training(self.precision, checkpointing=need.checkpointing):
            while reason is None:
                if self.step >= self.total:
                    reason = "all steps done"
                elif self._interrupted:
                    reason = "interrupted"
                elif self._settled():
                    reason = "settled"
                else:
                    yield self._one_step()
        yield Finished(reason=reason, steps=self.step, seconds=self.seconds)  # type: ignore[arg-type]

    def results(self) -> tuple[TrainedCoefficients, ...]:
        """What has been learned so far, for each person.

        Raises: :class:`TrainingError` if a person has not been in a single step yet.
        """
        results = []
        for index, person in enumerate(self.pool.people):
            value = self.average.value(index)
            if value is None:
                raise TrainingError(f"{person.name} has not been learned yet: let it run for more steps.")
            results.append(TrainedCoefficients(person.name, self._per_encoder(value), person.thumbnail))
        return tuple(results)

    def _one_step(self) -> StepDone:
        started = time.perf_counter()
        random_state = self.generator.get_state()
        try:
            loss = self._update()
        except Exception:  # whatever it is, a state that is kept now stands before this step
            self.generator.set_state(random_state)
            self.optimizer.zero_grad(set_to_none=True)
            raise
        self.step += 1
        self.seconds += time.perf_counter() - started
        self.loss_sum = _LOSS_DECAY * self.loss_sum + (1.0 - _LOSS_DECAY) * loss
        people = self._report() if self.step % REPORT_EVERY == 0 or self.step == self.total else None
        return StepDone(
            step=self.step,
            total=self.total,
            loss=loss,
            average_loss=self.loss_sum / (1.0 - _LOSS_DECAY**self.step),
            people=people,
            seconds_left=self.seconds / self.step * (self.total - self.step),
        )

    def _update(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        batches = self.settings.accumulation
        total = 0.0
        seen: list[tuple[int, torch.Tensor]] = []
        for _ in range(batches):
            draw = self.draw()
            coefficients = self.coefficients(draw)
            loss = self.loss(draw, coefficients)
            total += float(loss.detach()) / batches
            if not math.isfinite(total):
                raise self._not_finite("loss")
            self.scaler.scale(loss / batches).backward()
            seen += zip(draw.people.tolist(), coefficients.detach(), strict=True)
        self._apply_gradients()
        for person in dict.fromkeys(index for index, _ in seen):
            self.average.update(person, torch.stack([value for index, value in seen if index == person]).mean(dim=0))
        return total

    def _apply_gradients(self) -> None:
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        self._skipped = 0 if finite else self._skipped + 1
        if not finite and (not self.scaler.is_enabled() or self._skipped > _MAX_SKIPPED):
            raise self._not_finite("gradient")
        self.scaler.step(self.optimizer)  # leaves the parameters alone if a gradient overflowed
        self.scaler.update()

    def draw(self) -> Draw:
        """The random choices of one batch; all of them come from the one generator on the CPU, whatever the device."""
        size, random = self.settings.batch_size, self.generator
        people = torch.randint(len(self.pool.people), (size,), generator=random)
        chosen = [self.pool.people[index] for index in people.tolist()]
        views = torch.tensor([int(torch.randint(len(p.descriptions), (), generator=random)) for p in chosen])
        templates = torch.randint(len(TEMPLATES), (size,), generator=random).tolist()
        means = torch.stack([p.latents.mean[v] for p, v in zip(chosen, views.tolist(), strict=True)])
        stds = torch.stack([p.latents.std[v] for p, v in zip(chosen, views.tolist(), strict=True)])
        clean = means + stds * torch.randn(means.shape, generator=random)
        prompts = [
            training_prompt(TEMPLATES[t], _word(i), p.descriptions[v] if self.settings.describe else "")
            for i, (t, p, v) in enumerate(zip(templates, chosen, views.tolist(), strict=True))
        ]
        return Draw(
            people=people,
            views=views,
            prompts=prompts,
            clean=clean,
            noise=torch.randn(means.shape, generator=random),
            timesteps=torch.randint(self.model.schedule.timesteps, (size,), generator=random),
        )

    def coefficients(self, draw: Draw) -> torch.Tensor:
        """``(B, G, E, K)`` coefficients of a batch, with gradients."""
        pairs = zip(draw.people.tolist(), draw.views.tolist(), strict=True)
        vectors = torch.stack([self.pool.people[person].vectors[view] for person, view in pairs])
        result: torch.Tensor = self.module(vectors.to(self.model.device), draw.people.to(self.model.device))
        return result

    def loss(self, draw: Draw, coefficients: torch.Tensor) -> torch.Tensor:
        """The diffusion loss of a batch, each sample's prompt with its own token vectors."""
        words = {_word(i): self.vectors(one) for i, one in enumerate(coefficients)}
        conditioning = self.model.encode_prompts(draw.prompts, words)
        device = self.model.device
        return diffusion_loss(
            self.model, draw.clean.to(device), draw.noise.to(device), draw.timesteps.to(device), conditioning
        )

    def vectors(self, coefficients: torch.Tensor) -> TokenVectors:
        groups = self._per_encoder(coefficients)
        return [basis.expand(group) for basis, group in zip(self._bases_on_device, groups, strict=True)]

    def _per_encoder(self, coefficients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``(G, E, K)`` to one ``(E, K)`` a text encoder; a shared group serves them all."""
        return tuple(coefficients[0 if self.settings.shared else index] for index in range(len(self.bases)))

    def _report(self) -> dict[str, PersonProgress]:
        values = [self.average.value(index) for index in range(len(self.pool.people))]
        empty = torch.zeros_like(self.average.sums[0])
        self.tracker.take(torch.stack([empty if value is None else value for value in values]))
        return {
            person.name: person_progress(self.bases, self._per_encoder(value), self.tracker.movement(index))
            for index, (person, value) in enumerate(zip(self.pool.people, values, strict=True))
            if value is not None
        }

    def _settled(self) -> bool:
        if not self.settings.early_stop or self.step < 2 * WINDOW or self.step % REPORT_EVERY:
            return False
        return all(self.tracker.movement(i) < self.settings.settled for i in range(len(self.pool.people)))

    def _not_finite(self, what: str) -> NotFiniteError:
        remedy = (
            "lower learning_rate or check the checkpoint"
            if self.precision == "fp32"
            else f"set precision to fp32 (it is {self.precision}), or lower learning_rate"
        )
        return NotFiniteError(
            f"The {what} became NaN or infinite at step {self.step + 1}; the state before that step is kept: {remedy}."
        )


def _for_groups(of_encoders: Sequence[torch.Tensor], shared: bool) -> torch.Tensor:
    """``(G, ...)``: one value a text encoder, or their mean where one group serves them all."""
    stacked = torch.stack(list(of_encoders))
    return stacked.mean(dim=0, keepdim=True) if shared else stacked


def _word(index: int) -> str:
    return f"<view{index}>"


def _check_bases(model: DiffusionModel, bases: Sequence[Basis], settings: TrainingSettings) -> None:
    expected = [(encoder.name, encoder.width) for encoder in model.text_encoders]
    given = [(basis.encoder, basis.width) for basis in bases]
    if expected != given:
        raise TrainingError(
            f"The bases {given} do not belong to the text encoders {expected}: build them from this model."
        )
    sizes = {basis.size for basis in bases}
    if sizes != {settings.components}:
        raise TrainingError(
            f"The bases have {sorted(sizes)} components, the settings {settings.components}: build them anew."
        )
