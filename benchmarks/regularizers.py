"""``python -m benchmarks.regularizers``: do two published regularizers make *balanced* or *best* better?

**CoRe** (arXiv 2408.15914) keeps the words around the person as they are: at every step the text encoder reads random prompts
with the person's vectors and once more with the word "person" in both of their places, so that both have the same length, and
the mean squared distance of its outputs at all other positions is added to the loss. **Class guidance** (Face2Diffusion, CVPR
2024) learns the face alone: outside of it the denoiser's target is not the noise but what it predicts itself for "a person".

On the miniature, people that it has never seen are learned with and without them, from the same views, noise and timesteps, and
are compared in pairs by networks that learning does not use. It can be killed and resumed: what is finished is saved. It needs
the packages of ``benchmarks/evidence/requirements.txt``, which ``make evidence`` installs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from benchmarks.evidence.methods import Trained
from benchmarks.evidence.metrics import Evaluator
from benchmarks.evidence.precompute import Precomputed, view_generator
from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.results import Cell, Finished, Results
from benchmarks.evidence.runner import measured
from benchmarks.evidence.stable_identity import face_weights
from benchmarks.evidence.summary import paired_differences, shown, summarize
from benchmarks.evidence.testbed import EvidenceTestbed, Stranger
from celeb_basis.diffusion_model import TokenVectors
from celeb_basis.errors import CelebBasisError, TrainingError
from celeb_basis.method import add_noise, prediction_target
from celeb_basis.settings import PRESETS
from celeb_basis.training.augment import BACKGROUNDS, TEMPLATES, augment, describe_view, draw_augmentation
from celeb_basis.training.dataset import ViewPool
from celeb_basis.training.trainer import Batch, Trainer

CLASS = "person"
GALLERY = 30
"""Strangers among whom everyone has to be recognized, as in the evidence."""

METRICS = ("identity", "third_opinion", "recognized", "prompt", "detect")
_TITLES = ("Identity", "MobileFaceNet", "Recognized", "Prompt", "Detect")

CONTEXT_WEIGHTS = (0.01, 0.05)
"""With them its gradient is about a tenth and a half of the diffusion loss's, 60 steps into *balanced*."""

CLASS_WEIGHTS = (0.25, 1.0)
"""1 is Face2Diffusion's."""

# CoRe's prompts come from a stream of their own: views, noise and timesteps are those of a run without it.
_STREAM = 0xC0DE_0000_0000


