"""The model, face network and views that the subjects measure with, created once per run and only when used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import Figure
from celeb_basis.basis import build_basis
from celeb_basis.events import follow
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import FaceNetwork, Portrait
from celeb_basis.faces.packs import MINIATURE, find_pack
from celeb_basis.hosts.diffusers import DiffusersHost
from celeb_basis.method import Basis
from celeb_basis.names.lists import shipped_names
from celeb_basis.training.dataset import ViewPool, encode_views
from miniature.small_models.pipelines import make_pipeline

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Subject:
    """One thing that is measured."""

    name: str
    """Its name on the command line."""
    slow: bool
    """Whether it belongs to ``--full``."""
    measure: Callable[[Workbench], Iterator[Figure]]


@dataclass(frozen=True)
class Workbench:
    """The model that steps are measured on: Stable Diffusion 1.5's architecture with random weights, float32, CPU."""

    tiny: bool = False
    """Use a model of a thousandth of the size, to try the benchmarks themselves: its figures mean nothing."""

    pairs: int | None = None
    """Pairs of each comparison, if other than the subject's own."""

    @property
    def model(self) -> str:
        """The model's name in figures."""
        return "small model" if self.tiny else "SD1.5"

    def sides(self, *wanted: int) -> tuple[int, ...]:
        """Sides in pixels of the images to measure with."""
        return (64,) if self.tiny else wanted

    def times(self, usual: int) -> int:
        """How often to measure what is usually measured ``usual`` times."""
        return self.pairs or usual

    @cached_property
    def pipeline(self) -> Any:
        """The loaded checkpoint: UNet, text encoder, VAE."""
        return make_pipeline("sd1", full_size=not self.tiny)

    @cached_property
    def host(self) -> DiffusersHost:
        """The checkpoint as the project sees it."""
        # The hash is given, since hashing gigabytes of weights is no part of any figure.
        return DiffusersHost(self.pipeline, name="benchmark", sha256="0" * 64)

    @cached_property
    def basis(self) -> Basis:
        """The basis of the shipped list for the model's text encoder."""
        return build_basis(self.host.text_encoders[0], shipped_names()).basis

    @cached_property
    def faces(self) -> FaceNetwork:
        """The real, small face networks."""
        return InsightFaceNetwork(find_pack(MINIATURE).folder)

    def portrait(self, side: int) -> Portrait:
        """A stand-in for a photo: the time to encode it does not depend on its content."""
        random = np.random.default_rng(side)
        picture = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        landmarks = np.array([[0.4, 0.45], [0.6, 0.45], [0.5, 0.55], [0.42, 0.65], [0.58, 0.65]], np.float32) * side
        return Portrait(picture, landmarks, np.full(512, 512**-0.5, np.float32), "benchmark")

    def pool(self, side: int, views: int) -> ViewPool:
        """One person's views, encoded by the project's own code."""
        generator = torch.Generator().manual_seed(side)
        portraits = {"person": [self.portrait(side)]}
        return follow(encode_views(self.host, portraits, self.faces, views=views, smallest=0.1, generator=generator))
