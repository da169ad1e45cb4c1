"""The training loop (paper section 4): it can be stepped, watched, interrupted, saved and resumed."""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from celeb_basis.diffusion_model import Conditioning, DiffusionModel, TokenVectors, to_device
from celeb_basis.errors import NotFiniteError, OutOfMemoryError, TrainingError, is_out_of_memory
from celeb_basis.events import Event, Finished, FinishReason, PersonProgress, StepDone, Warned
from celeb_basis.method import (
    Basis,
    CoefficientHead,
    CoefficientShape,
    DirectCoefficients,
    MovingAverage,
    NoiseSchedule,
    ScaledCoefficients,
    diffusion_loss,
)
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.augment import TEMPLATES, training_prompt
from celeb_basis.training.dataset import ViewPool
from celeb_basis.training.memory import MemoryNeed, advice_when_out_of_memory, estimate
from celeb_basis.training.precision import make_scaler, resolve_precision, tf32_allowed
from celeb_basis.training.step_graph import MIN_STEPS, CudaRecorder, Recorder, StepGraph
from celeb_basis.training.tracking import REPORT_EVERY, WINDOW, KnownNames, MovementTracker

_log = logging.getLogger(__name__)

_LOSS_DECAY = 0.98
# fp16's scaler skips a step whose gradients overflowed; this many in a row mean that no scale will do.
_MAX_SKIPPED = 20


@dataclass(frozen=True)
class Batch:
    """The random choices of one batch of ``B`` samples. All tensors are on the CPU."""

    people: torch.Tensor
    """``(B,)`` index of each sample's person."""
    views: torch.Tensor
    """``(B,)`` index of the person's view."""
    prompts: list[str]
    """``B`` training prompts, with a placeholder token of its own for each sample."""
    clean: torch.Tensor
    """``(B, C, h, w)`` latents sampled from the VAE's posterior."""
    noise: torch.Tensor
    """``(B, C, h, w)``."""
    timesteps: torch.Tensor
    """``(B,)`` int64, uniform over the noise schedule, or over the part of it that the settings name."""


@dataclass(frozen=True)
class _Denoiser:
    """A model's denoiser, and its schedule on the device."""

    schedule: NoiseSchedule
    predict: Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]


