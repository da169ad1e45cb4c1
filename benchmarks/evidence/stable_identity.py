"""StableIdentity's scheme in full (arXiv 2401.15975), as a baseline: its encoder, views, masks and loss in two phases.

What differs from the paper, because this project's parts are used: the face vector is that of the network that learning uses
(512 numbers), the masks of face and hair are ovals placed by the landmarks, where the paper uses a segmentation network, and
the two vectors have the width of the model's own text encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.evidence.reporting import clock_of
from benchmarks.evidence.testbed import EvidenceTestbed, Stranger
from celeb_basis.diffusion_model import LatentDistribution, NoiseSchedule
from celeb_basis.events import Preparing
from celeb_basis.faces.network import Floats, Pixels, Portrait
from celeb_basis.method import FACE_WIDTH, Basis, add_noise
from celeb_basis.training.augment import Augmentation, augment
from celeb_basis.training.dataset import PersonViews, ViewPool, to_model_range
from celeb_basis.training.trainer import Batch, Trainer

NAMES = 326
"""Names whose statistics the vectors take."""

PHASES = 0.6
"""Share of the schedule from which on the error of the noise counts, below it that of the clean latent."""

HAIR = 0.1
"""Weight of the loss on the hair; the face's is 1, and beyond both it is 0."""

_CROP = 0.75
_SMALLEST = 0.5
_LEARNING_RATE_MULTIPLIER = 0.1
_INITIAL_DEVIATION = 0.02
_LONGEST_GRADIENT = 1.0
_FINE = 8
"""Samples along each side of a latent's place: the mask of a small face must not fall between places."""

# Ovals in units of the way from the eyes to the mouth (height) and of the distance of the eyes (width): the center below
# the eyes, half the width, half the height. The face reaches from ear to ear and from the chin to the brows.
_FACE = (0.4, 1.15, 1.45)
_HEAD = (0.1, 1.6, 2.1)


# The views and their masks


@dataclass(frozen=True)
class MaskedViews:
    """Encoded views with the weights of their loss."""

    pool: ViewPool
    weights: tuple[torch.Tensor, ...]
    """By person, ``(V, 1, h, w)``: 1 on the face, :data:`HAIR` on the hair, 0 beyond."""
    seconds: float
    """Spent on encoding."""


def encode_masked_views(testbed: EvidenceTestbed, group: Sequence[Stranger], seed: int, views: int) -> MaskedViews:
    """Encode views as the scheme makes them: half of them small on black, half of them crops, each flipped or not.

    The face vector of all views of a person is that of the portrait, from which the vectors are computed in the end, too.
    """
    clock = clock_of(testbed.model.device)
    started = clock()
    people, weights = [], []
    for number, person in enumerate(group):
        generator = torch.Generator().manual_seed(1_000 * seed + number)
        latents, landmarks = [], []
        for index in range(views):
            picture, points = masked_view(person.portrait, generator)
            latents.append(testbed.model.encode_images(to_model_range(picture)))
            landmarks.append(torch.from_numpy(points / picture.shape[0]))
            testbed.report.event(Preparing(number * views + index + 1, views * len(group)))
        mean, std = (torch.cat([getattr(one, name) for one in latents]) for name in ("mean", "std"))
        vector = torch.from_numpy(np.asarray(person.portrait.vector, np.float32))
        people.append(
            PersonViews(person.name, b"", LatentDistribution(mean, std), vector.expand(views, -1), ("",) * views)
        )
        weights.append(face_weights(torch.stack(landmarks), *mean.shape[2:]))
    testbed.model.release_vae()
    return MaskedViews(ViewPool(tuple(people), testbed.faces.name), tuple(weights), clock() - started)


def masked_view(portrait: Portrait, generator: torch.Generator) -> tuple[Pixels, Floats]:
    """A random view ``(S, S, 3)`` of a portrait, and the ``(5, 2)`` landmarks in it."""
    uniform = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    cropped = uniform[0] < 0.5
    neutral: dict[str, Any] = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "aspect": 1.0}
    width = 1.0 if cropped else _SMALLEST + uniform[2] * (1 - _SMALLEST)
    view = augment(
        portrait,
        Augmentation(
            flip=uniform[1] < 0.5, width=width, left=uniform[3], top=uniform[4], background="black", **neutral
        ),
    )
    if not cropped:
        return view.picture, view.landmarks
    side = portrait.picture.shape[0]
    kept = round(_CROP * side)
    left, top = round((side - kept) * uniform[3]), round((side - kept) * uniform[4])
    picture = Image.fromarray(view.picture).crop((left, top, left + kept, top + kept))
    enlarged = np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))
    moved = (view.landmarks + 0.5 - (left, top)) * (side / kept) - 0.5
    return enlarged, moved.astype(np.float32)


