"""The training loop: determinism, resuming bit for bit, averages, several people, early stopping, NaN."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bases import toy_bases, toy_pool
from support.full_disk import full_disk
from support.toys import ToyModel

from celeb_basis.errors import FileError, NotFiniteError, OutOfMemoryError, TrainingError
from celeb_basis.events import Finished, StepDone
from celeb_basis.method import MovingAverage
from celeb_basis.settings import TrainingSettings
from celeb_basis.training import trainer as trainer_module
from celeb_basis.training.state import read_summary, resume_trainer, save_state
from celeb_basis.training.tracking import nearest_names
from celeb_basis.training.trainer import Trainer

_FAST = TrainingSettings(steps=30, components=8, early_stop=False, views=6)


def _trainer(
    settings: TrainingSettings = _FAST, model: ToyModel | None = None, people: tuple[str, ...] = ("ann",)
) -> Trainer:
    model = model or ToyModel()
    return Trainer(model, toy_bases(model, settings.components), toy_pool(people), settings)


def _run(trainer: Trainer, stop_at: int | None = None) -> list[Any]:
    events, interrupt = [], threading.Event()
    for event in trainer.run(interrupt):
        events.append(event)
        if stop_at is not None and trainer.step >= stop_at:
            interrupt.set()
    return events


def _same(first: Trainer, second: Trainer) -> None:
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]), name
    of_first, of_second = first.results(), second.results()
    assert list(of_first) == list(of_second)
    for name, coefficients in of_first.items():
        assert all(torch.equal(a, b) for a, b in zip(coefficients, of_second[name], strict=True))
    assert torch.equal(first.generator.get_state(), second.generator.get_state())
    assert first.loss_sum == second.loss_sum


held_open = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists mapped files")

_WAYS = [("head", "random"), ("direct", "random"), ("direct", "mean")]


@pytest.mark.parametrize(("mode", "start"), _WAYS)
def test_same_seed_same_bits_other_seed_other_result(mode: str, start: str) -> None:
    settings = _FAST.changed({"mode": mode, "start": start})
    first, second, other = (_trainer(s) for s in (settings, settings, settings.changed({"seed": 1})))
    for trainer in (first, second, other):
        _run(trainer)
    _same(first, second)
    assert not torch.equal(first.results()["ann"][0], other.results()["ann"][0])


@pytest.mark.parametrize(("mode", "start"), _WAYS)
@pytest.mark.parametrize("stop", [1, 7, 20])
@pytest.mark.parametrize("widths", [(32,), (32, 24)])
def test_a_resumed_run_ends_bit_identical(
    tmp_path: Path, mode: str, start: str, stop: int, widths: tuple[int, ...]
) -> None:
    settings = _FAST.changed({"mode": mode, "start": start, "accumulation": 2})
    model = ToyModel(widths)
    whole = _trainer(settings, model, ("ann", "bob"))
    _run(whole)

    broken = _trainer(settings, model, ("ann", "bob"))
    events = _run(broken, stop_at=stop)
    assert events[-1].reason == "interrupted"
    assert broken.step == stop
    save_state(broken, tmp_path / "state.safetensors")
    assert read_summary(tmp_path / "state.safetensors").names == ("ann", "bob")

    resumed = resume_trainer(tmp_path / "state.safetensors", model, toy_bases(model))
    assert resumed.step == stop
    last = _run(resumed)[-1]
    assert (last.reason, last.steps) == ("all steps done", 60)
    _same(whole, resumed)


def test_early_stopping_happens_at_the_same_step_after_a_resume(tmp_path: Path) -> None:
    settings = TrainingSettings(steps=2000, components=8, settled=0.25, learning_rate=0.001)
    model = ToyModel()
    whole = _trainer(settings, model)
    last = _run(whole)[-1]
    assert isinstance(last, Finished)
    assert last.reason == "settled"
    assert 100 <= last.steps < 2000

    broken = _trainer(settings, model)
    _run(broken, stop_at=last.steps - 25)
    save_state(broken, tmp_path / "state.safetensors")
    resumed = resume_trainer(tmp_path / "state.safetensors", model, toy_bases(model))
    assert _run(resumed)[-1].steps == last.steps
    _same(whole, resumed)


def test_events_report_steps_losses_and_progress() -> None:
    trainer = _trainer(people=("ann", "bob"))
    steps = [event for event in _run(trainer) if isinstance(event, StepDone)]
    assert [event.step for event in steps] == list(range(1, 61))
    assert all(event.total == 60 and math.isfinite(event.loss) and event.seconds_left is not None for event in steps)
    assert steps[0].average_loss == pytest.approx(steps[0].loss)
    reports = [event for event in steps if event.people]
    assert [event.step for event in reports] == [10, 20, 30, 40, 50, 60]
    last = reports[-1].people
    assert last is not None
    assert set(last) == {"ann", "bob"}
    for name in ("ann", "bob"):
        coefficients = trainer.results()[name][0]
        basis = trainer.bases[0]
        assert last[name].distance == pytest.approx(float((coefficients.norm(dim=-1) / basis.spread).mean()), rel=1e-5)
        assert [n for n, _ in last[name].nearest] == [n for n, _ in nearest_names([basis], [coefficients], 5)]
        assert 0 < last[name].movement <= 1
    as_json = reports[-1].as_dict()
    assert as_json["event"] == "StepDone"
    assert as_json["people"]["ann"]["nearest"][0][0] in basis.names


def test_learning_lowers_the_loss_of_a_model_that_listens() -> None:
    model = ToyModel()
    with (
        torch.no_grad()
    ):  # the target is what the host itself says of a hidden identity: reachable, so the loss must fall
        hidden = toy_bases(model)[0]
        goal = hidden.expand(
            torch.nn.functional.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(9)), dim=-1)
        )
    trainer = _trainer(
        TrainingSettings(steps=150, components=8, mode="direct", early_stop=False, learning_rate=0.05), model
    )
    clean_predict = model.predict

    def loss(_host: Any, clean: Any, noise: Any, timesteps: Any, conditioning: Any) -> torch.Tensor:
        noisy = clean + noise
        wanted = clean_predict(
            noisy, timesteps, model.encode_prompts(["the <p> person"] * len(clean), {"<p>": [goal]})
        ).detach()
        return torch.nn.functional.mse_loss(clean_predict(noisy, timesteps, conditioning), wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "diffusion_loss", loss)
        losses = [event.loss for event in _run(trainer) if isinstance(event, StepDone)]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


def test_moving_average_is_bias_corrected() -> None:
    average = MovingAverage(1, (1, 2, 3), 0.99)
    assert average.value(0) is None
    values = torch.randn(40, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.99 ** (39 - i) for i in range(40)])
    for value in values:
        average.update(0, value)
    expected = (weights[:, None, None, None] * values).sum(0) / weights.sum()
    result = average.value(0)
    assert result is not None
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)
    constant = MovingAverage(1, (1, 1, 1), 0.9)
    constant.update(0, torch.ones(1, 1, 1))
    assert float(constant.value(0)) == pytest.approx(1.0)  # type: ignore[arg-type]


def test_accumulation_equals_one_large_batch() -> None:
    """Two accumulated batches of two give the gradient of the mean loss over the four samples."""
    trainer = _trainer(_FAST.changed({"accumulation": 2, "mode": "direct"}))
    state = trainer.generator.get_state()
    for batch in [trainer.sample_batch(), trainer.sample_batch()]:
        (trainer.loss(batch, trainer.coefficients(batch)) / 2).backward()
    raw = trainer.module.get_parameter("raw")
    assert raw.grad is not None
    expected = raw.grad.clone()
    trainer.generator.set_state(state)
    trainer.optimizer.step = lambda *_, **__: None  # type: ignore[method-assign]
    next(iter(trainer.run()))
    torch.testing.assert_close(raw.grad, expected)


def test_nan_stops_in_the_state_before_it_and_names_a_setting(tmp_path: Path) -> None:
    poisoned = _trainer(model=ToyModel(poison_at=6))
    with pytest.raises(NotFiniteError, match=r"at step 6.*learning_rate"):
        _run(poisoned)
    assert poisoned.step == 5
    assert poisoned.model.training_depth == 0  # type: ignore[attr-defined]
    healthy = _trainer()
    _run(healthy, stop_at=5)
    _same(poisoned, healthy)
    save_state(poisoned, tmp_path / "kept.safetensors")
    model = ToyModel()
    resumed = resume_trainer(tmp_path / "kept.safetensors", model, toy_bases(model))
    _run(resumed)
    whole = _trainer()
    _run(whole)
    _same(whole, resumed)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize("where", ["forward", "backward", "preparing"])
def test_out_of_memory_stops_in_the_state_before_it_and_says_what_to_change(error: Exception, where: str) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(_ctx: Any, _gradient: Any) -> Any:
            raise error

    class Model(ToyModel):
        fails = False

        def predict(self, *given: Any) -> torch.Tensor:
            if self.fails and where == "forward":
                raise error
            result = super().predict(*given)
            return Fails.apply(result) if self.fails else result

        def prepare_for_training(self, *given: Any, **named: Any) -> Any:
            if self.fails and where == "preparing":
                raise error
            return super().prepare_for_training(*given, **named)

    model = Model()
    trainer = _trainer(model=model)
    _run(trainer, stop_at=5)
    model.fails = True
    with pytest.raises(OutOfMemoryError, match=r"^Out of memory at step 6: .*close other programs\.$"):
        _run(trainer)
    assert trainer.step == 5
    assert model.training_depth == 0
    model.fails = False
    _run(trainer)
    whole = _trainer(model=Model())
    _run(whole)
    _same(trainer, whole)


def test_the_model_is_restored_when_the_run_is_closed() -> None:
    trainer = _trainer()
    run = trainer.run()
    next(run)
    assert trainer.model.training_depth == 1  # type: ignore[attr-defined]
    run.close()
    assert trainer.model.training_depth == 0  # type: ignore[attr-defined]


def test_only_the_coefficients_get_gradients() -> None:
    trainer = _trainer()
    _run(trainer)
    assert all(p.grad is None for p in trainer.model.denoiser.parameters())  # type: ignore[attr-defined]


def test_shared_coefficients_serve_both_text_encoders() -> None:
    model = ToyModel((32, 24))
    trainer = Trainer(model, toy_bases(model), toy_pool(), _FAST.changed({"shared": True}))
    _run(trainer)
    first, second = trainer.results()["ann"]
    assert torch.equal(first, second)
    assert trainer.shape.size == 2 * 8
    assert Trainer(model, toy_bases(model), toy_pool(), _FAST).shape.size == 2 * 2 * 8


def test_resuming_with_another_model_or_basis_is_refused(tmp_path: Path) -> None:
    trainer = _trainer()
    _run(trainer, stop_at=3)
    path = tmp_path / "state.safetensors"
    save_state(trainer, path)
    other = ToyModel(seed=1)
    with pytest.raises(TrainingError, match="not with toy"):
        resume_trainer(path, other, toy_bases(other))
    model = ToyModel()
    with pytest.raises(TrainingError, match="another basis"):
        resume_trainer(path, model, toy_bases(model, names=50))
    with pytest.raises(TrainingError, match="no learning state"):
        resume_trainer(tmp_path / "missing", model, toy_bases(model))
    (tmp_path / "text").write_text("not a state")
    with pytest.raises(TrainingError, match="damaged"):
        resume_trainer(tmp_path / "text", model, toy_bases(model))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="damaged"):
        resume_trainer(path, model, toy_bases(model))


@held_open
def test_a_resumed_run_does_not_keep_its_file_open(tmp_path: Path) -> None:
    """Windows refuses to overwrite a file that is mapped into memory."""
    path, model = tmp_path / "state.safetensors", ToyModel()
    trainer = _trainer(model=model)
    _run(trainer, stop_at=3)
    save_state(trainer, path)
    resumed = resume_trainer(path, model, toy_bases(model))
    assert path.name not in Path("/proc/self/maps").read_text()
    _run(resumed, stop_at=5)
    save_state(resumed, path)


@pytest.mark.parametrize("before", [torch.float32, torch.float16])
@pytest.mark.parametrize("after", [torch.float32, torch.float16])
def test_runs_resume_with_and_without_loss_scaling(tmp_path: Path, before: torch.dtype, after: torch.dtype) -> None:
    model = ToyModel()
    model.dtype = before
    trainer = _trainer(model=model)
    _run(trainer, stop_at=3)
    save_state(trainer, tmp_path / "state.safetensors")
    model.dtype = after
    resumed = resume_trainer(tmp_path / "state.safetensors", model, toy_bases(model))
    if before == after:
        assert resumed.scaler.state_dict() == trainer.scaler.state_dict()
    assert _run(resumed)[-1].reason == "all steps done"


def test_a_state_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    trainer = _trainer()
    _run(trainer, stop_at=3)
    with full_disk(), pytest.raises(FileError, match=r"Could not write .*state\.safetensors"):
        save_state(trainer, tmp_path / "state.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_results_before_any_step_are_refused() -> None:
    with pytest.raises(TrainingError, match="not been learned yet"):
        _trainer().results()


def test_bases_of_another_model_are_refused() -> None:
    model, other = ToyModel(), ToyModel((24,))
    with pytest.raises(TrainingError, match="do not belong"):
        Trainer(model, toy_bases(other), toy_pool(), _FAST)
    with pytest.raises(TrainingError, match=r"\[8\] components, the settings 9"):
        Trainer(model, toy_bases(model), toy_pool(), _FAST.changed({"components": 9}))


def test_no_picture_is_noisier_than_the_settings_say() -> None:
    def timesteps(highest_noise: float) -> set[int]:
        settings = TrainingSettings(components=8, batch_size=64, highest_noise=highest_noise)
        trainer = _trainer(settings)
        return {value for _ in range(200) for value in trainer.sample_batch().timesteps.tolist()}

    total = ToyModel().schedule.timesteps
    assert timesteps(1.0) == set(range(total))
    assert timesteps(0.5) == set(range(total // 2))
    assert timesteps(0.05) == set(range(max(1, round(0.05 * total))))
