"""Celeb Basis, the method: every equation of the paper in one file (Yuan et al. 2023, arXiv 2306.00926).

The sections follow the paper and ``docs/method.md``. Symbols keep their letters in shapes: ``N`` celebrity names, ``E``
token positions ("first name", "last name"), ``K`` components, ``D`` the width of a token embedding, ``G`` groups of
coefficients, ``P`` people, ``B`` samples of a batch, ``T`` timesteps. Additions of this project are marked *ours*.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn import functional

from celeb_basis.errors import BasisError

# 1. The celeb basis (paper section 3.2, equations 3 and 4): principal components of the names' token embeddings.

# A direction whose spread is below this share of the largest one's is rounding noise of float32 tables, not a component.
_RANK_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PrincipalComponents:
    """``N`` token vectors of one position, described by their ``K`` directions of largest variance."""

    mean: torch.Tensor
    """``(D,)``."""
    components: torch.Tensor
    """``(K, D)`` orthonormal rows in order of decreasing variance."""
    variance: torch.Tensor
    """``(K,)`` variance along each component (divided by ``N - 1``)."""
    total_variance: float
    """Variance summed over all ``D`` dimensions."""

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """Coefficients ``(N, K)`` of ``(N, D)`` vectors, computed in the components' dtype."""
        return (vectors.to(self.components.dtype) - self.mean) @ self.components.T


def principal_components(vectors: torch.Tensor, count: int, repeats: torch.Tensor | None = None) -> PrincipalComponents:
    """Compute the first ``count`` principal components of ``(N, D)`` vectors, in float64 on the CPU.

    The eigenvectors of the ``D x D`` covariance are the right singular vectors of the centered vectors, and cost the same
    for a thousand names as for a hundred thousand. *Ours*: the sign of each component is fixed (its entry of largest
    magnitude is positive), so that coefficients mean the same on every machine, and the rank is checked.

    Args:
        vectors: ``(N, D)`` token vectors.
        count: ``K``.
        repeats: ``(N,)`` how often each vector counts; once each if ``None``.

    Raises:
        BasisError: If the centered vectors span fewer than ``count`` dimensions, or hold NaN or infinity.
    """
    data = vectors.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(data).all()):
        raise BasisError("The model's token embeddings hold NaN or infinite numbers: load an undamaged checkpoint.")
    weights = torch.ones(len(data), 1, dtype=torch.float64) if repeats is None else repeats.double()[:, None]
    names = int(weights.sum())
    mean = (weights * data).sum(dim=0) / names
    centered = data - mean
    covariance = (weights * centered).T @ centered / max(1, names - 1)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    variance = eigenvalues.flip(0).clamp(min=0.0)
    largest = float(variance[0])
    rank = int((variance > _RANK_TOLERANCE**2 * largest).sum()) if largest > 0 else 0
    if rank < count:
        raise BasisError(
            f"The {names} usable names span only {rank} dimensions, fewer than the {count} components asked for: "
            f"give a longer list of names or set components to {rank} or less."
        )
    components = eigenvectors.flip(1).T[:count]
    total = float(torch.trace(covariance))
    return PrincipalComponents(mean, components * _signs(components), variance[:count], total)


def repository_components(vectors: torch.Tensor, count: int) -> PrincipalComponents:
    """Compute principal components of ``(N, D)`` vectors as the CelebBasis repository does: an SVD in float32.

    Only for reading coefficients that were learned with the paper's own code. The signs are whatever the decomposition
    returns: they depend on the version of torch and on the number of threads.
    """
    data = vectors.detach().to("cpu", torch.float32)
    mean = data.mean(dim=0, keepdim=True)
    # All right singular vectors, as in the repository: another driver or precision might flip signs.
    _, singular, right = torch.linalg.svd(data - mean, full_matrices=True)
    variance = singular.square() / max(1, len(data) - 1)
    return PrincipalComponents(mean[0], right[:count], variance[:count], float(variance.sum()))


