"""A step waits for a graphics card once. Counted on the CPU: what would be read back, and what would be copied to it."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import torch
from support.bases import toy_bases, toy_pool
from support.models import make_host
from support.toys import ToyModel
from torch.utils._python_dispatch import TorchDispatchMode

from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import to_device
from celeb_basis.method import Basis
from celeb_basis.names.lists import shipped_names
from celeb_basis.settings import TrainingSettings
from celeb_basis.training import trainer as trainer_module
from celeb_basis.training.trainer import Trainer


class _Reads(TorchDispatchMode):
    """Counts operations that hand floating-point numbers to Python: on a card, each waits until it has caught up."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        if func in reads and (args[0].is_floating_point() or args[0].dtype == torch.bool):
            self.count += 1
        return func(*args, **(kwargs or {}))


def _fused(trainer: Trainer) -> None:
    """As on a card: there the step counter is on the device, too, and nobody reads it."""
    settings = trainer.settings
    trainer.optimizer = torch.optim.AdamW(
        trainer.module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def _spied_reads(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The tensors that are read back by ``cpu()``, ``item()``, ``float()`` and ``bool()``."""
    read: list[torch.Tensor] = []

    def spy(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def method(self: torch.Tensor, *given: Any, **named: Any) -> Any:
            read.append(self)
            return original(self, *given, **named)

        monkeypatch.setattr(torch.Tensor, name, method)

    for name in ("cpu", "item", "__float__", "__bool__"):
        spy(name)
    return read


@pytest.mark.parametrize(("mode", "start"), [("head", "random"), ("direct", "random"), ("direct", "mean")])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_step_reads_back_once(
    mode: str, start: str, accumulation: int, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ToyModel((32, 24))
    model.dtype = precision
    changes = {"mode": mode, "start": start, "accumulation": accumulation}
    settings = TrainingSettings(steps=30, components=8, early_stop=False, views=6).changed(changes)
    trainer = Trainer(model, toy_bases(model), toy_pool(("ann", "bob")), settings)
    _fused(trainer)
    run = trainer.run()
    next(run)
    reads = _spied_reads(monkeypatch)
    with _Reads() as counted:
        for _ in range(4):
            next(run)
    assert len([tensor for tensor in reads if tensor.is_floating_point()]) == 4
    assert counted.count == 0, "the one copy of a step needs no single numbers"
    assert trainer.scaler.is_enabled() == (precision == torch.float16)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_diffusers_reads_nothing_back_within_a_step(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host(kind, width=64, **({"second_width": 64} if kind == "sdxl" else {}))
    settings = TrainingSettings(steps=3, components=8, early_stop=False)
    bases = [built.basis for built in build_bases(host.text_encoders, shipped_names(), BasisOptions(components=8))]
    trainer = Trainer(host, bases, toy_pool(), settings)
    _fused(trainer)
    run = trainer.run()
    next(run)
    copied = collections.Counter[tuple[int, ...]]()
    for module in (trainer_module, __import__("celeb_basis.hosts.diffusers.text", fromlist=["text"])):

        def counting(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
            copied[tuple(tensor.shape)] += 1
            return to_device(tensor, device)

        monkeypatch.setattr(module, "to_device", counting)
    with _Reads() as counted:
        next(run)
    assert counted.count == 0
    encoders = len(host.text_encoders)
    assert sum(copied.values()) == 4 + 2 * encoders, "people, latents, noise, timesteps; each encoder's ids and places"
    assert (1000,) not in copied, "the schedule's table is on the device already"


def test_direct_copies_no_face_vectors_and_the_head_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, expected in (("direct", False), ("head", True)):
        model = ToyModel()
        settings = TrainingSettings(steps=3, components=8, mode=mode, start="random")  # type: ignore[arg-type]
        trainer = Trainer(model, toy_bases(model), toy_pool(), settings)
        shapes: list[tuple[int, ...]] = []

        def copying(tensor: torch.Tensor, device: torch.device, shapes: list[tuple[int, ...]] = shapes) -> torch.Tensor:
            shapes.append(tuple(tensor.shape))
            return to_device(tensor, device)

        monkeypatch.setattr(trainer_module, "to_device", copying)
        next(trainer.run())
        assert ((2, 512) in shapes) == expected


class _Pinned:
    """A tensor on the CPU that records how it is copied."""

    device = torch.device("cpu")

    def __init__(self, pinned: bool = False) -> None:
        self.pinned = pinned

    def pin_memory(self) -> _Pinned:
        return _Pinned(True)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> tuple[str, bool, bool]:
        return device.type, self.pinned, non_blocking


@pytest.mark.parametrize(("device", "queued"), [("cuda", True), ("mps", False), ("cpu", False)])
def test_copies_to_a_card_take_their_place_in_its_queue(device: str, queued: bool) -> None:
    tensor: Any = _Pinned()
    assert to_device(tensor, torch.device(device)) == (device, queued, queued)


def test_where_no_page_can_be_locked_the_copy_is_an_ordinary_one() -> None:
    class Unlocked(_Pinned):
        def pin_memory(self) -> _Pinned:
            raise RuntimeError("CUDA error: out of memory")

    tensor: Any = Unlocked()
    assert to_device(tensor, torch.device("cuda")) == ("cuda", False, False)


def test_a_report_computes_no_norms_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ToyModel((32, 24))
    trainer = Trainer(model, toy_bases(model), toy_pool(), TrainingSettings(steps=20, components=8))
    sizes: list[int] = []
    norm = torch.Tensor.norm
    monkeypatch.setattr(
        torch.Tensor, "norm", lambda self, *given, **named: (sizes.append(self.numel()), norm(self, *given, **named))[1]
    )
    events = list(trainer.run())
    assert [event.step for event in events[:-1] if event.people] == [10, 20]  # type: ignore[attr-defined]
    assert sizes
    assert max(sizes) <= 2 * 2 * 8
    assert isinstance(trainer.bases[0], Basis)


def test_a_run_that_was_saved_unfused_resumes_fused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step counter of a fused optimizer is on the device; on the CPU both places are one."""
    from celeb_basis.training.state import resume_trainer, save_state

    model = ToyModel()
    settings = TrainingSettings(steps=12, components=8, early_stop=False)
    trainer = Trainer(model, toy_bases(model), toy_pool(), settings)
    run = trainer.run()
    for _ in range(5):
        next(run)
    save_state(trainer, tmp_path / "state.safetensors")
    list(run)
    made = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *given, **named: made(*given, **{**named, "fused": True}))
    resumed = resume_trainer(tmp_path / "state.safetensors", model, toy_bases(model))
    assert resumed.optimizer.param_groups[0]["fused"]
    list(resumed.run())
    torch.testing.assert_close(resumed.results()["ann"][0], trainer.results()["ann"][0], rtol=1e-5, atol=1e-7)
