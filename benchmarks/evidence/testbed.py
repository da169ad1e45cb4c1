"""What methods are compared on: a model, people it has never seen, prompts, judges, and a DDIM sampler for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from celeb_basis.diffusion_model import DiffusionModel, PlaceholderTokens
from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels, Portrait
from celeb_basis.names.lists import NameList

BATCH = 16
"""Images that are generated together."""


class FaceJudge(Protocol):
    """A face recognition network that scores generated faces."""

    @property
    def name(self) -> str:
        """The network's name, for the results."""

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        """The vector of one face in an ``(H, W, 3)`` image."""

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        """``(N, M)`` similarities of N vectors to M references; higher is more similar."""


SceneClassifier: TypeAlias = "Callable[[Sequence[Pixels]], Sequence[frozenset[str]]]"
"""Maps images to the labels that each of them shows, such as ``{"photo", "beach", "glasses", "1 person"}``."""


@dataclass(frozen=True)
class Stranger:
    """A person whom the model has never seen."""

    name: str
    portrait: Portrait
    """The one photo that is learned from."""
    references: tuple[Pixels, ...]
    """Other photos of the same person to score against, so that copying the training photo is not rewarded."""


@dataclass(frozen=True)
class PromptCase:
    """A prompt with ``{}`` for each person, and the label that its images must show."""

    prompt: str
    label: str


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
    decode: Callable[[torch.Tensor], Sequence[Pixels]]
    """Decodes scaled latents ``(N, C, h, w)`` to images."""
    latent_shape: tuple[int, int, int]
    """``(C, h, w)``."""
    detect: Callable[[Pixels], list[DetectedFace]]
    judge: FaceJudge
    """The main judge: not the network that learning uses."""
    second_judge: FaceJudge
    """The second opinion: the network that learning uses."""
    classify_scenes: SceneClassifier
    steps: int = 20
    guidance: float = 3.0
    denoiser: Any = None
    """The denoiser's module, for methods that modify it; ``None`` where it is not accessible."""


@torch.no_grad()
def generate(
    testbed: EvidenceTestbed, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens, seeds: Sequence[int]
) -> list[Pixels]:
    """Generate one image per prompt with DDIM without added noise (Song et al. 2021), the paper's sampler.

    Args:
        testbed: The model, its number of steps and its guidance.
        prompts: One prompt per image.
        placeholder_tokens: Token vectors by placeholder.
        seeds: One seed per image. A seed gives the same initial noise for every method, whatever else is in the batch.
    """
    images: list[Pixels] = []
    for start in range(0, len(prompts), BATCH):
        batch = slice(start, start + BATCH)
        latents = _sample(testbed, prompts[batch], placeholder_tokens, seeds[batch])
        images += [np.asarray(image) for image in testbed.decode(latents)]
    return images


def _sample(
    testbed: EvidenceTestbed, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens, seeds: Sequence[int]
) -> torch.Tensor:
    model = testbed.model
    conditional = model.encode_prompts(prompts, placeholder_tokens)
    unconditional = model.encode_prompts([""] * len(prompts), {}) if testbed.guidance != 1 else None
    alphas = model.schedule.alphas_cumprod.to(model.device)
    x = torch.stack(
        [torch.randn(testbed.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    x = x.to(model.device)
    spacing = model.schedule.timesteps // testbed.steps
    for number in reversed(range(testbed.steps)):
        timestep = number * spacing + 1
        times = torch.full((len(x),), timestep, device=model.device)
        output = model.predict(x, times, conditional)
        if unconditional is not None:
            plain = model.predict(x, times, unconditional)
            output = plain + testbed.guidance * (output - plain)
        alpha, previous = alphas[timestep], alphas[timestep - spacing] if number else alphas[0]
        if model.schedule.prediction == "epsilon":
            noise = output
            clean = (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        else:
            clean = alpha.sqrt() * x - (1 - alpha).sqrt() * output
            noise = alpha.sqrt() * output + (1 - alpha).sqrt() * x
        x = previous.sqrt() * clean + (1 - previous).sqrt() * noise
    return x
