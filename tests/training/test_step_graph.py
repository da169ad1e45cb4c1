"""Recorded steps: the same numbers as without a recording, and a sentence where recording fails. On the CPU, running the
recorded work again stands for replaying a CUDA graph; it reads and writes the same tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bases import toy_bases, toy_pool
from support.models import make_host
from support.toys import ToyModel

from celeb_basis.diffusion_model import DenoiserBlock, MemoryStats, TensorCall, VaeMemory
from celeb_basis.events import Warned
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.memory import estimate
from celeb_basis.training.state import resume_trainer, save_state
from celeb_basis.training.step_graph import MIN_STEPS, StepGraph
from celeb_basis.training.trainer import Trainer


class Again:
    """Repeats work by running it; like a graph, it knows nothing of new inputs but what was copied into the old ones."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.warm_ups = self.records = self.replays = self.closed = 0
        self._fails_at, self._error = (
            fails_at,
            error or RuntimeError("operation not permitted when stream is capturing\nmore"),
        )

    def warm_up(self, work: Callable[[], None]) -> None:
        self.warm_ups += 1
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.records == self._fails_at:
            raise self._error
        self.records += 1
        work()

        def replay() -> None:
            self.replays += 1
            with torch.enable_grad():
                work()

        return replay

    def close(self) -> None:
        self.closed += 1


WEIGHT = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def _function(x: torch.Tensor, fixed: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ WEIGHT) * fixed + (y * y).sum()


def _call(seed: int, rows: int = 2) -> TensorCall:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator).requires_grad_()
    fixed, y = torch.randn(3, generator=generator), torch.randn(4, generator=generator).requires_grad_()
    return TensorCall(_function, (2 * x, fixed, y))


def _gradients(output: torch.Tensor, call: TensorCall) -> list[torch.Tensor]:
    wanted = [one for one in call.inputs if one.requires_grad]
    return list(torch.autograd.grad(output.square().sum(), wanted))


def test_replays_give_the_results_and_gradients_of_new_inputs() -> None:
    recorder = Again()
    graph = StepGraph(recorder)
    outputs = []
    for seed in range(4):
        call = _call(seed)
        output = graph(call)
        assert torch.equal(output, call())
        for found, expected in zip(_gradients(output, call), _gradients(call(), call), strict=True):
            assert torch.equal(found, expected)
        outputs.append((output, call()))
    assert all(torch.equal(output, expected) for output, expected in outputs), "a later step overwrites no result"
    assert (recorder.warm_ups, recorder.records, recorder.replays) == (3, 2, 2 + 4 * 2)
    assert graph.problem == ""


def test_other_shapes_other_functions_and_no_gradients_are_computed_as_they_are() -> None:
    recorder = Again()
    graph = StepGraph(recorder)
    graph(_call(0))
    replays = recorder.replays
    wide = _call(1, rows=3)
    assert torch.equal(graph(wide), wide())
    other = TensorCall(lambda *inputs: 2 * _function(*inputs), _call(2).inputs)
    assert torch.equal(graph(other), other())
    without = TensorCall(_function, tuple(one.detach() for one in _call(3).inputs))
    assert torch.equal(graph(without), without())
    assert recorder.replays == replays


def test_a_backward_pass_that_comes_too_late_is_refused() -> None:
    graph = StepGraph(Again())
    first, second = _call(0), _call(1)
    output = graph(first)
    graph(second)
    with pytest.raises(RuntimeError, match="before the next forward pass"):
        _gradients(output, first)


@pytest.mark.parametrize("fails_at", [0, 1])
def test_where_recording_fails_the_step_is_computed_as_it_is_and_the_reason_is_a_sentence(fails_at: int) -> None:
    recorder = Again(fails_at)
    graph = StepGraph(recorder)
    for seed in range(2):
        call = _call(seed)
        output = graph(call)
        assert torch.equal(output, call())
        assert all(torch.equal(a, b) for a, b in zip(_gradients(output, call), _gradients(call(), call), strict=True))
    assert recorder.closed == 1, "what was recorded is freed, and it is not tried again"
    assert graph.problem.startswith("Steps cannot be recorded as a CUDA graph here (operation not permitted when")
    assert "\n" not in graph.problem
    assert graph.problem.endswith("set cuda_graph to off to skip the attempt.")


def test_a_recording_that_computes_something_else_is_not_used() -> None:
    class Off(Again):
        """Replays that spoil the result or the gradients."""

        def __init__(self, spoils: str) -> None:
            super().__init__()
            self.spoils = spoils

        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            again = super().record(work)
            owner = work.__self__  # type: ignore[attr-defined]

            def replay() -> None:
                again()
                for one in (owner._output,) if self.spoils == "result" else owner._gradients:
                    one.mul_(1.5)

            return replay

    for spoils in ("result", "gradient"):
        graph = StepGraph(Off(spoils))
        call = _call(0)
        output = graph(call)
        assert torch.equal(output, call())
        assert all(map(torch.equal, _gradients(output, call), _gradients(call(), call)))
        assert f"its {spoils} differs by 0.5 of its length" in graph.problem


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_small_stable_diffusion_learns_the_same(kind: str) -> None:
    host = make_host(kind, width=64, **({"second_width": 64} if kind == "sdxl" else {}))
    graph = StepGraph(Again())
    generator = torch.Generator().manual_seed(0)
    with host.prepare_for_training("fp32"):
        for step in range(3):
            vectors = [torch.randn(2, e.width, generator=generator).requires_grad_() for e in host.text_encoders]
            latents, timesteps = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([300 + step, 20])
            results = []
            for recorded in (False, True):
                conditioning = host.encode_prompts(["a <p>", "<p> here"], {"<p>": vectors})
                call = host.denoiser_call(latents, timesteps, conditioning)
                assert call is not None
                output = graph(call) if recorded else host.predict(latents, timesteps, conditioning)
                gradients = torch.autograd.grad(output.square().mean(), vectors)
                results.append((output.detach(), *gradients))
            for plain, replayed in zip(*results, strict=True):
                torch.testing.assert_close(plain, replayed, rtol=1e-5, atol=1e-7)
    assert graph.problem == ""


