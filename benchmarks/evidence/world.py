"""What the evidence is gathered in: a model, strangers, scenes to draw them in, and judges. Any model can be one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from celeb_basis.diffusion_model import DiffusionModel
from celeb_basis.faces.types import DetectedFace, FaceNetwork, Floats, Pixels, Portrait
from celeb_basis.names.lists import NameList


class Judge(Protocol):
    """A network that tells faces apart."""

    @property
    def name(self) -> str: ...

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        """The vector of one face in an ``(H, W, 3)`` picture."""

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        """``(N, M)``: how alike each of N vectors is to each of M; higher is more."""


SceneJudge: TypeAlias = "Callable[[Sequence[Pixels]], Sequence[frozenset[str]]]"
"""Pictures to the labels that each of them shows, such as ``{"photo", "beach", "glasses", "1 person"}``."""


@dataclass(frozen=True)
class Stranger:
    """Somebody whom the model has never seen."""

    name: str
    portrait: Portrait
    """The one picture that is learned from."""
    references: tuple[Pixels, ...]
    """Other pictures of the same person, to judge against, so that a copy of the one picture earns nothing."""


@dataclass(frozen=True)
class Ask:
    """A prompt with ``{}`` for each person, and the label that must be seen."""

    prompt: str
    label: str


@dataclass(frozen=True)
class EvidenceWorld:
    """All that contestants and judges need."""

    key: str
    """Changes with the model, the strangers and the judges: results of another key are never mixed in."""
    host: DiffusionModel
    faces: FaceNetwork
    """What learning sees faces with."""
    names: NameList
    strangers: tuple[Stranger, ...]
    asks: tuple[Ask, ...]
    """Of one person; the first is the plainest."""
    together: tuple[Ask, ...]
    """Of two people, the first named on the left."""
    decode: Callable[[torch.Tensor], Sequence[Pixels]]
    """Scaled latents ``(N, C, h, w)`` to pictures."""
    latent: tuple[int, int, int]
    """``(C, h, w)``."""
    detect: Callable[[Pixels], list[DetectedFace]]
    judge: Judge
    """The first judge: not the network that learning uses."""
    second: Judge
    """The second opinion: the network that learning uses."""
    scenes: SceneJudge
    steps: int = 20
    guidance: float = 3.0
    denoiser: Any = None
    """The denoiser's module, for contestants that change it; ``None`` where it cannot be had."""
