"""Checks inside a WebUI: learning through the loaded checkpoint, and that nothing of it is left behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from support.bases import toy_pool
from support.counting import counting_kept
from support.webui_checks_encoding import some_words
from support.webui_state import assert_as_before, fingerprint

from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.host import A1111Host
from celeb_basis.hosts.a1111.model import A1111Checkpoint
from celeb_basis.method import diffusion_loss
from celeb_basis.names.lists import shipped_names
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.memory import saved_bytes
from celeb_basis.training.trainer import Trainer

SIDE = 32
"""Of latents. Below this the lowest level of an SD1 is one pixel, whose group norm has no gradient worth the name."""


def trainer(host: A1111Host, **changes: Any) -> Trainer:
    bases = [built.basis for built in build_bases(host.text_encoders, shipped_names(), BasisOptions(components=16))]
    settings = TrainingSettings(**{"steps": 4, "components": 16, "early_stop": False, **changes})
    return Trainer(host, bases, toy_pool(("ann", "bob"), side=SIDE), settings)


def loss_of(host: A1111Host, words: Any, seed: int = 0, side: int = SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 2, 4, side, side, generator=generator)
    conditioning = host.encode_prompts(["a photo of <v> person", "<v>, smiling"], words)
    return diffusion_loss(host, clean, noise, torch.tensor([150, 700]), conditioning)


def gradients(host: A1111Host, words: dict[str, list[torch.Tensor]], **options: Any) -> list[torch.Tensor]:
    asking = {word: [part.clone().requires_grad_() for part in parts] for word, parts in words.items()}
    loss_of(host, asking, **options).backward()
    return [part.grad for parts in asking.values() for part in parts if part.grad is not None]


def check_learning_runs_and_leaves_nothing(_data: Path) -> None:
    host, model = A1111Host(), A1111Checkpoint.current().model
    before = fingerprint(model)
    for settings in (
        {},
        {"precision": "bf16"},
        {"checkpointing": True},
        {"mode": "head", "start": "random", "shared": True},
    ):
        learning = trainer(host, **settings)
        starting = [part.clone() for part in learning.module.parameters()]
        losses = [event.loss for event in learning.run() if hasattr(event, "loss")]
        assert len(losses) == 8
        assert all(0 < loss < 100 for loss in losses)
        assert any(not torch.equal(a, b) for a, b in zip(starting, learning.module.parameters(), strict=True))
        for coefficients in learning.results().values():
            assert [part.shape for part in coefficients] == [(2, 16)] * len(host.text_encoders)
        assert_as_before(before, model)


def check_inside_all_is_frozen_and_evaluating(_data: Path) -> None:
    host, model = A1111Host(), A1111Checkpoint.current().model
    with host.prepare_for_training("fp32"):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(part.training for part in model.modules())
        gradients(host, some_words(host))
        assert all(parameter.grad is None for parameter in model.parameters())


def check_interrupting_leaves_nothing(_data: Path) -> None:
    host, model = A1111Host(), A1111Checkpoint.current().model
    before = fingerprint(model)
    learning = trainer(host, steps=50)
    interrupt = threading.Event()
    for event in learning.run(interrupt):
        if getattr(event, "step", 0) == 2:
            interrupt.set()
    assert learning.step == 2
    assert_as_before(before, model)
    run = learning.run()
    next(run)
    run.close()
    assert_as_before(before, model)


def check_failing_leaves_nothing(_data: Path) -> None:
    """An error in the forward pass, in the backward pass, and out of memory while weights are being changed."""
    host, model = A1111Host(), A1111Checkpoint.current().model
    before = fingerprint(model)
    for kind in (RuntimeError, torch.cuda.OutOfMemoryError, KeyboardInterrupt):
        for backward in (False, True):
            with contextlib.suppress(kind), host.prepare_for_training("bf16", checkpointing=True):
                with failing(A1111Checkpoint(model).unet.middle_block, kind("simulated"), backward):
                    gradients(host, some_words(host))
                raise AssertionError("nothing failed")
            assert_as_before(before, model)


def check_half_precision_comes_back_bit_for_bit(_data: Path) -> None:
    """A host with half-precision weights, as on a GPU: upcast while learning here, since the CPU has no such layers."""
    from modules import devices

    host, model = A1111Host(), A1111Checkpoint.current().model
    exact = gradients(host, some_words(host), seed=4)
    model.model.half()
    A1111Checkpoint(model).text_model.half()
    unet = A1111Checkpoint(model).unet
    own_dtype = unet.dtype
    unet.dtype = devices.dtype = devices.dtype_unet = devices.dtype_inference = torch.float16
    try:
        before = fingerprint(model)
        for precision in ("fp32", "bf16"):
            assert host.dtype == torch.float16
            with host.prepare_for_training(precision):
                found = gradients(host, some_words(host), seed=4)
            assert_as_before(before, model)
            assert all(cosine(a, b) > 0.995 for a, b in zip(exact, found, strict=True)), precision
        with contextlib.suppress(RuntimeError), host.prepare_for_training("fp32"):
            raise RuntimeError
        assert_as_before(before, model)
        refused("The CPU cannot compute in fp16", lambda: host.prepare_for_training("fp16").__enter__())
        assert_as_before(before, model)
    finally:
        unet.dtype = own_dtype
        devices.dtype = devices.dtype_unet = devices.dtype_inference = torch.float32
        model.model.float()
        A1111Checkpoint(model).text_model.float()


def check_gradients_are_finite_differences(_data: Path) -> None:
    host = A1111Host()
    words = some_words(host)
    with host.prepare_for_training("fp32"):
        found = gradients(host, words)
        assert [part.shape for part in found] == [part.shape for part in words["<v>"]]
        for number, gradient in enumerate(found):
            random = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(number))
            size = gradient.norm()
            for direction in (gradient / size, (gradient / size + random / random.norm()) / 2):
                step = 0.05
                losses = []
                for sign in (1, -1):
                    moved = [part.clone() for part in words["<v>"]]
                    moved[number] = moved[number] + sign * step * direction
                    with torch.no_grad():
                        losses.append(float(loss_of(host, {"<v>": moved})))
                measured = (losses[0] - losses[1]) / (2 * step)
                expected = float((gradient * direction).sum())
                # a float32 loss near 1 tells differences of 1e-7, and the step is not infinitely small
                assert abs(measured - expected) < 0.02 * float(size) + 4e-6, (number, measured, expected)


def check_checkpointing_and_attention_change_no_gradient(_data: Path) -> None:
    from modules import sd_hijack

    host = A1111Host()
    words = some_words(host)
    with host.prepare_for_training("fp32"):
        exact = gradients(host, words)
    used = sd_hijack.current_optimizer
    titles = ["None", *(option.title() for option in sd_hijack.optimizers if "xformers" not in option.title())]
    assert len(titles) > 4
    try:
        for title in titles:
            sd_hijack.model_hijack.apply_optimizations(title)
            for checkpointing in (False, True):
                with host.prepare_for_training("fp32", checkpointing=checkpointing):
                    found = gradients(host, words)
                assert all(cosine(a, b) > 0.99999 for a, b in zip(exact, found, strict=True)), (title, checkpointing)
    finally:
        sd_hijack.model_hijack.apply_optimizations(used.title())


def check_checkpointing_keeps_less(_data: Path) -> None:
    host = A1111Host()
    words = {"<v>": [part.requires_grad_() for part in some_words(host)["<v>"]]}
    kept = []
    for checkpointing in (False, True):
        with host.prepare_for_training("fp32", checkpointing=checkpointing):
            conditioning = host.encode_prompts(["a photo of <v> person"], words)
            with counting_kept(A1111Checkpoint.current().model.parameters()) as counted:
                host.predict(torch.zeros(1, 4, SIDE, SIDE), torch.tensor([500]), conditioning)
        kept.append(counted.bytes)
    assert kept[1] < 0.5 * kept[0], kept
    facts = host.memory()
    assert facts.free is None or facts.free > 10**6
    assert facts.weights > 10**6
    assert facts.offloaded == 0
    estimated = saved_bytes(facts, SIDE, 1, 4, checkpointing=False)
    # Before the first cross-attention nothing is kept, which is much of so small a model.
    assert 0.8 < estimated / kept[0] < 2, (estimated, kept)


def check_previews_disturb_nothing(data: Path) -> None:
    from modules import shared

    host, model = A1111Host(), A1111Checkpoint.current().model
    before = fingerprint(model)
    words = some_words(host)
    history = data / "params.txt"
    history.write_text("the user's last prompt", encoding="utf-8")
    request = GenerationRequest("a <v>", placeholder_tokens=words, count=1, seed=1, steps=2, width=64, height=64)
    alone = next(iter(host.generate(request)))
    with host.prepare_for_training("bf16"):
        exact = gradients(host, words)
        shared.opts.data["sd_model_checkpoint"] = "another.safetensors"  # chosen by the user in the meantime
        try:
            drawn = next(iter(host.generate(request)))
            assert shared.opts.data["sd_model_checkpoint"] == "another.safetensors"
        finally:
            shared.opts.data["sd_model_checkpoint"] = before["settings"]["sd_model_checkpoint"]
        assert drawn.tobytes() == alone.tobytes()
        assert A1111Checkpoint.current().model is model
        assert not any(parameter.requires_grad for parameter in model.parameters())
        for one, other in zip(exact, gradients(host, words), strict=True):
            assert torch.equal(one, other)
    assert_as_before(before, model)
    assert history.read_text(encoding="utf-8") == "the user's last prompt"


@contextlib.contextmanager
def failing(module: Any, error: BaseException, backward: bool) -> Iterator[None]:
    def fail(*_: Any) -> None:
        raise error

    def fail_later(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        output.register_hook(fail)

    handle = module.register_forward_hook(fail_later if backward else fail)
    try:
        yield
    finally:
        handle.remove()


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


def refused(begin: str, action: Any) -> None:
    """The action raises a :class:`HostError` of one sentence that begins so."""
    try:
        action()
    except HostError as error:
        text = str(error)
        assert text.startswith(begin), text
        assert text.endswith("."), text
    else:
        raise AssertionError(f"not refused: {begin}")