class Recorded(ToyModel):
    def denoiser_call(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: torch.Tensor) -> TensorCall:
        return TensorCall(self.denoiser, (latents, timesteps, conditioning))


_SETTINGS = TrainingSettings(steps=MIN_STEPS + 10, components=8, early_stop=False, accumulation=2)


def _trainer(model: ToyModel, recorder: Any, settings: TrainingSettings = _SETTINGS) -> Trainer:
    trainer = Trainer(model, toy_bases(model), toy_pool(), settings)
    trainer.make_recorder = lambda: recorder  # type: ignore[method-assign]
    return trainer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_recorded_run_learns_what_an_unrecorded_one_does_and_frees_the_recording(dtype: torch.dtype) -> None:
    recorder = Again()
    results = []
    for used in (None, recorder):
        model = Recorded()
        model.dtype = dtype
        trainer = _trainer(model, used)
        assert not any(isinstance(event, Warned) for event in trainer.run())
        results.append(trainer.results()["ann"][0])
    assert recorder.replays > 2 * 2 * _SETTINGS.steps
    assert recorder.closed == 1
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


def test_a_run_is_resumed_recorded_as_it_would_have_gone_on(tmp_path: Path) -> None:
    whole = _trainer(Recorded(), Again())
    list(whole.run())
    broken, interrupt = _trainer(Recorded(), Again()), threading.Event()
    for _ in broken.run(interrupt):
        if broken.step == 7:
            interrupt.set()
    save_state(broken, tmp_path / "state.safetensors")
    model = Recorded()
    resumed = resume_trainer(tmp_path / "state.safetensors", model, toy_bases(model))
    recorder = Again()
    resumed.make_recorder = lambda: recorder  # type: ignore[method-assign]
    list(resumed.run())
    assert recorder.replays
    assert torch.equal(resumed.results()["ann"][0], whole.results()["ann"][0])


def test_a_run_goes_on_with_a_warning_where_recording_fails() -> None:
    trainer = _trainer(Recorded(), Again(0, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")))
    events = list(trainer.run())
    (warning,) = [event.message for event in events if isinstance(event, Warned)]
    assert "CUDA out of memory. Tried to allocate 2 GiB)" in warning
    assert trainer.step == trainer.total
    plain = _trainer(Recorded(), None)
    list(plain.run())
    assert torch.equal(trainer.results()["ann"][0], plain.results()["ann"][0])


@pytest.mark.parametrize(
    ("changes", "recorded"),
    [({}, True), ({"cuda_graph": "off"}, False), ({"checkpointing": "on"}, False), ({"steps": MIN_STEPS - 1}, False)],
)
def test_when_steps_are_recorded(changes: dict[str, Any], recorded: bool) -> None:
    recorder = Again()
    trainer = _trainer(Recorded(), recorder, _SETTINGS.changed(changes))
    next(trainer.run())
    assert bool(recorder.records) is recorded


def test_a_host_that_cannot_be_recorded_and_a_processor_are_not() -> None:
    class Cannot(ToyModel):
        def denoiser_call(self, *_: Any) -> None:
            return None

    recorder = Again()
    next(_trainer(Cannot(), recorder).run())
    assert recorder.records == 0
    model = ToyModel()
    assert Trainer(model, toy_bases(model), toy_pool(), _SETTINGS).make_recorder() is None


def test_nothing_is_recorded_where_a_preview_would_not_fit_beside_it() -> None:
    model, settings = ToyModel(), _SETTINGS.changed({"size": 512})
    stats = MemoryStats((DenoiserBlock("transformer", 1, 320, 320, 8),) * 10, 8, 0, 0, False, None)
    stats = replace(stats, vae=VaeMemory(0, 0, 4000.0, 0))
    model.memory = lambda: stats  # type: ignore[method-assign]
    need = estimate(model, settings)
    assert need.recording
    for free, recording in ((2 * (need.plain + need.images), True), (int(1.2 * need.plain), False)):
        found = replace(stats, free=free)
        model.memory = lambda found=found: found  # type: ignore[method-assign, misc]
        assert not estimate(model, settings).checkpointing
        assert estimate(model, settings).recording is recording
        assert not estimate(model, settings.changed({"cuda_graph": "off"})).recording
        assert estimate(model, settings.changed({"cuda_graph": "on"})).recording