def face_weights(landmarks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """``(V, 1, height, width)`` weights: 1 on the face, :data:`HAIR` around it, 0 beyond.

    Args:
        landmarks: ``(V, 5, 2)`` x, y as shares of the frame: eyes, nose, corners of the mouth.
        height: Of the latent. A place at an edge has the mean of what it covers.
        width: Of the latent.
    """
    y, x = torch.meshgrid(
        (torch.arange(height * _FINE) + 0.5) / (height * _FINE),
        (torch.arange(width * _FINE) + 0.5) / (width * _FINE),
        indexing="ij",
    )
    places, points = torch.stack([x, y], dim=-1), landmarks.float()
    eyes, mouth = points[:, :2].mean(dim=1), points[:, 3:].mean(dim=1)
    apart, down = (points[:, 1] - points[:, 0]).norm(dim=-1), mouth - eyes
    face, head = (
        _oval(places, eyes + center * down, down, half_width * apart, half_height * down.norm(dim=-1))
        for center, half_width, half_height in (_FACE, _HEAD)
    )
    fine = torch.where(face, 1.0, torch.where(head, HAIR, 0.0))
    return nn.functional.avg_pool2d(fine[:, None], _FINE)


def _oval(
    places: torch.Tensor, middle: torch.Tensor, down: torch.Tensor, half_width: torch.Tensor, half_height: torch.Tensor
) -> torch.Tensor:
    """``(V, H, W)``: inside an ellipse whose long axis is ``down``."""
    axis = nn.functional.normalize(down, dim=-1)
    way = places[None] - middle[:, None, None]
    along = torch.einsum("vhwc,vc->vhw", way, axis)
    across = way[..., 0] * axis[:, None, None, 1] - way[..., 1] * axis[:, None, None, 0]
    small = torch.finfo(torch.float32).tiny
    ratio = (along / half_height.clamp(min=small)[:, None, None]) ** 2
    return ratio + (across / half_width.clamp(min=small)[:, None, None]) ** 2 < 1


# The encoder


class _EqualizedLinear(nn.Module):
    """A linear layer with LeakyReLU whose weights are learned a tenth as fast."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        initial = _INITIAL_DEVIATION * torch.randn(outputs, inputs, generator=generator)
        self.weight = nn.Parameter(initial / _LEARNING_RATE_MULTIPLIER)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = (parameter * _LEARNING_RATE_MULTIPLIER for parameter in (self.weight, self.bias))
        return nn.functional.leaky_relu(nn.functional.linear(x, weight, bias), 0.2)


class FaceEncoder(nn.Module):
    """From a face vector to the token vectors of one text encoder, with the celebrities' statistics."""

    def __init__(self, celebrities: torch.Tensor, generator: torch.Generator) -> None:
        """Set up the layers.

        Args:
            celebrities: ``(N, E, D)`` token vectors of names.
            generator: The source of the first weights.
        """
        super().__init__()
        self.positions, self.width = celebrities.shape[1:]
        hidden = self.positions * self.width
        self.first = _EqualizedLinear(FACE_WIDTH, hidden, generator)
        self.between = nn.LayerNorm(hidden)
        self.second = nn.Linear(hidden, hidden)
        with torch.no_grad():
            self.second.weight.copy_(torch.randn(hidden, hidden, generator=generator) / hidden**0.5)
            self.second.bias.zero_()
        self.last = nn.LayerNorm(hidden)
        self.register_buffer("mean", celebrities.mean(dim=0))
        self.register_buffer("deviation", celebrities.std(dim=0))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """``(B, E, D)`` token vectors of ``(B, 512)`` face vectors."""
        normalized: torch.Tensor = self.last(self.second(self.between(self.first(vectors))))
        shaped = normalized.reshape(-1, self.positions, self.width)
        result: torch.Tensor = self.get_buffer("mean") + shaped * self.get_buffer("deviation")
        return result


class _Encoders(nn.Module):
    """One face encoder for each person and text encoder: nobody shares anything, as if each were learned alone."""

    def __init__(self, bases: Sequence[Basis], people: int, generator: torch.Generator) -> None:
        super().__init__()
        names = [basis.expand(basis.name_coefficients)[:NAMES] for basis in bases]
        self.size = bases[0].size
        self.people = nn.ModuleList(nn.ModuleList(FaceEncoder(one, generator) for one in names) for _ in range(people))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:
        """``(B, G, E, K)`` coefficients of the free space: token vectors, padded with zeros to its size."""
        rows = []
        for vector, person in zip(vectors, people.tolist(), strict=True):
            of_person: Any = self.people[person]
            found = [encoder(vector[None])[0] for encoder in of_person]
            rows.append(torch.stack([nn.functional.pad(one, (0, self.size - one.shape[-1])) for one in found]))
        return torch.stack(rows)


class StableIdentityLearner(Trainer):
    """Trains one encoder per person with the project's own loop. Call :meth:`use` before the first step."""

    def make_module(self, people: int) -> Any:
        """The encoders."""
        return _Encoders(self.bases, people, self.generator)

    def use(self, views: MaskedViews, latent_scale: float) -> None:
        """Take the masks of the views, and clip gradients at 1.

        Args:
            views: Whose pool the learner was made with.
            latent_scale: The VAE's scaling factor, by which errors are divided.
        """
        self._weights, self._latent_scale = views.weights, latent_scale
        parameters = list(self.module.parameters())

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(parameters, _LONGEST_GRADIENT)

        # Only when the step is made are the gradients those of the loss: fp16's scaler has divided by its scale then.
        self.optimizer.register_step_pre_hook(clip)

    def loss(self, batch: Batch, coefficients: torch.Tensor) -> torch.Tensor:
        """The loss in two phases on the face and, a little, the hair."""
        tokens = {f"<view{row}>": self.token_vectors(one) for row, one in enumerate(coefficients)}
        conditioning = self.model.encode_prompts(batch.prompts, tokens)
        device = self.model.device
        clean, noise, times = batch.clean.to(device), batch.noise.to(device), batch.timesteps.to(device)
        noisy = add_noise(self.model.schedule, clean, noise, times)
        predicted = self.model.predict(noisy, times, conditioning).to(noise.dtype)
        pairs = zip(batch.people.tolist(), batch.views.tolist(), strict=True)
        weights = torch.stack([self._weights[person][view] for person, view in pairs]).to(device)
        return two_phase_loss(self.model.schedule, clean, noise, times, noisy, predicted, weights) / self._latent_scale


def two_phase_loss(
    schedule: NoiseSchedule,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    noisy: torch.Tensor,
    predicted: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted mean squared error of the noise for timesteps from :data:`PHASES` on, and of the clean latent below.

    Args:
        schedule: The noise schedule, and what ``predicted`` is.
        clean: ``(B, C, h, w)`` latents.
        noise: ``(B, C, h, w)``.
        timesteps: ``(B,)``.
        noisy: ``(B, C, h, w)`` what the denoiser was given.
        predicted: ``(B, C, h, w)`` the denoiser's output.
        weights: ``(B, 1, h, w)``.
    """
    rate = schedule.alphas_cumprod.to(noisy.device)[timesteps].to(noisy.dtype).reshape(-1, 1, 1, 1)
    signal, sigma = rate.sqrt(), (1 - rate).sqrt()
    if schedule.prediction == "epsilon":
        predicted_noise, predicted_clean = predicted, (noisy - sigma * predicted) / signal
    else:
        predicted_noise, predicted_clean = signal * predicted + sigma * noisy, signal * noisy - sigma * predicted
    high = (timesteps >= PHASES * schedule.timesteps).reshape(-1, 1, 1, 1)
    error = torch.where(high, (predicted_noise - noise) ** 2, (predicted_clean - clean) ** 2)
    return (error * weights).sum() / (weights.sum().clamp(min=1e-6) * clean.shape[1])
