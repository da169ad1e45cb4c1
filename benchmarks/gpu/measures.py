"""What is measured on a card: views, steps, memory beside the estimate, images, whole runs, and that results are right."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.bare import BareStep
from benchmarks.gpu.card import Card
from benchmarks.gpu.row import Measurement, memory_text, time_text
from benchmarks.gpu.whole_runs import NAMES
from celeb_basis.basis import BasisOptions, build_bases, fitting_components
from celeb_basis.cli.demo import STRANGERS
from celeb_basis.diffusion_model import GenerationRequest, LatentDistribution
from celeb_basis.events import follow
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels
from celeb_basis.faces.packs import MINIATURE, find_pack
from celeb_basis.faces.portraits import portrait
from celeb_basis.hosts.diffusers import DiffusersHost
from celeb_basis.hosts.diffusers.configs import Family
from celeb_basis.method import Basis
from celeb_basis.names.lists import shipped_names
from celeb_basis.photos import open_photo
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.celebrity_faces import (
    DRAWINGS,
    MOST,
    PILOT,
    REFERENCE,
    generate_celebrity_faces,
    spread_order,
)
from celeb_basis.training.dataset import PersonViews, ViewPool, encode_views
from celeb_basis.training.memory import estimate
from celeb_basis.training.trainer import Trainer
from miniature.small_models.pipelines import make_pipeline

_STEPS, _IMAGES, _SAMPLING_STEPS = 20, 3, 20


@dataclass(frozen=True)
class Subject:
    """A full-size checkpoint of random weights, with bases and encoded views."""

    card: Card
    family: Family
    host: DiffusersHost
    bases: tuple[Basis, ...]
    pool: ViewPool

    @property
    def model(self) -> str:
        """Its name in the table."""
        return f"{NAMES[self.family]}, {self.host.info.resolution}"

    def settings(self, **changes: Any) -> TrainingSettings:
        """The preset *balanced* with changes, without an early end."""
        plain = TrainingSettings(components=self.bases[0].size, early_stop=False, cuda_graph="off")
        return plain.changed(changes)

    @contextlib.contextmanager
    def running(self, **changes: Any) -> Iterator[tuple[Trainer, Iterator[Any]]]:
        """A run whose first step is done, and its events."""
        trainer = Trainer(self.host, self.bases, self.pool, self.settings(**changes))
        events = trainer.run()
        try:
            next(events)
            yield trainer, events
        finally:
            events.close()


def measure_family(card: Card, family: Family) -> Iterator[Measurement]:
    """Everything about one architecture, in half precision."""
    loaded = card.reset_peak()
    options: dict[str, Any] = {"width": 64, "second_width": 64} if card.rehearse else {"full_size": True}
    pipeline = make_pipeline(family, device=card.device, dtype=card.dtype, **options)
    host = DiffusersHost(pipeline, name=f"random-{family}", sha256="0" * 64)
    loaded = card.reset_peak() - loaded
    size = fitting_components(host.text_encoders, BasisOptions.components)
    bases = build_bases(host.text_encoders, shipped_names(), BasisOptions(components=size))
    pool, seconds, extra = _views(card, host)
    subject = Subject(card, family, host, tuple(built.basis for built in bases), pool)
    expected = estimate(host, subject.settings()).images
    yield Measurement(subject.model, "checkpoint on the card", memory_text(loaded))
    detail = f"{memory_text(extra)} beyond the checkpoint; estimate {memory_text(expected)}" if extra else ""
    yield Measurement(subject.model, "encoding a view", time_text(seconds), detail)
    for batch, checkpointing in ((2, "off"), (1, "off"), (2, "on"), (1, "on")):
        yield _step(subject, batch, checkpointing)
    yield from _beside_bare(subject)
    yield _images(subject)
    if family == "sd1":
        yield _preparation(subject)


def _views(card: Card, host: DiffusersHost) -> tuple[ViewPool, float, float]:
    """Views of one photo; median seconds of a view, and the peak beyond what is loaded."""
    faces = InsightFaceNetwork(find_pack(MINIATURE).folder)
    found = portrait(open_photo(STRANGERS[0]), faces, size=host.info.resolution, source="photo")
    generator = torch.Generator().manual_seed(1)
    loaded = card.reset_peak()
    marks = [time.perf_counter()]
    views = encode_views(
        host, {"person": [found]}, faces, views=3 if card.rehearse else 12, smallest=0.1, generator=generator
    )
    pool = follow(views, lambda _event: marks.append(time.perf_counter()))
    taken = [after - before for before, after in itertools.pairwise(marks[1:])]
    return pool, statistics.median(taken), card.peak() - loaded


def _step(subject: Subject, batch: int, checkpointing: str) -> Measurement:
    """Seconds of a step, and the peak beside the estimate."""
    card = subject.card
    changes = {"batch_size": batch, "checkpointing": checkpointing}
    loaded = card.reset_peak()
    need = estimate(subject.host, subject.settings(**changes)).steps
    with subject.running(**changes) as (_, events):
        seconds = card.median(lambda: next(events), 2 if card.rehearse else _STEPS, warm_ups=1)
        peak = card.peak()
    what = f"a step, batch {batch}{', gradient checkpointing' if checkpointing == 'on' else ''}"
    ratio = (loaded + need) / peak if peak else float("nan")
    detail = (
        f"at the peak {memory_text(peak)}; estimate {memory_text(loaded + need)} ({ratio:.2f} of it)" if peak else ""
    )
    return Measurement(subject.model, what, time_text(seconds), detail)


def _beside_bare(subject: Subject) -> Iterator[Measurement]:
    """Our step, launched one by one and replayed as a graph, beside a bare forward and backward pass."""
    card, times = subject.card, 2 if subject.card.rehearse else _STEPS
    for recorded in (False, True):
        changes = {"checkpointing": "off", "cuda_graph": "on" if recorded else "off"}
        with subject.running(**changes) as (trainer, events):
            bare = BareStep(subject.host, trainer)
            pairs = []
            for index in range(-2, times):
                first, second = (bare, lambda: next(events)) if index % 2 else (lambda: next(events), bare)
                taken = [card.seconds(first), card.seconds(second)]
                if index >= 0:
                    pairs.append(taken[::-1] if index % 2 else taken)
            replayed = trainer._graph is not None and not trainer._graph.problem
        ratio = statistics.median(ours / other for ours, other in pairs)
        what = "our step / bare forward and backward, batch 2" + (", CUDA graph" if recorded else "")
        middle = [statistics.median(one) for one in zip(*pairs, strict=True)]
        detail = f"{time_text(middle[0])} and {time_text(middle[1])}"
        detail += "" if replayed or not recorded else "; no graph was recorded here"
        yield Measurement(subject.model, what, f"{ratio:.2f}", detail)


def _images(subject: Subject) -> Measurement:
    """Images a second, as previews and evaluations generate them."""
    card = subject.card
    count, steps = (1, 2) if card.rehearse else (_IMAGES, _SAMPLING_STEPS)
    list(subject.host.generate(GenerationRequest("a photo of a person", steps=2)))
    loaded = card.reset_peak()
    request = GenerationRequest("a photo of a person", count=count, steps=steps)
    seconds = card.seconds(lambda: list(subject.host.generate(request)))
    what = f"images a second ({steps} steps, guidance)"
    detail = f"{memory_text(card.peak() - loaded)} beyond the checkpoint" if card.peak() else ""
    return Measurement(subject.model, what, f"{count / seconds:.2f}", detail)


def _preparation(subject: Subject) -> Measurement:
    """Generating the celebrities' faces, from which *quick* and *best* start."""
    card, names = subject.card, spread_order(shipped_names().names)
    most = PILOT + 4 if card.rehearse else MOST
    faces = _FaceEverywhere(InsightFaceNetwork(find_pack(MINIATURE).folder))
    with tempfile.TemporaryDirectory(prefix="celeb-basis-bench-") as folder:
        work = generate_celebrity_faces(subject.host, names, faces, Path(folder), most=most, drawings=DRAWINGS[:1])
        seconds = card.seconds(lambda: follow(work, lambda _event: None))
    evaluations = PILOT * REFERENCE.evaluations + most * DRAWINGS[0].evaluations
    what = f"generating the faces of {most} celebrities ({evaluations} evaluations)"
    return Measurement(subject.model, what, time_text(seconds), "once per checkpoint")


