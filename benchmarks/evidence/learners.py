"""Learners to compare with: the project's own with one thing done otherwise."""

from __future__ import annotations

import torch
from torch import nn

from celeb_basis.method import CoefficientHead, DirectCoefficients
from celeb_basis.training.trainer import Trainer


class _FreeRows(DirectCoefficients):
    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        shape = self.shape
        return self.raw[people].reshape(-1, shape.groups, shape.positions, shape.components)


class _FreeHead(CoefficientHead):
    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        shape = self.shape
        raw = nn.functional.leaky_relu(nn.functional.linear(vectors, self.weight, self.bias), 0.2)
        return raw.reshape(-1, shape.groups, shape.positions, shape.components)


class FreeLearner(Trainer):
    """Coefficients of any length: the paper's ablation without the unit sphere, and plain textual inversion."""

    def make_module(self, people: int) -> CoefficientHead | DirectCoefficients:
        if self.settings.mode == "head":
            return _FreeHead(self.shape, self.generator)
        return _FreeRows(self.shape, people, self.generator)