class ContextLearner(Trainer):
    """Learns with CoRe's regularizer. Call :meth:`use` before the first step."""

    def use(self, weight: float) -> None:
        """Take the regularizer's weight, and look up the class word."""
        self._weight = weight
        self._random = torch.Generator().manual_seed(self.settings.seed + _STREAM)
        self._class = []
        for encoder, basis in zip(self.model.text_encoders, self.bases, strict=True):
            ids = encoder.tokenize([CLASS])[0]
            row = encoder.token_table()[torch.tensor(ids[:1])].detach().float()
            self._class.append(row.expand(basis.positions, -1))

    def loss(self, batch: Batch, coefficients: torch.Tensor) -> torch.Tensor:
        """The diffusion loss and the weighted distance of the words' outputs."""
        return super().loss(batch, coefficients) + self._weight * self.context_distance(coefficients)

    def context_distance(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of the text encoder's outputs beside the person's, for random prompts.

        Args:
            coefficients: ``(B, G, E, K)``; each gets a prompt of its own.
        """
        prompts = [self._random_prompt(f"<view{row}>") for row in range(len(coefficients))]
        learned = {f"<view{row}>": self.token_vectors(one) for row, one in enumerate(coefficients)}
        of_learned = self._states(prompts, learned)
        with torch.no_grad():
            of_class = self._states(prompts, dict.fromkeys(learned, self._class))
        beside = torch.ones(of_learned.shape[:2], device=of_learned.device)
        for row, prompt in enumerate(prompts):
            before = self.model.text_encoders[0].tokenize([prompt.split("<")[0]])[0]
            beside[row, 1 + len(before) : 1 + len(before) + self.shape.positions] = 0
        distance = (of_learned - of_class).square().mean(dim=-1)
        return (distance * beside).sum() / beside.sum()

    def _states(self, prompts: Sequence[str], tokens: dict[str, TokenVectors]) -> torch.Tensor:
        states = getattr(self.model.encode_prompts(prompts, tokens), "states", None)
        if not isinstance(states, torch.Tensor):
            raise TrainingError("This model does not show its text encoder's output: leave CoRe out.")
        return states.float()

    def _random_prompt(self, token: str) -> str:
        """A template with the person, and a random description of a view behind it."""
        template, background = (
            int(torch.randint(len(of), (), generator=self._random)) for of in (TEMPLATES, BACKGROUNDS)
        )
        scale, x, y = torch.rand(3, generator=self._random).tolist()
        description = describe_view(scale, (x, y), list(BACKGROUNDS)[background])
        return ", ".join(filter(None, (TEMPLATES[template].format(token), description)))


class ClassGuidedLearner(Trainer):
    """Learns with class guidance outside the face. Call :meth:`use` before the first step."""

    def use(self, weight: float, faces: Sequence[torch.Tensor]) -> None:
        """Take the weight of what is outside, and ``(V, 1, h, w)`` masks of the face in each person's views."""
        self._weight, self._faces = weight, tuple(faces)

    def loss(self, batch: Batch, coefficients: torch.Tensor) -> torch.Tensor:
        """The diffusion loss on the face, and the weighted distance to the class's prediction outside of it."""
        tokens = {f"<view{row}>": self.token_vectors(one) for row, one in enumerate(coefficients)}
        device = self.model.device
        clean, noise, times = batch.clean.to(device), batch.noise.to(device), batch.timesteps.to(device)
        noisy = add_noise(self.model.schedule, clean, noise, times)
        of_class = [prompt.replace(f"<view{row}> {CLASS}", f"a {CLASS}") for row, prompt in enumerate(batch.prompts)]
        with torch.no_grad():
            guide = self.model.predict(noisy, times, self.model.encode_prompts(of_class, {})).to(noise.dtype)
        conditioning = self.model.encode_prompts(batch.prompts, tokens)
        predicted = self.model.predict(noisy, times, conditioning).to(noise.dtype)
        target = prediction_target(self.model.schedule, clean, noise, times)
        pairs = zip(batch.people.tolist(), batch.views.tolist(), strict=True)
        face = torch.stack([self._faces[person][view] for person, view in pairs]).to(device)
        return class_guided_loss(predicted, target, guide, face, self._weight)


def class_guided_loss(
    predicted: torch.Tensor, target: torch.Tensor, guide: torch.Tensor, face: torch.Tensor, weight: float
) -> torch.Tensor:
    """Mean squared error whose target is ``guide`` outside the face.

    Args:
        predicted: ``(B, C, h, w)`` the denoiser's output.
        target: ``(B, C, h, w)`` that of a perfect denoiser.
        guide: ``(B, C, h, w)`` the denoiser's own output for the class.
        face: ``(B, 1, h, w)`` 1 on the face, 0 outside.
        weight: Of what is outside.
    """
    inside = functional.mse_loss(predicted, target, reduction="none")
    outside = functional.mse_loss(predicted, guide, reduction="none")
    return (face * inside + weight * (1 - face) * outside).mean()


def face_masks(stranger: Stranger, seed: int, views: int, smallest: float, latent: Sequence[int]) -> torch.Tensor:
    """``(V, 1, h, w)`` masks of the face in a stranger's views: the random choices behind the views are drawn again."""
    generator = view_generator(stranger, seed)
    made = [augment(stranger.portrait, draw_augmentation(generator, smallest)) for _ in range(views)]
    landmarks = np.stack([one.landmarks / one.picture.shape[0] for one in made])
    return face_weights(torch.from_numpy(landmarks), *latent)


@dataclass(frozen=True)
class Regularized(Trained):
    """A recipe with one of the regularizers."""

    regularizer: Literal["CoRe", "class guidance"] = "CoRe"
    weight: float = 1.0

    @property
    def learner(self) -> type[Trainer]:
        """The training loop."""
        return ContextLearner if self.regularizer == "CoRe" else ClassGuidedLearner

    def describe(self) -> dict[str, Any]:
        """The recipe, JSON-ready."""
        return {**super().describe(), "regularizer": self.regularizer, "weight": self.weight}

    def _learner(
        self, shared: Precomputed, group: Sequence[Stranger], pool: ViewPool, seed: int, *, timed: bool
    ) -> Trainer:
        trainer = super()._learner(shared, group, pool, seed, timed=timed)
        if isinstance(trainer, ContextLearner):
            trainer.use(self.weight)
        if isinstance(trainer, ClassGuidedLearner):
            latent = pool.people[0].latents.mean.shape[2:]
            made = (face_masks(one, seed, self.settings.views, self.settings.smallest, latent) for one in group)
            trainer.use(self.weight, list(made))
        return trainer


def _with_candidates(name: str) -> tuple[Trained, ...]:
    plain = Trained(name, replace(PRESETS[name], early_stop=False))
    weights: dict[Literal["CoRe", "class guidance"], tuple[float, ...]] = {
        "CoRe": CONTEXT_WEIGHTS,
        "class guidance": CLASS_WEIGHTS,
    }
    candidates = (
        Regularized(f"{name}, {one} {weight:g}", plain.settings, regularizer=one, weight=weight)
        for one, of_one in weights.items()
        for weight in of_one
    )
    return plain, *candidates


METHODS = (*_with_candidates("balanced"), *_with_candidates("best"))


def measure(
    testbed: EvidenceTestbed, methods: Sequence[Trained], strangers: int, images: int, folder: Path
) -> Iterator[Finished]:
    """Learn and measure every stranger with every method; yields each when it is known.

    Args:
        testbed: The miniature.
        methods: What to compare.
        strangers: How many of the testbed's.
        images: Of each prompt.
        folder: Where results are saved.
    """
    results, shared = Results(folder), Precomputed(testbed, folder)
    finished, evaluator = results.by_key(), Evaluator(testbed, images)
    protocol = {
        "testbed": testbed.key,
        "third_judge": testbed.third_judge.name if testbed.third_judge else "",
        "images": images,
        "sampling_steps": testbed.sampler.steps,
        "guidance": testbed.sampler.guidance,
    }
    for stranger in testbed.strangers[:strangers]:
        for method in methods:
            cell = Cell(method.name, method.describe(), (stranger.name,), 0, (1.0,), protocol)
            if (known := finished.get(cell.key)) is None:
                known = measured(cell, method, shared, [stranger], evaluator)
                results.save(cell, known)
                testbed.report.say(f"{stranger.name}, {method.name}: measured")
            yield cell, known


def table(methods: Sequence[Trained], finished: Sequence[Finished]) -> str:
    """The figures, and the paired differences to the recipe without a regularizer, as Markdown."""
    titles = ("recipe", "strangers", *_TITLES)
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    rows = {row.method: row for row in summarize(finished, [one.name for one in methods])}
    baselines = [(one.name, one.name.split(",")[0]) for one in methods if isinstance(one, Regularized)]
    differences = {one.method: one for one in paired_differences(finished, baselines, METRICS)}
    for name, row in rows.items():
        figures = [shown(row.last.figures[metric]) for metric in METRICS]
        lines.append(f"| {' | '.join((name, str(row.strangers), *figures))} |")
        if (pair := differences.get(name)) is not None:
            figures = [shown(pair.figures[metric], signed=True) for metric in METRICS]
            lines.append(f"| paired with *{pair.baseline}* | {pair.strangers} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regularizers", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, metavar="FOLDER", help="where results are saved")
    parser.add_argument("--strangers", type=int, default=12, metavar="N", help="how many people to learn (%(default)s)")
    parser.add_argument("--images", type=int, default=1, metavar="N", help="images of each prompt (%(default)s)")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this recipe; --list names them")
    parser.add_argument("--list", action="store_true", help="list the recipes and exit")
    options = parser.parse_args(arguments)
    if options.list:
        sys.stdout.writelines(f"{one.name}\n" for one in METHODS)
        return 0
    chosen = [one for one in METHODS if not options.only or one.name in options.only]
    try:
        from benchmarks.evidence.miniature import miniature_testbed
        from benchmarks.evidence.real_weights import mobile_face_net

        report = Reporter()
        testbed = miniature_testbed(None, strangers=max(GALLERY, options.strangers), report=report)
        testbed = replace(testbed, third_judge=mobile_face_net(report))
        finished = list(measure(testbed, chosen, options.strangers, options.images, options.results))
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(table(chosen, finished) + "\n")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