@dataclass(frozen=True)
class _FaceEverywhere:
    """A face network with its usual work, and a face in every picture: those of random weights show none."""

    network: FaceNetwork

    @property
    def name(self) -> str:
        return self.network.name

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        height, width = picture.shape[:2]
        landmarks = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.38, 0.7], [0.62, 0.7]]) * (width, height)
        return self.network.detect(picture) or [DetectedFace((0, 0, width, height), landmarks, 1.0)]

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        return self.network.align(picture, landmarks)

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        return self.network.embed(aligned)


def check_results(card: Card) -> Iterator[Measurement]:
    """Gradients beside the processor's in float32 without TF32, on small models; and the same seed twice."""
    for family in NAMES:
        options: dict[str, Any] = {"width": 64, "second_width": 64}
        reference = DiffusersHost(make_pipeline(family, **options), name="reference", sha256="0" * 64)
        components = BasisOptions(components=16)
        bases = [built.basis for built in build_bases(reference.text_encoders, shipped_names(), components)]
        expected = _gradient(reference, bases)
        pipeline = make_pipeline(family, **options).to(card.device)
        moved = DiffusersHost(pipeline, name="reference", sha256="0" * 64)
        found = _gradient(moved, bases)
        gap = float((found - expected).norm() / expected.norm())
        yield Measurement(
            f"small {NAMES[family]}", "gradient beside the processor's in fp32", f"{gap:.1e}", "at most 1e-4"
        )
        first, second = (_learned(moved, bases) for _ in range(2))
        same = "yes" if torch.equal(first, second) else f"no, {float((first - second).abs().max()):.1e} apart"
        yield Measurement(f"small {NAMES[family]}", "the same seed gives the same person", same)