def _signs(components: torch.Tensor) -> torch.Tensor:
    """``(K, 1)`` of +1 and -1 that make each row's entry of largest magnitude positive (the first one, if several are)."""
    largest = components.abs().argmax(dim=1, keepdim=True)
    return torch.where(components.gather(1, largest) < 0, -1.0, 1.0).to(components.dtype)


@dataclass(frozen=True)
class Basis:
    """The space spanned by celebrities' names in one text encoder's token embeddings. Float32, on the CPU unless moved."""

    encoder: str
    """The text encoder's name, e.g. ``"clip_l"``."""
    mean: torch.Tensor
    """``(E, D)`` mean token vector of each position."""
    components: torch.Tensor
    """``(E, K, D)`` orthonormal rows for each position."""
    variance: torch.Tensor
    """``(E, K)`` the names' variance along each component."""
    total_variance: torch.Tensor
    """``(E,)`` the names' variance over all ``D`` dimensions."""
    names: tuple[str, ...]
    """The ``N`` names used."""
    name_coefficients: torch.Tensor
    """``(N, E, K)`` the names' own coefficients."""
    names_sha256: str
    """SHA-256 of the list of names that was given."""
    sha256: str
    """SHA-256 of everything the basis depends on: the used names' token vectors, ``K``, and the algorithm's version."""

    @property
    def positions(self) -> int:
        """``E``."""
        return int(self.components.shape[0])

    @property
    def size(self) -> int:
        """``K``."""
        return int(self.components.shape[1])

    @property
    def width(self) -> int:
        """``D``."""
        return int(self.components.shape[2])

    @property
    def spread(self) -> torch.Tensor:
        """``(E,)`` root-mean-square distance of the names to the mean: the unit of :meth:`distance`."""
        return self.total_variance.sqrt()

    @property
    def radius(self) -> torch.Tensor:
        """``(E,)`` root-mean-square norm of the names' coefficients in each position."""
        return self.name_coefficients.pow(2).sum(dim=-1).mean(dim=0).sqrt()

    @property
    def deviations(self) -> torch.Tensor:
        """``(E, K)`` root mean square of the names' coefficients along each component."""
        return self.name_coefficients.pow(2).mean(dim=0).sqrt()

    def to(self, device: torch.device) -> Basis:
        """The same basis with mean and components on ``device``, for expanding at every training step."""
        return replace(self, mean=self.mean.to(device), components=self.components.to(device))

    def expand(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Token vectors ``z_e = m_e + sum_k c[e, k] B_e[k]`` (equation 5). Differentiable.

        Args:
            coefficients: ``(..., E, K)``; the computation is on their device, in the basis' dtype.

        Returns:
            ``(..., E, D)`` token vectors.

        Raises:
            BasisError: If the last two dimensions are not ``(E, K)``.
        """
        self._check(coefficients, self.size, "coefficients")
        values = coefficients.to(self.components.dtype)
        components = self.components.to(values.device)
        return self.mean.to(values.device) + torch.einsum("...ek,ekd->...ed", values, components)

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """Coefficients ``(..., E, K)`` of the points of the space nearest to ``(..., E, D)`` token vectors."""
        self._check(vectors, self.width, "token vectors")
        return project(vectors, self.mean, self.components)

    def distance(self, coefficients: torch.Tensor) -> float:
        """Distance of ``(E, K)`` coefficients to the mean, in units of the names' own spread, averaged over positions.

        The unit sphere of the paper is about three times as far out as any celebrity in Stable Diffusion 1.
        """
        self._check(coefficients, self.size, "coefficients")
        return float((coefficients.detach().cpu().float().norm(dim=-1) / self.spread).mean())

    def _check(self, tensor: torch.Tensor, last: int, what: str) -> None:
        if tensor.shape[-2:] != (self.positions, last):
            raise BasisError(
                f"The {what} have the shape {tuple(tensor.shape)}, but the basis of {self.encoder} needs "
                f"{self.positions} x {last}: use the model and the number of components they were learned with."
            )


def project(vectors: torch.Tensor, mean: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
    """Coefficients ``c[e, k] = (z_e - m_e) . B_e[k]``: ``(..., E, D)`` to ``(..., E, K)``, float32 on the vectors' device."""
    values = vectors.float()
    return torch.einsum("...ed,ekd->...ek", values - mean.to(values.device), components.to(values.device))


# 4. From a face vector to coefficients (paper section 3.3, equation 6), and their moving average.

FACE_WIDTH = 512
"""Length of a face vector ``v`` (ArcFace family, L2-normalized)."""

_NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class CoefficientShape:
    """``G`` groups of coefficients (one for each text encoder, or one shared by all), each ``E x K``."""

    groups: int
    positions: int
    components: int

    @property
    def size(self) -> int:
        """``G * E * K``: the number of learned parameters of one person (1,024 for Stable Diffusion 1)."""
        return self.groups * self.positions * self.components


def unit_rows(raw: torch.Tensor, shape: CoefficientShape) -> torch.Tensor:
    """``c_e = x_e / |x_e|``: ``(B, G*E*K)`` to ``(B, G, E, K)``, each row of ``K`` on the unit sphere.

    The paper's ablation found the sphere better than a softmax and than no normalization.
    """
    rows = raw.reshape(-1, shape.groups, shape.positions, shape.components)
    return functional.normalize(rows, dim=-1)


class CoefficientHead(nn.Module):
    """``x = LeakyReLU_0.2(W v + b)``, then each row to the unit sphere. Shared by all people learned together.

    ``W`` is ``(G*E*K, 512)`` and starts standard normal (the paper's "equalized" layer with multiplier 1), ``b`` at zero.
    """

    def __init__(self, shape: CoefficientShape, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.randn(shape.size, FACE_WIDTH, generator=generator))
        self.bias = nn.Parameter(torch.zeros(shape.size))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Coefficients ``(B, G, E, K)`` of ``(B, 512)`` face vectors; ``people`` is not used."""
        raw = functional.leaky_relu(functional.linear(vectors, self.weight, self.bias), _NEGATIVE_SLOPE)
        return unit_rows(raw, self.shape)


class DirectCoefficients(nn.Module):
    """Coefficients on the unit sphere as free parameters, without a face network (an ablation of the paper)."""

    def __init__(self, shape: CoefficientShape, people: int, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.raw = nn.Parameter(torch.randn(people, shape.size, generator=generator))

    def initialize_from(self, coefficients: torch.Tensor) -> None:
        """Start from ``(P, G, E, K)`` coefficients instead of random ones."""
        with torch.no_grad():
            self.raw.copy_(coefficients.reshape(self.raw.shape))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Coefficients ``(B, G, E, K)`` of the people with the ``(B,)`` indices ``people``; ``vectors`` are not used."""
        return unit_rows(self.raw[people], self.shape)


class ScaledCoefficients(nn.Module):
    """Coefficients as free parameters, each in units of the celebrities' own spread along its component (*ours*).

    An optimizer step then has the same weight in every component: the first ones spread several times as far as the last.
    """

    spread: torch.Tensor

    def __init__(self, shape: CoefficientShape, people: int, spread: torch.Tensor) -> None:
        """Start at the mean, all zeros.

        Args:
            shape: Shape of one person's coefficients.
            people: ``P``.
            spread: ``(G, E, K)`` root-mean-square coefficients of the names (:attr:`Basis.deviations`).
        """
        super().__init__()
        self.shape = shape
        self.raw = nn.Parameter(torch.zeros(people, shape.size))
        self.register_buffer("spread", spread.clamp_min(1e-8), persistent=False)

    def initialize_from(self, coefficients: torch.Tensor) -> None:
        """Start from ``(P, G, E, K)`` coefficients."""
        with torch.no_grad():
            self.raw.copy_((coefficients.to(self.spread) / self.spread).reshape(self.raw.shape))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Coefficients ``(B, G, E, K)`` of the people with the ``(B,)`` indices ``people``; ``vectors`` are not used."""
        rows = self.raw[people].reshape(-1, self.shape.groups, self.shape.positions, self.shape.components)
        return rows * self.spread


class MovingAverage:
    """Exponential moving average of ``P`` people's coefficients, ``(G, E, K)`` each: all that is saved of an identity.

    The paper's code starts it from random numbers, which leaves ``decay ** steps`` of that noise in the result. *Ours*
    starts at zero and is divided by ``1 - decay ** updates``, so that the first value counts in full (Kingma and Ba 2015).
    """

    def __init__(self, people: int, shape: tuple[int, ...], decay: float) -> None:
        self.decay = decay
        self.sums = torch.zeros(people, *shape)
        self.updates = torch.zeros(people, dtype=torch.int64)

    def update(self, person: int, value: torch.Tensor) -> None:
        """Add one value of a person's coefficients."""
        self.sums[person].mul_(self.decay).add_(value.detach().to("cpu", torch.float32), alpha=1.0 - self.decay)
        self.updates[person] += 1

    def value(self, person: int) -> torch.Tensor | None:
        """The person's averaged coefficients, or ``None`` before the first update."""
        updates = int(self.updates[person])
        return self.sums[person] / (1.0 - self.decay**updates) if updates else None


# 5. Training (paper section 3.3): the diffusion loss of the frozen model.

Prediction = Literal["epsilon", "v_prediction"]
"""What the denoiser predicts: the noise, or the velocity (Salimans and Ho 2022)."""


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps`` and what the denoiser predicts of it."""

    alphas_cumprod: torch.Tensor
    """``(T,)`` float32 on the CPU: ``a_t`` of every training timestep."""
    prediction: Prediction

    @property
    def timesteps(self) -> int:
        """``T``, the number of training timesteps."""
        return int(self.alphas_cumprod.shape[0])

    def to(self, device: torch.device) -> NoiseSchedule:
        """The same schedule on ``device``, for computing a loss at every training step."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))


class Denoiser(Protocol):
    """The part of a diffusion model that the loss needs; see :class:`celeb_basis.diffusion_model.DiffusionModel`."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule the model was trained with."""

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        """The denoiser's output for noisy latents ``(B, C, h, w)`` at timesteps ``(B,)``."""


def add_noise(
    schedule: NoiseSchedule, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps`` for ``(B, C, h, w)`` latents at ``(B,)`` timesteps."""
    signal, sigma = _rates(schedule, timesteps, clean)
    return signal * clean + sigma * noise


def prediction_target(
    schedule: NoiseSchedule, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """The output of a perfect denoiser: ``eps``, or ``v = sqrt(a_t) eps - sqrt(1 - a_t) x_0``."""
    if schedule.prediction == "epsilon":
        return noise
    signal, sigma = _rates(schedule, timesteps, clean)
    return signal * noise - sigma * clean


def diffusion_loss(
    model: Denoiser, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, conditioning: Any
) -> torch.Tensor:
    """Mean squared error of the prediction over all elements, in the dtype of ``noise`` (float32 in training).

    Args:
        model: The frozen diffusion model.
        clean: ``(B, C, h, w)`` latents ``x_0`` on the model's device.
        noise: ``(B, C, h, w)`` standard normal ``eps``.
        timesteps: ``(B,)`` int64, uniform over the schedule.
        conditioning: The encoded prompts, through which gradients flow back to the token vectors.
    """
    noisy = add_noise(model.schedule, clean, noise, timesteps)
    predicted = model.predict(noisy, timesteps, conditioning)
    target = prediction_target(model.schedule, clean, noise, timesteps)
    return functional.mse_loss(predicted.to(noise.dtype), target)


def _rates(schedule: NoiseSchedule, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``sqrt(a_t)`` and ``sqrt(1 - a_t)``, shaped to multiply ``like``."""
    rate = schedule.alphas_cumprod.to(like.device)[timesteps].to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
    return rate.sqrt(), (1.0 - rate).sqrt()
