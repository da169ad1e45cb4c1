"""A small world in which training can succeed: a model that was trained, in seconds, to render what names mean.

Invented people have a first and a last name. Every name token's embedding holds hidden features, and the features of both
names together are the colours and the shape of a person's picture. A denoiser is trained on the people's pictures with
their names in the prompt, so that it follows the token vectors. A stranger is a picture of features that no name has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from support.toys import ToyModel, tokenize
from torch import nn

from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import DiffusionModel, Prediction
from celeb_basis.method import Basis, add_noise, diffusion_loss, prediction_target
from celeb_basis.names.lists import NameList, name_list
from celeb_basis.training.augment import TEMPLATES, training_prompt
from celeb_basis.training.dataset import PersonViews, ViewPool, to_model_range

FEATURES = 4
"""Hidden features of each of the two names."""
COMPONENTS = 4
PEOPLE = 300
SIDE = 64
_WIDTH = 32


@dataclass(frozen=True)
class World:
    """A trained model with the bases of its text encoders, and strangers for it."""

    model: DiffusionModel
    bases: tuple[Basis, ...]

    def stranger(self, seed: int) -> ViewPool:
        """A person with features that no name has, on the unit sphere, as the paper's coefficients are."""
        random = np.random.default_rng(1000 + seed)
        features = random.normal(size=(2, FEATURES))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        latents = self.model.encode_images(to_model_range(render(features)))
        vector = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(1, 512))).float(), dim=-1)
        return ViewPool((PersonViews("stranger", b"", latents, vector, ("",)),), "none")

    def held_out_loss(self, person: PersonViews, coefficients: Sequence[torch.Tensor], draws: int = 512) -> float:
        """Diffusion loss over held-out prompts, noises and timesteps, the same for everyone."""
        generator = torch.Generator().manual_seed(77)
        noise = torch.randn(draws, *person.latents.mean.shape[1:], generator=generator)
        timesteps = torch.linspace(1, 999, draws).long()
        prompts = [f"held out words on the face of <p> person number {i % 16}" for i in range(draws)]
        clean = person.latents.mean.expand(draws, -1, -1, -1)
        vectors = [basis.expand(one) for basis, one in zip(self.bases, coefficients, strict=True)]
        with torch.no_grad():
            conditioning = self.model.encode_prompts(prompts, {"<p>": vectors})
            return float(diffusion_loss(self.model, clean, noise, timesteps, conditioning))


class _SteerableDenoiser(nn.Module):
    """A perceptron over the whole latent, the timestep and the conditioning."""

    def __init__(self, latent: int, width: int, hidden: int = 384) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latent + width + 16, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, latent),
        )
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", 2.0 ** torch.arange(8) * torch.pi / 1000)

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        angles = timesteps[:, None] * self.frequencies / 8
        joined = torch.cat([latents.flatten(1), 4 * context, angles.sin(), angles.cos()], dim=1)
        return self.net(joined).reshape(latents.shape)


def render(features: np.ndarray) -> np.ndarray:
    """``(2, FEATURES)`` to a ``(SIDE, SIDE, 3)`` picture: colours of background, oval and stripe, and the stripe's width."""
    levels = 127.5 * (1 + np.tanh(1.5 * features.reshape(-1)))
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    picture = np.empty((SIDE, SIDE, 3))
    picture[:] = levels[[0, 1, 4]]
    picture[(x / 0.32) ** 2 + (y / 0.42) ** 2 < 1] = levels[[2, 5, 6]]
    picture[(np.abs(y + 0.25) < 0.12) & (np.abs(x) < 0.1 + 0.35 * levels[3] / 255)] = levels[[7, 3, 0]]
    return picture.astype(np.uint8)


def train_world(prediction: Prediction = "epsilon", encoders: int = 1, steps: int = 2000, batch: int = 64) -> World:
    """A world with one text encoder, or with two that hold the same features along directions of their own."""
    model = ToyModel((_WIDTH,) * encoders, prediction)
    names, features = _people(model)
    built = build_bases(model.text_encoders, names, BasisOptions(components=COMPONENTS))
    pictures = torch.cat([model.encode_images(to_model_range(render(one))).mean for one in features])
    denoiser = _SteerableDenoiser(pictures[0].numel(), _WIDTH * encoders)
    model.denoiser = denoiser  # type: ignore[assignment]
    with torch.no_grad():
        prompts = [[training_prompt(template, name, "") for name in names.names] for template in TEMPLATES[:6]]
        contexts = torch.stack([model.encode_prompts(of_template, {}) for of_template in prompts])
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        who = torch.randint(PEOPLE, (batch,), generator=generator)
        context = contexts[torch.randint(len(contexts), (batch,), generator=generator), who]
        timesteps = torch.randint(1000, (batch,), generator=generator)
        noise = torch.randn(pictures[who].shape, generator=generator)
        noisy = add_noise(model.schedule, pictures[who], noise, timesteps)
        target = prediction_target(model.schedule, pictures[who], noise, timesteps)
        loss = torch.nn.functional.mse_loss(denoiser(noisy, timesteps, context), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate.step()
    return World(model, tuple(one.basis for one in built))


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def steerable(request: pytest.FixtureRequest) -> World:
    """The trained world, once for each kind of prediction."""
    return train_world(request.param)


def _people(model: ToyModel) -> tuple[NameList, np.ndarray]:
    """Names whose tokens' embeddings hold the features at distances of about 1 from the mean, and the features."""
    random = np.random.default_rng(0)
    features = random.normal(size=(PEOPLE, 2, FEATURES)) / FEATURES**0.5
    words = [[f"first{i}" for i in range(PEOPLE)], [f"last{i}" for i in range(PEOPLE)]]
    for encoder in model.text_encoders:
        for position, of_position in enumerate(words):
            directions, _ = np.linalg.qr(random.normal(size=(_WIDTH, FEATURES)))
            rows = features[:, position] @ directions.T + 0.05 * random.normal(size=(PEOPLE, _WIDTH))
            ids = torch.tensor([tokenize(word)[0] for word in of_position])
            encoder.table[ids] = torch.from_numpy(rows).float()
    return name_list([f"{a} {b}" for a, b in zip(*words, strict=True)], "the steerable world"), features
