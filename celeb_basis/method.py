"""The basis of one text encoder: from coefficients to token vectors and back (paper section 3.2, equations 3 to 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from celeb_basis.diffusion_model import Conditioning, DiffusionModel, NoiseSchedule
from celeb_basis.errors import BasisError


@dataclass(frozen=True)
class Basis:
    """The space that celebrities' names span in one text encoder's token embeddings. Float32 on the CPU.

    ``E`` token positions ("first name", "last name"), ``K`` components each, of width ``D``; made from ``N`` names.
    """

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
    """Hash of the list of names that was given."""
    sha256: str
    """Hash of all that the basis was made from: the used names' token vectors, ``K``, and the algorithm's version."""

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
        """``(E,)`` the names' root-mean-square distance to the mean: the unit of :meth:`distance`."""
        return self.total_variance.sqrt()

    @property
    def radius(self) -> torch.Tensor:
        """``(E,)``: how long the names' coefficients are, root-mean-square, in each position."""
        return self.name_coefficients.pow(2).sum(dim=-1).mean(dim=0).sqrt()

    @property
    def deviations(self) -> torch.Tensor:
        """``(E, K)``: root-mean-square of the names' coefficients along each component."""
        return self.name_coefficients.pow(2).mean(dim=0).sqrt()

    def expand(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Token vectors ``z_e = m_e + sum_k c[e, k] B_e[k]``: ``(..., E, K)`` to ``(..., E, D)``. Differentiable.

        Computed in float32 on the coefficients' device.

        Raises: :class:`BasisError` if the last two dimensions are not ``(E, K)``.
        """
        self._check(coefficients, self.size, "coefficients")
        values = coefficients.float()
        components = self.components.to(values.device)
        return self.mean.to(values.device) + torch.einsum("...ek,ekd->...ed", values, components)

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """Coefficients of the point of the space nearest to ``(..., E, D)`` vectors: ``(..., E, K)``."""
        self._check(vectors, self.width, "token vectors")
        values = vectors.float()
        return torch.einsum("...ed,ekd->...ek", values - self.mean.to(values.device), self.components.to(values.device))

    def distance(self, coefficients: torch.Tensor) -> float:
        """How far ``(E, K)`` coefficients lie from the mean, in units of the names' own spread, averaged over positions.

        The unit sphere of the paper is about three times as far out as any celebrity in Stable Diffusion 1.
        """
        self._check(coefficients, self.size, "coefficients")
        return float((coefficients.detach().cpu().float().norm(dim=-1) / self.spread).mean())

    def nearest(self, coefficients: torch.Tensor, count: int = 5) -> tuple[tuple[str, float], ...]:
        """The ``count`` names nearest to ``(E, K)`` coefficients by cosine in coefficient space, best first."""
        cosines = name_cosines(self, coefficients)
        best = cosines.topk(min(count, len(self.names)))
        return tuple(
            (self.names[i], float(c)) for c, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )

    def coefficients_of(self, name: str) -> torch.Tensor:
        """``(E, K)`` coefficients of one of the names.

        Raises: :class:`BasisError` for a name that the basis was not made from.
        """
        try:
            return self.name_coefficients[self.names.index(name)]
        except ValueError:
            raise BasisError(
                f"The basis holds no celebrity {name!r}: choose one of the names it was made from."
            ) from None

    def _check(self, tensor: torch.Tensor, last: int, what: str) -> None:
        if tensor.shape[-2:] != (self.positions, last):
            raise BasisError(
                f"The {what} have the shape {tuple(tensor.shape)}, but the basis of {self.encoder} needs "
                f"{self.positions} x {last}: use the model and the number of components they were learned with."
            )


def name_cosines(basis: Basis, coefficients: torch.Tensor) -> torch.Tensor:
    """``(N,)`` cosine between ``(E, K)`` coefficients and every name's, all positions taken as one vector."""
    wanted = coefficients.detach().to("cpu", torch.float32).reshape(-1)
    known = basis.name_coefficients.reshape(len(basis.names), -1)
    norms = known.norm(dim=1) * wanted.norm()
    cosines: torch.Tensor = (known @ wanted) / norms.clamp(min=torch.finfo(torch.float32).tiny)
    return cosines


# FOLDED: Principal components of one column of token vectors, with fixed signs and a checked rank.

# A direction whose spread is below this share of the largest one's is rounding noise of float32 tables, not a component.
_RANK_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PrincipalComponents:
    """``N`` vectors of width ``D``, described by their ``K`` directions of largest variance. All float64."""

    mean: torch.Tensor
    """``(D,)``."""
    components: torch.Tensor
    """``(K, D)`` orthonormal rows by falling variance, the entry of largest magnitude positive."""
    variance: torch.Tensor
    """``(K,)`` variance along each component (divided by ``N - 1``)."""
    total_variance: float
    """Variance summed over all ``D`` dimensions."""


def principal_components(vectors: torch.Tensor, count: int, repeats: torch.Tensor | None = None) -> PrincipalComponents:
    """The first ``count`` principal components of ``(N, D)`` vectors, computed in float64 on the CPU.

    The eigenvectors of the ``D x D`` covariance are the right singular vectors of the centred vectors, and cost the same
    for a thousand names as for a hundred thousand.

    Parameters: ``repeats`` ``(N,)`` says how often each vector counts; once each if ``None``.

    Raises: :class:`BasisError` if the centred vectors span fewer than ``count`` dimensions.
    """
    data = vectors.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(data).all()):
        raise BasisError("The model's token embeddings hold NaN or infinite numbers: load an undamaged checkpoint.")
    weights = torch.ones(len(data), 1, dtype=torch.float64) if repeats is None else repeats.double()[:, None]
    names = int(weights.sum())
    mean = (weights * data).sum(dim=0) / names
    centred = data - mean
    covariance = (weights * centred).T @ centred / max(1, names - 1)
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
    return PrincipalComponents(
        mean=mean,
        components=components * _signs(components),
        variance=variance[:count],
        total_variance=float(torch.trace(covariance)),
    )


