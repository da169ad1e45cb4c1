"""What methods are compared on: a model, people it has never seen, prompts, judges, and one sampler for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch

from benchmarks.evidence.reporting import Reporter, quiet
from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest, PlaceholderTokens
from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels, Portrait
from celeb_basis.names.lists import NameList

BATCH = 16
"""Images that :class:`DdimSampler` generates together."""


class FaceJudge(Protocol):
    """A face recognition network that scores generated faces."""

    @property
    def name(self) -> str:
        """The network's name, for the results."""

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        """The vector of one face in an ``(H, W, 3)`` image."""

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        """``(N, M)`` similarities of N vectors to M references; higher is more similar."""


References = Literal["images", "pictures"]
"""What a name that the model knows is compared with: images of it, or pictures of the person whom the model was shown."""


@dataclass(frozen=True)
class Person:
    """A person with whom generated images are compared."""

    name: str
    references: tuple[Pixels, ...]
    """Images of the person to score against."""


@dataclass(frozen=True)
class Stranger(Person):
    """A person whom the model has never seen. References are other photos, so that copying the portrait is not rewarded."""

    portrait: Portrait
    """The one photo that is learned from."""


@dataclass(frozen=True)
class PromptCase:
    """A prompt with ``{}`` for each person, and the label that its images must show."""

    prompt: str
    label: str = ""


PromptScorer: TypeAlias = "Callable[[Sequence[Pixels], Sequence[PromptCase]], Sequence[float | None]]"
"""Scores how well each image shows what its prompt asks for; higher is better, ``None`` if that is not measured."""


class Sampler(Protocol):
    """Generates images with the testbed's model."""

    @property
    def steps(self) -> int:
        """Denoising steps."""

    @property
    def guidance(self) -> float:
        """Scale of classifier-free guidance."""

    @property
    def batch(self) -> int:
        """How many images are asked for in one call."""

    def __call__(
        self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens, seeds: Sequence[int]
    ) -> list[Pixels]:
        """One image per prompt. A seed gives the same initial noise for every method, whatever else is in the batch."""


@dataclass(frozen=True)
class EvidenceTestbed:
    """Everything that methods and metrics need. Any model can be one."""

    key: str
    """Depends on the model, the strangers and the judges. Results of different keys are never mixed."""
    model: DiffusionModel
    faces: FaceNetwork
    """The face network that learning uses."""
    names: NameList
    strangers: tuple[Stranger, ...]
    prompts: tuple[PromptCase, ...]
    """Prompts with one person; the first is the plainest."""
    pair_prompts: tuple[PromptCase, ...]
    """Prompts with two people, the first of whom is expected on the left."""
    sampler: Sampler
    detect: Callable[[Pixels], list[DetectedFace]]
    judge: FaceJudge
    """The main judge: not the network that learning uses, where there is another one."""
    second_judge: FaceJudge | None
    """The second opinion: the network that learning uses; ``None`` if that is the main judge already."""
    score_prompts: PromptScorer
    third_judge: FaceJudge | None = None
    """The third opinion: another network that neither training nor learning used; ``None`` where there is none."""
    reference_prompts: tuple[str, ...] = ("a photo of {}",) * 3
    """Prompts, with other seeds than are scored, of the images that stand for a name that the model knows."""
    pictures_of: Callable[[Sequence[str]], Mapping[str, Sequence[Pixels]]] | None = None
    """Other pictures of people whom the model knows by name, where there are any: of the kind that strangers have."""
    known_faces: tuple[Path, ...] = ()
    """Folders with files of celebrities' faces that come with the model."""
    denoiser: Any = None
    """The denoiser's module, for methods that modify it; ``None`` where it is not accessible."""
    latent_scale: float = 1.0
    """The VAE's scaling factor."""
    report: Reporter = field(default_factory=quiet)


def generate(
    testbed: EvidenceTestbed, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens, seeds: Sequence[int]
) -> list[Pixels]:
    """Generate one image per prompt.

    Args:
        testbed: Whose sampler is used.
        prompts: One prompt per image.
        placeholder_tokens: Token vectors by placeholder.
        seeds: One seed per image.
    """
    images: list[Pixels] = []
    for start in range(0, len(prompts), testbed.sampler.batch):
        batch = slice(start, start + testbed.sampler.batch)
        images += testbed.sampler(prompts[batch], placeholder_tokens, seeds[batch])
        if len(prompts) > 1:
            testbed.report.step("generating images", len(images), len(prompts))
    return images


@dataclass(frozen=True)
class DdimSampler(Sampler):
    """DDIM without added noise (Song et al. 2021), the paper's sampler, on many images at once."""

    model: DiffusionModel
    decode: Callable[[torch.Tensor], Sequence[Pixels]]
    """Decodes scaled latents ``(N, C, h, w)`` to images."""
    latent_shape: tuple[int, int, int]
    """``(C, h, w)``."""
    steps: int = 20
    guidance: float = 3.0
    batch: int = BATCH

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens, seeds: Sequence[int]
    ) -> list[Pixels]:
        """Generate all images together."""
        model = self.model
        conditional = model.encode_prompts(prompts, placeholder_tokens)
        unconditional = model.encode_prompts([""] * len(prompts), {}) if self.guidance != 1 else None
        alphas = model.schedule.alphas_cumprod.to(model.device)
        x = torch.stack(
            [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        x = x.to(model.device)
        spacing = model.schedule.timesteps // self.steps
        for number in reversed(range(self.steps)):
            timestep = number * spacing + 1
            times = torch.full((len(x),), timestep, device=model.device)
            output = model.predict(x, times, conditional)
            if unconditional is not None:
                plain = model.predict(x, times, unconditional)
                output = plain + self.guidance * (output - plain)
            alpha, previous = alphas[timestep], alphas[timestep - spacing] if number else alphas[0]
            if model.schedule.prediction == "epsilon":
                noise = output
                clean = (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()
            else:
                clean = alpha.sqrt() * x - (1 - alpha).sqrt() * output
                noise = alpha.sqrt() * output + (1 - alpha).sqrt() * x
            x = previous.sqrt() * clean + (1 - previous).sqrt() * noise
        return [np.asarray(image) for image in self.decode(x)]


@dataclass(frozen=True)
class HostSampler(Sampler):
    """The host's own generation, one image at a time: what a user of the model gets."""

    model: DiffusionModel
    steps: int = 30
    guidance: float = 7.5
    batch: int = 1

    def __call__(
        self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens, seeds: Sequence[int]
    ) -> list[Pixels]:
        """Generate the images one after the other."""
        images = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            request = GenerationRequest(
                prompt, placeholder_tokens=placeholder_tokens, seed=seed, steps=self.steps, guidance=self.guidance
            )
            images += [np.asarray(image.convert("RGB")) for image in self.model.generate(request)]
        return images
