"""Time of one learning step compared with a bare one and with the paper's code, and of encoding the pool of views."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from benchmarks.figures import Figure, seconds, take_turns
from benchmarks.workbench import Subject, Workbench
from celeb_basis.events import StepDone
from celeb_basis.method import add_noise, diffusion_loss, prediction_target
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.augment import augment, draw_augmentation
from celeb_basis.training.dataset import encode_views, to_model_range
from celeb_basis.training.trainer import Trainer

_PAIRS = {256: 12, 512: 8}
_REPOSITORY_PAIRS = 4
_VIEWS = 6
_LOSS_TOLERANCE = 1e-3
"""Relative difference allowed between the two losses: float32's rounding through a UNet, far below any real difference."""


@dataclass(frozen=True)
class BareBatch:
    """All inputs of a bare step: token ids, positions of the vectors, noised latents."""

    ids: torch.Tensor
    """``(B, 77)``."""
    positions: tuple[torch.Tensor, torch.Tensor]
    """Rows and columns of ``ids`` that the vectors replace, in the vectors' order."""
    vectors: torch.Tensor
    """``(B * E, D)``, the leaf that requires gradients."""
    noisy: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor


class BareStep:
    """The least that any learning step must do: forward and backward of a frozen text encoder and UNet.

    Calls the modules of transformers and diffusers directly; their weights must be frozen.
    """

    def __init__(self, pipeline: Any) -> None:
        self._text_encoder = pipeline.text_encoder
        self._tokenizer = pipeline.tokenizer
        self._unet = pipeline.unet

    def tokenize(self, prompts: Sequence[str], placeholder: str, vectors: int) -> tuple[torch.Tensor, Any]:
        """Token ids of the prompts, and the positions of the vectors.

        Args:
            prompts: ``placeholder.format(i)`` occurs once in prompt ``i``.
            placeholder: The placeholder token, with ``{}`` for the prompt's number.
            vectors: Vectors that stand for one placeholder token.
        """
        rows: list[int] = []
        columns: list[int] = []
        all_ids: list[list[int]] = []
        for row, prompt in enumerate(prompts):
            before, after = (
                self._tokenizer(part, add_special_tokens=False).input_ids
                for part in prompt.split(placeholder.format(row))
            )
            ids = [self._tokenizer.bos_token_id, *before, *[0] * vectors, *after, self._tokenizer.eos_token_id]
            rows += [row] * vectors
            columns += range(1 + len(before), 1 + len(before) + vectors)
            all_ids.append(ids + [self._tokenizer.pad_token_id] * (77 - len(ids)))
        return torch.tensor(all_ids), (torch.tensor(rows), torch.tensor(columns))

    def __call__(self, batch: BareBatch) -> float:
        """The loss; the gradient is left in ``batch.vectors.grad``."""
        table = self._text_encoder.get_input_embeddings()
        hook = table.register_forward_hook(lambda _m, _i, embedded: embedded.index_put(batch.positions, batch.vectors))
        try:
            states = self._text_encoder(batch.ids)[0]
        finally:
            hook.remove()
        predicted = self._unet(batch.noisy, batch.timesteps, encoder_hidden_states=states, return_dict=False)[0]
        loss = functional.mse_loss(predicted, batch.target)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def generation_pass(self, batch: BareBatch) -> None:
        """A forward pass of the UNet as a sampler makes it: prompts are encoded, and no gradients are needed."""
        with torch.no_grad():
            states = torch.zeros(len(batch.noisy), 77, self._unet.config.cross_attention_dim)
            self._unet(batch.noisy, batch.timesteps, encoder_hidden_states=states, return_dict=False)


