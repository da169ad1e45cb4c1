"""Learners on trial: each is the project's own with one thing done otherwise."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.evidence.world import FaceLoss
from celeb_basis.errors import LearningError
from celeb_basis.hosts.base import Conditioning, NoiseSchedule, TokenVectors
from celeb_basis.learning.head import CoefficientHead, DirectCoefficients
from celeb_basis.learning.learner import Draw, Learner
from celeb_basis.learning.objective import add_noise, predicted_clean, prediction_target, weighted_mean

PHASES = 0.6
"""StableIdentity's share of the schedule from which on the noise's error counts, below it the clean latent's."""


class _FreeRows(DirectCoefficients):
    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        shape = self.shape
        return self.raw[people].reshape(-1, shape.groups, shape.positions, shape.components)


class _FreeHead(CoefficientHead):
    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        shape = self.shape
        raw = nn.functional.leaky_relu(nn.functional.linear(vectors, self.weight, self.bias), 0.2)
        return raw.reshape(-1, shape.groups, shape.positions, shape.components)


class FreeLearner(Learner):
    """Coefficients of any length: the paper's ablation without the unit sphere, and plain textual inversion."""

    def make_model(self, people: int) -> CoefficientHead | DirectCoefficients:
        if self.settings.mode == "head":
            return _FreeHead(self.shape, self.generator)
        return _FreeRows(self.shape, people, self.generator)


class PredictingLearner(Learner):
    """Losses on what the denoiser's output amounts to; one denoiser evaluation a sample, as ever."""

    def predict(self, draw: Draw, conditioning: Conditioning) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy latents, and what the denoiser says of them."""
        device = self.host.device
        noisy = add_noise(self.host.schedule, draw.clean.to(device), draw.noise.to(device), draw.timesteps.to(device))
        predicted = self.host.predict(noisy, draw.timesteps.to(device), conditioning)
        return noisy, predicted.to(noisy.dtype)

    def places(self, draw: Draw) -> torch.Tensor:
        """``(B, 1, h, w)`` weights, 1 everywhere without a mask."""
        weights = self.weights(draw)
        return torch.ones_like(draw.clean[:, :1]).to(self.host.device) if weights is None else weights


class TwoPhaseLearner(PredictingLearner):
    """StableIdentity's loss: error of the noise at high noise, error of the predicted clean latent at low noise."""

    def objective(self, draw: Draw, conditioning: Conditioning) -> torch.Tensor:
        noisy, predicted = self.predict(draw, conditioning)
        return two_phase_loss(
            self.host.schedule, draw.clean.to(noisy), draw.noise.to(noisy), draw.timesteps, noisy, predicted,
            self.places(draw),
        )  # fmt: skip


class StableIdentityLearner(TwoPhaseLearner):
    """Its move into the celebrities' statistics as well."""

    def vectors(self, coefficients: torch.Tensor) -> TokenVectors:
        plain = super().vectors(coefficients)
        return [
            moved_into(vectors, basis.expand(basis.name_coefficients).to(vectors))
            for vectors, basis in zip(plain, self.bases, strict=True)
        ]


class IdentityLearner(PredictingLearner):
    """The diffusion loss, and at low noise how unlike the face of the predicted clean picture is."""

    face_loss: FaceLoss | None = None
    share = 0.1
    """Weight of the face's loss beside the diffusion loss."""
    below = 0.4
    """Share of the schedule below which a face can be seen in the predicted clean picture."""

    def objective(self, draw: Draw, conditioning: Conditioning) -> torch.Tensor:
        if self.face_loss is None:
            raise LearningError("There is no recognition network with gradients here: leave the identity loss out.")
        schedule = self.host.schedule
        noisy, predicted = self.predict(draw, conditioning)
        clean, noise, times = draw.clean.to(noisy), draw.noise.to(noisy), draw.timesteps.to(noisy.device)
        target = prediction_target(schedule, clean, noise, times)
        loss = weighted_mean((predicted - target) ** 2, self.places(draw))
        low = draw.timesteps < self.below * schedule.timesteps
        if not bool(low.any()):
            return loss
        rows = low.nonzero()[:, 0].tolist()
        seen = predicted_clean(schedule, noisy[rows], predicted[rows], times[rows])
        people = [self.pool.people[int(draw.people[row])] for row in rows]
        marks = [person.landmarks for person in people]
        if any(one is None for one in marks):
            raise LearningError("Where the faces are was not noted: encode the views anew.")
        landmarks = torch.stack([one[int(draw.views[row])] for one, row in zip(marks, rows, strict=True)])  # type: ignore[index]
        wanted = torch.stack([nn.functional.normalize(person.vectors.mean(dim=0), dim=0) for person in people])
        unlike = self.face_loss(seen, landmarks.to(seen.device), wanted.to(seen.device))
        return loss + self.share * unlike.sum() / len(draw.clean)


def two_phase_loss(
    schedule: NoiseSchedule,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    noisy: torch.Tensor,
    predicted: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted squared error of the noise for timesteps from 0.6 T on, of the clean latent below."""
    times = timesteps.to(noisy.device)
    told = predicted_clean(schedule, noisy, predicted, times)
    rate = schedule.alphas_cumprod.to(noisy.device)[times].to(noisy.dtype).reshape(-1, 1, 1, 1)
    velocity = schedule.prediction == "v_prediction"
    told_noise = rate.sqrt() * predicted + (1 - rate).sqrt() * noisy if velocity else predicted
    high = (times >= PHASES * schedule.timesteps).reshape(-1, 1, 1, 1)
    return weighted_mean(torch.where(high, (told_noise - noise) ** 2, (told - clean) ** 2), weights)


def moved_into(vectors: torch.Tensor, celebrities: torch.Tensor) -> torch.Tensor:
    """``std(C) (v - mean(v)) / std(v) + mean(C)``: scalar statistics of each of ``(E, D)`` vectors, those of the
    ``(N, E, D)`` celebrities' embeddings by dimension (StableIdentity, its equation of the moved embedding)."""
    mean, std = vectors.mean(dim=-1, keepdim=True), vectors.std(dim=-1, keepdim=True)
    return celebrities.std(dim=0) * (vectors - mean) / std + celebrities.mean(dim=0)