class Trainer:
    """Learns the people of a pool together. The model stays as it is: :meth:`run` restores everything when it ends.

    The whole state (parameters, optimizer, averages, random state, pool) is in public attributes, which
    :mod:`celeb_basis.training.state` writes and reads; it may be saved between any two steps.
    """

    def __init__(
        self,
        model: DiffusionModel,
        bases: Sequence[Basis],
        pool: ViewPool,
        settings: TrainingSettings,
    ) -> None:
        """Set up parameters, optimizer and random state.

        Args:
            model: The model to learn on.
            bases: One per text encoder of the model, in its order.
            pool: The people's encoded views.
            settings: The recipe.

        Raises:
            TrainingError: If the bases do not belong to the model.
        """
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
            self.module.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=model.device.type == "cuda" or None,  # one kernel in place of a dozen
        )
        self.scaler = make_scaler(model.device, self.precision)
        self.average = MovingAverage(
            people, (self.shape.groups, self.shape.positions, self.shape.components), settings.average_decay
        )
        self.tracker = MovementTracker()
        self.step = 0
        self.seconds = 0.0
        self.begun = time.time()
        """When the run began; it stays so when the run is resumed."""
        self.loss_sum = 0.0
        self._skipped = 0
        self._graph: StepGraph | None = None
        self._known_names = KnownNames(bases)
        # Needed at every step: copied to the device once.
        self._bases_on_device = tuple(basis.to(model.device) for basis in bases)
        self._schedule = model.schedule.to(model.device)

    def make_module(self, people: int) -> CoefficientHead | DirectCoefficients | ScaledCoefficients:
        """What is trained: the head, or everyone's coefficients themselves."""
        if self.settings.mode == "head":
            return CoefficientHead(self.shape, self.generator)
        if self.settings.start != "random":
            deviations = _for_groups([basis.deviations for basis in self.bases], self.settings.shared)
            return ScaledCoefficients(self.shape, people, deviations)
        return DirectCoefficients(self.shape, people, self.generator)

    @property
    def total(self) -> int:
        """Optimizer steps in total: the setting's steps for each person."""
        return self.settings.steps * len(self.pool.people)

    def run(self, interrupt: threading.Event | None = None) -> Generator[Event, None, None]:
        """Step until all steps are done, the coefficients have settled, or the run is interrupted.

        Yields a :class:`StepDone` after each step and a :class:`Finished` at the end. Calling it again continues.

        Args:
            interrupt: Cooperative cancellation flag, checked between steps.

        Raises:
            NotFiniteError: As soon as the loss or a gradient is not finite.
            OutOfMemoryError: As soon as memory runs out.
                After either, the trainer is in the state before that step, and the model as it was before the run.
        """
        try:
            reason = yield from self._run(interrupt)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # The model is as before now. What the failed step computed would otherwise be kept by the error's frames.
            traceback.clear_frames(error.__traceback__)
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            advice = advice_when_out_of_memory(self.model, self.settings)
            raise OutOfMemoryError(f"Out of memory at step {self.step + 1}: {advice}.") from error
        yield Finished(reason=reason, steps=self.step, seconds=self.seconds)

    def _run(self, interrupt: threading.Event | None) -> Generator[Event, None, FinishReason]:
        """Step until there is a reason to stop, and return it."""
        need = estimate(self.model, self.settings)
        _log.info("%s", need.sentence())
        with (
            tf32_allowed(self.model.device),
            self.model.prepare_for_training(self.precision, checkpointing=need.checkpointing),
            self._recording(need),
        ):
            while True:
                if self.step >= self.total:
                    return "all steps done"
                if interrupt is not None and interrupt.is_set():
                    return "interrupted"
                if self._settled():
                    return "settled"
                yield self._one_step()
                if self._graph is not None and self._graph.problem:
                    yield Warned(self._graph.problem)
                    self._graph = None

    @contextmanager
    def _recording(self, need: MemoryNeed) -> Iterator[None]:
        """Steps are recorded inside the context if that pays; what was recorded is freed at the end."""
        enough = self.total - self.step >= MIN_STEPS
        recorder = self.make_recorder() if enough and need.recording else None
        self._graph = graph = None if recorder is None else StepGraph(recorder)
        try:
            yield
        finally:
            self._graph = None
            if graph is not None:
                graph.close()

    def make_recorder(self) -> Recorder | None:
        """What records work on the model's device, if anything does."""
        device = self.model.device
        return CudaRecorder(device) if device.type == "cuda" and torch.version.hip is None else None

    def results(self) -> dict[str, tuple[torch.Tensor, ...]]:
        """What has been learned so far.

        Returns:
            By the person's name, one ``(E, K)`` float32 tensor per text encoder: the bias-corrected moving average.

        Raises:
            TrainingError: If a person has not been in a single step yet.
        """
        results = {}
        for index, person in enumerate(self.pool.people):
            value = self.average.value(index)
            if value is None:
                raise TrainingError(f"{person.name} has not been learned yet: let it run for more steps.")
            results[person.name] = self._per_encoder(value)
        return results

    def change_settings(self, changes: Mapping[str, Any]) -> None:
        """Change settings before the run continues; the optimizer's moments and the averages stay."""
        self.settings = self.settings.changed(changes)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate
            group["weight_decay"] = self.settings.weight_decay
        if "precision" in changes:
            self.precision = resolve_precision(self.settings.precision, self.model.dtype, self.model.device)
            self.scaler = make_scaler(self.model.device, self.precision)

    def _one_step(self) -> StepDone:
        started = time.perf_counter()
        random_state = self.generator.get_state()
        try:
            loss = self._update()
        except Exception:  # whatever it is, a state that is saved now is the one before this step
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
        """One optimizer step; returns the loss. The device is waited for once, when all of it has been given to it."""
        self.optimizer.zero_grad(set_to_none=True)
        batches = self.settings.accumulation
        people: list[int] = []
        losses, coefficients = [], []
        for _ in range(batches):
            batch = self.sample_batch()
            of_batch = self.coefficients(batch)
            loss = self.loss(batch, of_batch)
            self.scaler.scale(loss / batches).backward()
            people += batch.people.tolist()
            losses.append(loss.detach())
            coefficients.append(of_batch.detach())
        finite, on_cpu, values = self._read_back(losses, torch.cat(coefficients))
        total = sum(one / batches for one in on_cpu)
        if not math.isfinite(total):
            raise self._not_finite("loss")
        self._apply_gradients(finite)
        for person in dict.fromkeys(people):
            of_person = [value for index, value in zip(people, values, strict=True) if index == person]
            self.average.update(person, torch.stack(of_person).mean(dim=0))
        return total

    def _read_back(
        self, losses: Sequence[torch.Tensor], coefficients: torch.Tensor
    ) -> tuple[bool, list[float], torch.Tensor]:
        """What the CPU has to know of a step, in one copy: every read from a graphics card waits until it has caught up.

        Args:
            losses: One number for each batch.
            coefficients: Of all batches together.

        Returns:
            Whether all gradients are finite, the losses, and the coefficients on the CPU.
        """
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        finite = [torch.isfinite(gradient).all() for gradient in gradients]
        parts = [torch.stack(finite).all().reshape(1), torch.stack(list(losses)), coefficients.flatten()]
        read = torch.cat([part.float() for part in parts]).cpu()
        numbers = read[: 1 + len(losses)].tolist()
        return bool(numbers[0]), numbers[1:], read[1 + len(losses) :].reshape(coefficients.shape)

    def _apply_gradients(self, finite: bool) -> None:
        self._skipped = 0 if finite else self._skipped + 1
        if not finite and (not self.scaler.is_enabled() or self._skipped > _MAX_SKIPPED):
            raise self._not_finite("gradient")
        self.scaler.unscale_(self.optimizer)
        if finite:  # the scaler's own step() would ask the device for this once more
            self.optimizer.step()
        self.scaler.update()

    def sample_batch(self) -> Batch:
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
            training_prompt(TEMPLATES[t], _token(i), p.descriptions[v] if self.settings.describe else "")
            for i, (t, p, v) in enumerate(zip(templates, chosen, views.tolist(), strict=True))
        ]
        return Batch(
            people=people,
            views=views,
            prompts=prompts,
            clean=clean,
            noise=torch.randn(means.shape, generator=random),
            timesteps=torch.randint(self._timesteps, (size,), generator=random),
        )

    @property
    def _timesteps(self) -> int:
        """The number of timesteps that are drawn from, from the clean end of the schedule on."""
        return max(1, round(self.settings.highest_noise * self.model.schedule.timesteps))

    def coefficients(self, batch: Batch) -> torch.Tensor:
        """``(B, G, E, K)`` coefficients of a batch, with gradients."""
        vectors = torch.empty(0)  # what holds the coefficients themselves does not look at faces
        if not isinstance(self.module, (DirectCoefficients, ScaledCoefficients)):
            pairs = zip(batch.people.tolist(), batch.views.tolist(), strict=True)
            vectors = torch.stack([self.pool.people[person].vectors[view] for person, view in pairs])
            vectors = to_device(vectors, self.model.device)
        result: torch.Tensor = self.module(vectors, to_device(batch.people, self.model.device))
        return result

    def loss(self, batch: Batch, coefficients: torch.Tensor) -> torch.Tensor:
        """The diffusion loss of a batch, each sample's prompt with its own token vectors.

        Args:
            batch: The random choices.
            coefficients: ``(B, G, E, K)``.
        """
        placeholder_tokens = {_token(i): self.token_vectors(one) for i, one in enumerate(coefficients)}
        conditioning = self.model.encode_prompts(batch.prompts, placeholder_tokens)
        clean, noise, timesteps = (
            to_device(one, self.model.device) for one in (batch.clean, batch.noise, batch.timesteps)
        )
        return diffusion_loss(_Denoiser(self._schedule, self._predict), clean, noise, timesteps, conditioning)

    def _predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The denoiser's output, replayed from a recording if there is one."""
        if self._graph is not None and (call := self.model.denoiser_call(latents, timesteps, conditioning)) is not None:
            return self._graph(call)
        return self.model.predict(latents, timesteps, conditioning)

    def token_vectors(self, coefficients: torch.Tensor) -> TokenVectors:
        """Expand ``(G, E, K)`` coefficients on the model's device to one ``(E, D)`` tensor per text encoder."""
        per_encoder = zip(self._bases_on_device, self._per_encoder(coefficients), strict=True)
        return [basis.expand(one) for basis, one in per_encoder]

    def _per_encoder(self, coefficients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``(G, E, K)`` to one ``(E, K)`` per text encoder; a shared group serves all of them."""
        return tuple(coefficients[0 if self.settings.shared else index] for index in range(len(self.bases)))

    def _report(self) -> dict[str, PersonProgress]:
        values = [self.average.value(index) for index in range(len(self.pool.people))]
        empty = torch.zeros_like(self.average.sums[0])
        self.tracker.take(torch.stack([empty if value is None else value for value in values]))
        return {
            person.name: self._known_names.progress(self._per_encoder(value), self.tracker.movement(index))
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
            else f"set precision to fp32 (it is {self.precision}; fp32 is slower and takes more memory), or lower "
            "learning_rate"
        )
        return NotFiniteError(
            f"The {what} became NaN or infinite at step {self.step + 1}; learning stopped in the state before that step: "
            f"{remedy}."
        )


def _for_groups(of_encoders: Sequence[torch.Tensor], shared: bool) -> torch.Tensor:
    """``(G, ...)``: one value per text encoder, or their mean if one group serves all of them."""
    stacked = torch.stack(list(of_encoders))
    return stacked.mean(dim=0, keepdim=True) if shared else stacked


def _token(index: int) -> str:
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
            f"The bases have {sorted(sizes)} components, the settings {settings.components}: build them with that number."
        )