def _signs(components: torch.Tensor) -> torch.Tensor:
    """``(K, 1)`` of +1 and -1 that make each row's entry of largest magnitude positive (the first one, if several are)."""
    largest = components.abs().argmax(dim=1, keepdim=True)
    return torch.where(components.gather(1, largest) < 0, -1.0, 1.0).to(components.dtype)


# FOLDED: From face vectors to coefficients: the paper's one-layer head, and the mode without one (paper section
# FOLDED: 3.3).

FACE_WIDTH = 512
"""Length of a face vector."""

_NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class CoefficientShape:
    """``G`` groups of coefficients (one a text encoder, or one for all), each ``E x K``."""

    groups: int
    positions: int
    components: int

    @property
    def size(self) -> int:
        """``G * E * K``: numbers learned for one person."""
        return self.groups * self.positions * self.components


def unit_rows(raw: torch.Tensor, shape: CoefficientShape) -> torch.Tensor:
    """``(B, G*E*K)`` to ``(B, G, E, K)`` with every row of K on the unit sphere, the best choice of the paper's ablation."""
    rows = raw.reshape(-1, shape.groups, shape.positions, shape.components)
    return functional.normalize(rows, dim=-1)


class CoefficientHead(nn.Module):
    """``x = LeakyReLU_0.2(W v + b)``, then rows to the unit sphere. Shared by all people learned together.

    ``W`` starts standard normal (the authors' "equalised" layer with multiplier 1), ``b`` zero.
    """

    def __init__(self, shape: CoefficientShape, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.randn(shape.size, FACE_WIDTH, generator=generator))
        self.bias = nn.Parameter(torch.zeros(shape.size))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Coefficients ``(B, G, E, K)`` for ``(B, 512)`` face vectors; who they belong to does not matter here."""
        return unit_rows(
            functional.leaky_relu(functional.linear(vectors, self.weight, self.bias), _NEGATIVE_SLOPE), self.shape
        )


class ScaledCoefficients(nn.Module):
    """Coefficients of any length as parameters, each in units of the celebrities' own spread along its component.

    A step of the optimizer then means as much in every component: the first ones spread several times as far as the last.
    """

    spread: torch.Tensor

    def __init__(self, shape: CoefficientShape, people: int, spread: torch.Tensor) -> None:
        """``spread`` ``(G, E, K)``: root-mean-square coefficients of the names. Starts at the mean, all zeros."""
        super().__init__()
        self.shape = shape
        self.raw = nn.Parameter(torch.zeros(people, shape.size))
        self.register_buffer("spread", spread.clamp_min(1e-8), persistent=False)

    def initialize_from(self, coefficients: torch.Tensor) -> None:
        """Start from ``(P, G, E, K)`` coefficients."""
        with torch.no_grad():
            self.raw.copy_((coefficients.to(self.spread) / self.spread).reshape(self.raw.shape))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Coefficients ``(B, G, E, K)`` of the ``(B,)`` people; face vectors do not matter here."""
        rows = self.raw[people].reshape(-1, self.shape.groups, self.shape.positions, self.shape.components)
        return rows * self.spread


