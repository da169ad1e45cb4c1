"""One training step of ours beside a bare one: what sampling, prompts, head, optimizer and bookkeeping cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.figures import Figure
from benchmarks.timing import take_turns
from benchmarks.workbench import Workbench

if TYPE_CHECKING:
    from benchmarks.bare import BareBatch, BareStep
    from celeb_basis.training.trainer import Trainer

WORDS = "step"
SLOW = True

_PAIRS = {256: 12, 512: 8}
_SAME = 1e-3
"""How far the two losses may differ, relatively: float32's rounding through a UNet, far below any real difference."""


def measure(bench: Workbench) -> Iterator[Figure]:
    """Both steps get the same pictures, noise, timesteps and prompts, and have to find the same loss."""
    for side in bench.sides(256, 512):
        # A batch of one is the hardest case: what we add hardly depends on the batch, the rest does.
        yield _compared(bench, side)
        yield _in_passes(bench, side)


def _compared(bench: Workbench, side: int) -> Figure:
    from benchmarks.bare import BareStep
    from celeb_basis.events import StepDone
    from celeb_basis.settings import TrainingSettings
    from celeb_basis.training.trainer import Trainer

    settings = TrainingSettings(batch_size=1, precision="fp32", early_stop=False)
    trainer = Trainer(bench.host, [bench.basis], bench.pool(side, views=2), settings)
    events = trainer.run()
    bare = BareStep(bench.pipeline)
    losses: dict[str, float] = {}
    batch: BareBatch | None = None

    def prepare() -> None:
        nonlocal batch
        batch = next_batch(trainer, bare)

    def ours() -> None:
        event = next(events)
        losses["ours"] = event.loss if isinstance(event, StepDone) else math.nan

    def other() -> None:
        assert batch is not None
        losses["bare"] = bare(batch)

    try:
        # The first of our steps enters the frozen state, in which the bare one runs too.
        ours()
        compared = take_turns(ours, other, bench.times(_PAIRS.get(side, 30)), prepare=prepare)
    finally:
        events.close()
    same = math.isclose(losses["ours"], losses["bare"], rel_tol=_SAME)
    return Figure(
        f"{bench.model}: our step / bare forward and backward, {side}x{side}, batch 1, fp32",
        compared.ratio if same else math.nan,
        1.03,
        "ratio",
        f"{compared.detail()}; the same loss {losses['ours']:.6f} {losses['bare']:.6f}",
    )


def _in_passes(bench: Workbench, side: int) -> Figure:
    """What a step costs in passes of drawing, which tells how long a preset takes in pictures."""
    from benchmarks.bare import BareStep, random_batch

    for module in (bench.pipeline.text_encoder, bench.pipeline.unet):
        module.requires_grad_(False).eval()
    bare = BareStep(bench.pipeline)
    batch = random_batch(bare, side, bench.basis.width)
    compared = take_turns(lambda: bare(batch), lambda: bare.drawing(batch), bench.times(_PAIRS.get(side, 30)))
    return Figure(
        f"{bench.model}: bare forward and backward / a forward pass of drawing, {side}x{side}, batch 1, fp32",
        compared.ratio,
        2.5,
        "ratio",
        compared.detail(),
    )


def next_batch(trainer: Trainer, bare: BareStep) -> BareBatch:
    """What ``learner`` will draw for its next step, made ready for the bare one. The learner is left as it was."""
    import torch

    from benchmarks.bare import BareBatch
    from celeb_basis.method import add_noise, prediction_target

    state = trainer.generator.get_state()
    draw = trainer.sample_batch()
    trainer.generator.set_state(state)
    with torch.no_grad():
        vectors = trainer.bases[0].expand(trainer.coefficients(draw)[:, 0])
    ids, places = bare.tokenized(draw.prompts, "<view{}>", vectors.shape[1])
    schedule = trainer.model.schedule
    return BareBatch(
        ids=ids,
        places=places,
        vectors=vectors.flatten(0, 1).clone().requires_grad_(),
        noisy=add_noise(schedule, draw.clean, draw.noise, draw.timesteps),
        timesteps=draw.timesteps,
        target=prediction_target(schedule, draw.clean, draw.noise, draw.timesteps),
    )