def random_batch(step: BareStep, side: int, width: int) -> BareBatch:
    """A batch of one random image of ``side`` pixels."""
    generator = torch.Generator().manual_seed(0)
    ids, positions = step.tokenize(["a photo of the face of <0> person"], "<{}>", 2)
    latents = (1, 4, side // 8, side // 8)
    return BareBatch(
        ids=ids,
        positions=positions,
        vectors=(0.02 * torch.randn(2, width, generator=generator)).requires_grad_(),
        noisy=torch.randn(latents, generator=generator),
        timesteps=torch.randint(1000, (1,), generator=generator),
        target=torch.randn(latents, generator=generator),
    )


def next_batch(trainer: Trainer, bare: BareStep) -> BareBatch:
    """The batch of the learner's next step, prepared for the bare step. The learner's state is unchanged."""
    state = trainer.generator.get_state()
    draw = trainer.sample_batch()
    trainer.generator.set_state(state)
    with torch.no_grad():
        vectors = trainer.bases[0].expand(trainer.coefficients(draw)[:, 0])
    ids, positions = bare.tokenize(draw.prompts, "<view{}>", vectors.shape[1])
    schedule = trainer.model.schedule
    return BareBatch(
        ids=ids,
        positions=positions,
        vectors=vectors.flatten(0, 1).clone().requires_grad_(),
        noisy=add_noise(schedule, draw.clean, draw.noise, draw.timesteps),
        timesteps=draw.timesteps,
        target=prediction_target(schedule, draw.clean, draw.noise, draw.timesteps),
    )


def measure_step(bench: Workbench) -> Iterator[Figure]:
    """Our step and a bare one on the same images, noise, timesteps and prompts, which have to give the same loss.

    The difference is what sampling, prompts, head, optimizer and bookkeeping cost.
    """
    for side in bench.sides(256, 512):
        # A batch of one is the hardest case: our overhead hardly depends on the batch size, the rest does.
        yield _compare_with_bare(bench, side)
        yield _compare_with_generation(bench, side)


def _compare_with_bare(bench: Workbench, side: int) -> Figure:
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
        # Our first step freezes the model, which the bare steps rely on as well.
        ours()
        compared = take_turns(ours, other, bench.times(_PAIRS.get(side, 30)), prepare=prepare)
    finally:
        events.close()
    same = math.isclose(losses["ours"], losses["bare"], rel_tol=_LOSS_TOLERANCE)
    return Figure(
        f"{bench.model}: our step / bare forward and backward, {side}x{side}, batch 1, fp32",
        compared.ratio if same else math.nan,
        1.03,
        "ratio",
        f"{compared.detail()}; the same loss {losses['ours']:.6f} {losses['bare']:.6f}",
    )


def _compare_with_generation(bench: Workbench, side: int) -> Figure:
    """A step in units of generation passes, which converts a preset's steps into a number of images."""
    for module in (bench.pipeline.text_encoder, bench.pipeline.unet):
        module.requires_grad_(False).eval()
    bare = BareStep(bench.pipeline)
    batch = random_batch(bare, side, bench.basis.width)
    pairs = bench.times(_PAIRS.get(side, 30))
    compared = take_turns(lambda: bare(batch), lambda: bare.generation_pass(batch), pairs)
    return Figure(
        f"{bench.model}: bare forward and backward / a forward pass of generation, {side}x{side}, batch 1, fp32",
        compared.ratio,
        2.5,
        "ratio",
        compared.detail(),
    )


def measure_repository(bench: Workbench) -> Iterator[Figure]:
    """Our step and one as in the CelebBasis repository: nothing encoded beforehand, activations recomputed.

    The weights are frozen in both, as they are there. That repository's face network, a ResNet-100, takes longer still.
    """
    (side,) = bench.sides(512)
    settings = TrainingSettings(batch_size=1, precision="fp32", early_stop=False)
    pool = bench.pool(side, views=2)
    trainer, other = (Trainer(bench.host, [bench.basis], pool, settings) for _ in range(2))
    events = trainer.run()
    try:
        next(events)
        step = repository_step(bench, other, side)
        compared = take_turns(lambda: next(events), step, bench.times(_REPOSITORY_PAIRS))
    finally:
        events.close()
    face = bench.faces.name.partition(":")[0]
    yield Figure(
        f"{bench.model}: our step / as the paper's code (VAE, face network {face}, checkpointing), {side}x{side}",
        compared.ratio,
        0.5,
        "ratio",
        f"batch 1, fp32, weights frozen; {compared.detail()}",
    )


def repository_step(bench: Workbench, trainer: Trainer, side: int) -> Callable[[], None]:
    """A call that augments, encodes and embeds a new view, and learns from it with activation checkpointing."""
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
            placeholder_tokens = {"<view0>": [trainer.bases[0].expand(coefficients[0, 0])]}
            conditioning = host.encode_prompts(draw.prompts, placeholder_tokens)
            loss = diffusion_loss(host, clean, draw.noise, draw.timesteps, conditioning)
            loss.backward()  # type: ignore[no-untyped-call]
            trainer.optimizer.step()

    return step


def measure_pool(bench: Workbench) -> Iterator[Figure]:
    """Augmenting, encoding, aligning and embedding a view, compared with the bare VAE on one image.

    Beyond the VAE's own encoding, a view should cost next to nothing.
    """
    (side,) = bench.sides(256)
    vae, faces = bench.pipeline.vae, bench.faces
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def bare() -> None:
        with torch.no_grad():
            vae.encode(image)

    bare()
    # What is loaded at the first use is not part of a view's cost.
    faces.embed([faces.align(bench.portrait(side).picture, bench.portrait(side).landmarks)])
    work = encode_views(
        bench.host,
        {"person": [bench.portrait(side)]},
        faces,
        views=1 + _VIEWS,
        smallest=0.1,
        generator=torch.Generator().manual_seed(side),
    )
    next(work)
    pairs = [(seconds(lambda: next(work)), seconds(bare)) for _ in range(_VIEWS)]
    # The face vectors of all views are computed at the end, in one batch.
    embedding = seconds(lambda: next(work, None)) / (1 + _VIEWS)
    ratio = statistics.median((ours + embedding) / other for ours, other in pairs)
    yield Figure(
        f"{bench.model}: a view of the pool, {faces.name} included / bare VAE encoding, {side}x{side}",
        ratio,
        1.1,
        "ratio",
        f"bare {statistics.median(other for _, other in pairs):.3f} s, embedding {embedding:.3f} s, {_VIEWS} pairs",
    )


SUBJECTS = (
    Subject("step", slow=True, measure=measure_step),
    Subject("authors", slow=True, measure=measure_repository),
    Subject("pool", slow=True, measure=measure_pool),
)
