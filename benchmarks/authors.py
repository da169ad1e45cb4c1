"""One training step of ours beside a step done the authors' way: nothing encoded beforehand, activations recomputed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from benchmarks.figures import Figure
from benchmarks.timing import take_turns
from benchmarks.workbench import Workbench

if TYPE_CHECKING:
    from celeb_basis.training.trainer import Trainer

WORDS = "authors"
SLOW = True

_PAIRS = 4


def measure(bench: Workbench) -> Iterator[Figure]:
    """The weights are frozen in both, as the authors' are. Their face network, a ResNet-100, would take longer yet."""
    from celeb_basis.settings import TrainingSettings
    from celeb_basis.training.trainer import Trainer

    (side,) = bench.sides(512)
    settings = TrainingSettings(batch_size=1, precision="fp32", early_stop=False)
    pool = bench.pool(side, views=2)
    trainer, other = (Trainer(bench.host, [bench.basis], pool, settings) for _ in range(2))
    events = trainer.run()
    try:
        next(events)
        compared = take_turns(lambda: next(events), authors_step(bench, other, side), bench.times(_PAIRS))
    finally:
        events.close()
    face = bench.faces.name.partition(":")[0]
    yield Figure(
        f"{bench.model}: our step / the authors' way (VAE, face network {face}, checkpointing), {side}x{side}",
        compared.ratio,
        0.5,
        "ratio",
        f"batch 1, fp32, weights frozen; {compared.detail()}",
    )


def authors_step(bench: Workbench, trainer: Trainer, side: int) -> Callable[[], None]:
    """A call that augments, encodes and embeds a new view, and learns from it with activation checkpointing."""
    import torch

    from celeb_basis.method import diffusion_loss
    from celeb_basis.training.augment import augment, draw_augmentation
    from celeb_basis.training.dataset import to_model_range

    host, faces, portrait = bench.host, bench.faces, bench.portrait(side)
    random = torch.Generator().manual_seed(side)

    def step() -> None:
        with host.prepare_for_training("fp32", checkpointing=True):
            trainer.optimizer.zero_grad(set_to_none=True)
            draw = trainer.sample_batch()
            view = augment(portrait, draw_augmentation(random, 0.1))
            latents = host.encode_images(to_model_range(view.picture))
            vector = torch.from_numpy(faces.embed([faces.align(view.picture, view.landmarks)]))
            clean = latents.mean + latents.std * torch.randn(latents.mean.shape, generator=random)
            coefficients = trainer.module(vector, draw.people)
            words = {"<view0>": [trainer.bases[0].expand(coefficients[0, 0])]}
            conditioning = host.encode_prompts(draw.prompts, words)
            loss = diffusion_loss(host, clean, draw.noise, draw.timesteps, conditioning)
            loss.backward()  # type: ignore[no-untyped-call]
            trainer.optimizer.step()

    return step
