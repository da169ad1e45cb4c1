"""The loop: determinism, resuming bit for bit, averages, several people, early stop, what is not finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bases import toy_bases, toy_pool
from support.full_disk import full_disk
from support.toys import ToyHost

from celeb_basis.errors import FileError, LearningError, NotFiniteError
from celeb_basis.events import Finished, StepDone
from celeb_basis.method import MovingAverage
from celeb_basis.settings import LearnSettings
from celeb_basis.training.state import resume_learner, save_state, state_people
from celeb_basis.training.trainer import Learner

_FAST = LearnSettings(steps=30, components=8, early_stop=False, views=6)


def _learner(
    settings: LearnSettings = _FAST, host: ToyHost | None = None, people: tuple[str, ...] = ("ann",)
) -> Learner:
    host = host or ToyHost()
    return Learner(host, toy_bases(host, settings.components), toy_pool(people), settings)


def _run(learner: Learner, stop_at: int | None = None) -> list[Any]:
    events = []
    for event in learner.run():
        events.append(event)
        if stop_at is not None and learner.step >= stop_at:
            learner.interrupt()
    return events


def _same(first: Learner, second: Learner) -> None:
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    for one, two in zip(first.results(), second.results(), strict=True):
        assert one.name == two.name
        assert all(torch.equal(a, b) for a, b in zip(one.coefficients, two.coefficients, strict=True))
    assert torch.equal(first.generator.get_state(), second.generator.get_state())
    assert first.loss_sum == second.loss_sum


held_open = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")

_WAYS = [("head", "random"), ("direct", "random"), ("direct", "mean")]


@pytest.mark.parametrize(("mode", "start"), _WAYS)
def test_same_seed_same_bits_other_seed_other_result(mode: str, start: str) -> None:
    settings = _FAST.changed({"mode": mode, "start": start})
    first, second, other = (_learner(s) for s in (settings, settings, settings.changed({"seed": 1})))
    for learner in (first, second, other):
        _run(learner)
    _same(first, second)
    assert not torch.equal(first.results()[0].coefficients[0], other.results()[0].coefficients[0])


@pytest.mark.parametrize(("mode", "start"), _WAYS)
@pytest.mark.parametrize("stop", [1, 7, 20])
@pytest.mark.parametrize("widths", [(32,), (32, 24)])
def test_interrupted_and_resumed_ends_bit_identical(
    tmp_path: Path, mode: str, start: str, stop: int, widths: tuple[int, ...]
) -> None:
    settings = _FAST.changed({"mode": mode, "start": start, "accumulation": 2})
    host = ToyHost(widths)
    whole = _learner(settings, host, ("ann", "bob"))
    _run(whole)

    broken = _learner(settings, host, ("ann", "bob"))
    events = _run(broken, stop_at=stop)
    assert events[-1].reason == "interrupted"
    assert broken.step == stop
    save_state(broken, tmp_path / "state.safetensors")
    assert state_people(tmp_path / "state.safetensors") == ("ann", "bob")

    resumed = resume_learner(tmp_path / "state.safetensors", host, toy_bases(host))
    assert resumed.step == stop
    last = _run(resumed)[-1]
    assert (last.reason, last.steps) == ("all steps done", 60)
    _same(whole, resumed)


def test_early_stop_comes_at_the_same_step_after_a_resume(tmp_path: Path) -> None:
    settings = LearnSettings(steps=2000, components=8, settled=0.25, learning_rate=0.001)
    host = ToyHost()
    whole = _learner(settings, host)
    last = _run(whole)[-1]
    assert isinstance(last, Finished)
    assert last.reason == "settled"
    assert 100 <= last.steps < 2000

    broken = _learner(settings, host)
    _run(broken, stop_at=last.steps - 25)
    save_state(broken, tmp_path / "state.safetensors")
    resumed = resume_learner(tmp_path / "state.safetensors", host, toy_bases(host))
    assert _run(resumed)[-1].steps == last.steps
    _same(whole, resumed)


def test_events_tell_steps_losses_and_where_everybody_stands() -> None:
    learner = _learner(people=("ann", "bob"))
    steps = [event for event in _run(learner) if isinstance(event, StepDone)]
    assert [event.step for event in steps] == list(range(1, 61))
    assert all(event.total == 60 and math.isfinite(event.loss) and event.seconds_left is not None for event in steps)
    assert steps[0].average_loss == pytest.approx(steps[0].loss)
    reports = [event for event in steps if event.people]
    assert [event.step for event in reports] == [10, 20, 30, 40, 50, 60]
    last = reports[-1].people
    assert last is not None
    assert set(last) == {"ann", "bob"}
    for index, name in enumerate(("ann", "bob")):
        coefficients = learner.results()[index].coefficients[0]
        basis = learner.bases[0]
        assert last[name].distance == pytest.approx(float((coefficients.norm(dim=-1) / basis.spread).mean()), rel=1e-5)
        assert [n for n, _ in last[name].nearest] == [n for n, _ in basis.nearest(coefficients)]
        assert 0 < last[name].movement <= 1
    as_json = reports[-1].as_dict()
    assert as_json["event"] == "StepDone"
    assert as_json["people"]["ann"]["nearest"][0][0] in basis.names


def test_learning_lowers_the_loss_of_a_model_that_listens() -> None:
    host = ToyHost()
    with (
        torch.no_grad()
    ):  # the target is what the host itself says of a hidden identity: reachable, so the loss must fall
        hidden = toy_bases(host)[0]
        goal = hidden.expand(
            torch.nn.functional.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(9)), dim=-1)
        )
    learner = _learner(
        LearnSettings(steps=150, components=8, mode="direct", early_stop=False, learning_rate=0.05), host
    )
    clean_predict = host.predict
    from celeb_basis.training import trainer as module

    def loss(_host: Any, clean: Any, noise: Any, timesteps: Any, conditioning: Any) -> torch.Tensor:
        noisy = clean + noise
        wanted = clean_predict(
            noisy, timesteps, host.encode_prompts(["the <p> person"] * len(clean), {"<p>": [goal]})
        ).detach()
        return torch.nn.functional.mse_loss(clean_predict(noisy, timesteps, conditioning), wanted)

    original, module.diffusion_loss = module.diffusion_loss, loss  # type: ignore[assignment]
    try:
        losses = [event.loss for event in _run(learner) if isinstance(event, StepDone)]
    finally:
        module.diffusion_loss = original
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
    """Two batches of two summed up give the gradient of the mean loss over the four samples."""
    learner = _learner(_FAST.changed({"accumulation": 2, "mode": "direct"}))
    state = learner.generator.get_state()
    draws = [learner.draw(), learner.draw()]
    for draw in draws:
        (learner.loss(draw, learner.coefficients(draw)) / 2).backward()
    expected = learner.model.raw.grad.clone()  # type: ignore[union-attr]
    learner.generator.set_state(state)
    learner.optimizer.step = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    next(iter(learner.run()))
    torch.testing.assert_close(learner.model.raw.grad, expected)


def test_not_finite_stops_keeps_the_state_before_and_names_a_setting(tmp_path: Path) -> None:
    poisoned = _learner(host=ToyHost(poison_at=6))
    with pytest.raises(NotFiniteError, match=r"at step 6.*learning_rate"):
        _run(poisoned)
    assert poisoned.step == 5
    assert poisoned.host.learning_depth == 0  # type: ignore[attr-defined]
    healthy = _learner()
    _run(healthy, stop_at=5)
    _same(poisoned, healthy)
    save_state(poisoned, tmp_path / "kept.safetensors")
    host = ToyHost()
    resumed = resume_learner(tmp_path / "kept.safetensors", host, toy_bases(host))
    _run(resumed)
    whole = _learner()
    _run(whole)
    _same(whole, resumed)


def test_host_is_released_when_the_consumer_walks_away() -> None:
    learner = _learner()
    run = learner.run()
    next(run)  # type: ignore[call-overload]
    assert learner.host.learning_depth == 1  # type: ignore[attr-defined]
    run.close()  # type: ignore[attr-defined]
    assert learner.host.learning_depth == 0  # type: ignore[attr-defined]


def test_only_the_coefficients_get_gradients() -> None:
    learner = _learner()
    _run(learner)
    assert all(p.grad is None for p in learner.host.denoiser.parameters())  # type: ignore[attr-defined]


def test_shared_coefficients_serve_both_text_encoders() -> None:
    host = ToyHost((32, 24))
    learner = Learner(host, toy_bases(host), toy_pool(), _FAST.changed({"shared": True}))
    _run(learner)
    first, second = learner.results()[0].coefficients
    assert torch.equal(first, second)
    assert learner.shape.size == 2 * 8
    assert Learner(host, toy_bases(host), toy_pool(), _FAST).shape.size == 2 * 2 * 8


def test_resuming_with_something_else_is_refused(tmp_path: Path) -> None:
    learner = _learner()
    _run(learner, stop_at=3)
    path = tmp_path / "state.safetensors"
    save_state(learner, path)
    other = ToyHost(seed=1)
    with pytest.raises(LearningError, match="not with toy"):
        resume_learner(path, other, toy_bases(other))
    host = ToyHost()
    with pytest.raises(LearningError, match="another basis"):
        resume_learner(path, host, toy_bases(host, names=50))
    with pytest.raises(LearningError, match="no learning state"):
        resume_learner(tmp_path / "missing", host, toy_bases(host))
    (tmp_path / "text").write_text("not a state")
    with pytest.raises(LearningError, match="damaged"):
        resume_learner(tmp_path / "text", host, toy_bases(host))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LearningError, match="damaged"):
        resume_learner(path, host, toy_bases(host))


@held_open
def test_a_resumed_run_holds_its_file_no_longer(tmp_path: Path) -> None:
    """Windows refuses to write over a file that is mapped into memory."""
    path, host = tmp_path / "state.safetensors", ToyHost()
    learner = _learner(host=host)
    _run(learner, stop_at=3)
    save_state(learner, path)
    resumed = resume_learner(path, host, toy_bases(host))
    assert path.name not in Path("/proc/self/maps").read_text()
    _run(resumed, stop_at=5)
    save_state(resumed, path)


@pytest.mark.parametrize("before", [torch.float32, torch.float16])
@pytest.mark.parametrize("after", [torch.float32, torch.float16])
def test_a_run_goes_on_whether_or_not_losses_are_scaled_here_and_there(
    tmp_path: Path, before: torch.dtype, after: torch.dtype
) -> None:
    host = ToyHost()
    host.dtype = before
    learner = _learner(host=host)
    _run(learner, stop_at=3)
    save_state(learner, tmp_path / "state.safetensors")
    host.dtype = after
    resumed = resume_learner(tmp_path / "state.safetensors", host, toy_bases(host))
    if before == after:
        assert resumed.scaler.state_dict() == learner.scaler.state_dict()
    assert _run(resumed)[-1].reason == "all steps done"


def test_a_state_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    learner = _learner()
    _run(learner, stop_at=3)
    with full_disk(), pytest.raises(FileError, match=r"Could not write .*state\.safetensors"):
        save_state(learner, tmp_path / "state.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_results_before_any_step_are_refused() -> None:
    with pytest.raises(LearningError, match="not been learned yet"):
        _learner().results()


def test_bases_of_another_model_are_refused() -> None:
    host, other = ToyHost(), ToyHost((24,))
    with pytest.raises(LearningError, match="do not belong"):
        Learner(host, toy_bases(other), toy_pool(), _FAST)
    with pytest.raises(LearningError, match=r"\[8\] components, the settings 9"):
        Learner(host, toy_bases(host), toy_pool(), _FAST.changed({"components": 9}))