def _gradient(host: DiffusersHost, bases: Sequence[Basis]) -> torch.Tensor:
    settings = TrainingSettings(components=bases[0].size, precision="fp32", early_stop=False, seed=3)
    trainer = Trainer(host, bases, _random_pool(), settings)
    with host.prepare_for_training("fp32"):
        batch = trainer.sample_batch()
        trainer.loss(batch, trainer.coefficients(batch)).backward()  # type: ignore[no-untyped-call]
    gradients = [one.grad for one in trainer.module.parameters() if one.grad is not None]
    return torch.cat([one.detach().float().cpu().flatten() for one in gradients])


def _learned(host: DiffusersHost, bases: Sequence[Basis]) -> torch.Tensor:
    settings = TrainingSettings(components=bases[0].size, steps=8, early_stop=False, seed=3)
    trainer = Trainer(host, bases, _random_pool(), settings)
    for _ in trainer.run():
        pass
    return torch.cat([one.flatten() for one in trainer.results()["person"]])


def _random_pool() -> ViewPool:
    generator = torch.Generator().manual_seed(5)
    mean = torch.randn(4, 4, 8, 8, generator=generator)
    vectors = torch.nn.functional.normalize(torch.randn(4, 512, generator=generator), dim=-1)
    latents = LatentDistribution(mean, torch.full_like(mean, 0.05))
    return ViewPool((PersonViews("person", b"", latents, vectors, ("",) * 4),), "none")


def without_failures(model: str, measured: Iterator[Measurement]) -> Iterator[Measurement]:
    """``measured``; an error, as for want of memory, ends it with a line of its own."""
    try:
        yield from measured
    except Exception as error:
        text = next(iter(str(error).strip().splitlines()), "")
        yield Measurement(model, "stopped", type(error).__name__, text[:200])