class DirectCoefficients(nn.Module):
    """The coefficients themselves as parameters, one row for each of ``P`` people (the paper's ablation "w/o face network")."""

    def __init__(self, shape: CoefficientShape, people: int, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.raw = nn.Parameter(torch.randn(people, shape.size, generator=generator))

    def initialize_from(self, coefficients: torch.Tensor) -> None:
        """Start from ``(P, G, E, K)`` coefficients instead of random ones."""
        with torch.no_grad():
            self.raw.copy_(coefficients.reshape(self.raw.shape))

    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Coefficients ``(B, G, E, K)`` of the ``(B,)`` people; face vectors do not matter here."""
        return unit_rows(self.raw[people], self.shape)


# FOLDED: The bias-corrected moving average of the coefficients: the only thing kept of an identity (paper section
# FOLDED: 4).


class MovingAverage:
    """Exponential moving average of ``P`` people's coefficients, each ``(G, E, K)``.

    The authors start theirs from random numbers, which leaves ``decay ** steps`` of that noise in the result; here it
    starts at zero and is divided by ``1 - decay ** updates``, so that the first value counts in full (Kingma and Ba 2015).
    """

    def __init__(self, people: int, shape: tuple[int, ...], decay: float) -> None:
        self.decay = decay
        self.sums = torch.zeros(people, *shape)
        self.updates = torch.zeros(people, dtype=torch.int64)

    def update(self, person: int, value: torch.Tensor) -> None:
        """Take in one value of a person's coefficients."""
        self.sums[person].mul_(self.decay).add_(value.detach().to("cpu", torch.float32), alpha=1.0 - self.decay)
        self.updates[person] += 1

    def value(self, person: int) -> torch.Tensor | None:
        """The person's averaged coefficients, or ``None`` before the first update."""
        updates = int(self.updates[person])
        return self.sums[person] / (1.0 - self.decay**updates) if updates else None


# FOLDED: The host's own diffusion loss: mean squared error of the noise, or of the velocity where the model
# FOLDED: predicts that.


def add_noise(
    schedule: NoiseSchedule, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps`` for ``(N, C, h, w)`` latents at ``(N,)`` timesteps."""
    signal, sigma = _rates(schedule, timesteps, clean)
    return signal * clean + sigma * noise


def prediction_target(
    schedule: NoiseSchedule, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What a perfect denoiser would give: ``eps``, or ``v = sqrt(a_t) eps - sqrt(1 - a_t) x_0``."""
    if schedule.prediction == "epsilon":
        return noise
    signal, sigma = _rates(schedule, timesteps, clean)
    return signal * noise - sigma * clean


def diffusion_loss(
    model: DiffusionModel,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
) -> torch.Tensor:
    """Mean squared error over all elements, in the dtype of ``noise`` (float32 while learning).

    ``clean`` and ``noise`` are ``(N, C, h, w)`` on the host's device.
    """
    noisy = add_noise(model.schedule, clean, noise, timesteps)
    predicted = model.predict(noisy, timesteps, conditioning)
    target = prediction_target(model.schedule, clean, noise, timesteps)
    return functional.mse_loss(predicted.to(noise.dtype), target)


def _rates(schedule: NoiseSchedule, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rate = schedule.alphas_cumprod.to(like.device)[timesteps].to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
    return rate.sqrt(), (1.0 - rate).sqrt()
