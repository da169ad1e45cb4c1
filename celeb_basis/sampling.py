"""Samplers that work on any model of :mod:`celeb_basis.diffusion_model`: DPM-Solver++ (2M), RBF-Solver, and DDIM.

All of them integrate the diffusion ODE in ``lambda = log(alpha / sigma)`` from predictions ``x`` of the clean latents. A step
from ``lambda_i`` to ``lambda_{i+1}`` is

    z_{i+1} = (sigma_{i+1} / sigma_i) z_i + sigma_{i+1} sum_j c_j x_j

over the last predictions; what differs is the coefficients ``c``:

- ``ddim``: the last prediction alone (Song et al. 2021).
- ``dpm++``: a straight line through the last two (Lu et al. 2022, multistep).
- ``rbf``: Gaussian radial basis functions through the last three, and a corrector, which repeats the step with the newest
  prediction as one more node and costs no evaluation (RBF-Solver, arXiv 2603.13330).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from celeb_basis.errors import HostError
from celeb_basis.method import NoiseSchedule, Prediction

SamplerName = Literal["ddim", "dpm++", "rbf"]
SAMPLERS: tuple[SamplerName, ...] = ("ddim", "dpm++", "rbf")


class Refinement(Protocol):
    """A change of the predicted clean latents in a step, whichever sampler takes it."""

    def __call__(
        self, clean: torch.Tensor, step: int, steps: int, decode: Callable[[torch.Tensor], torch.Tensor], /
    ) -> torch.Tensor:
        """The latents to go on with.

        Args:
            clean: ``(1, C, h, w)`` predicted clean latents.
            step: The step, from 0.
            steps: How many steps there are.
            decode: The VAE's decoder, with gradients: ``(1, C, h, w)`` scaled latents to ``(1, 3, H, W)`` RGB in about
                [-1, 1].

        Returns:
            ``(1, C, h, w)``; ``clean`` itself to leave the step as it is.
        """


_SMALLEST_ALPHA = 2.0**-24
"""Lower bound of ``alphas_cumprod``: where the terminal signal-to-noise ratio is zero, ``lambda`` would be infinite."""

ADAMS_SHAPE = 2.0
"""From this shape on, radial basis functions are so flat that their limit is taken: polynomials, as in Adams' methods."""

_Floats = NDArray[np.float64]
_GAUSS_POINTS, _GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(10)


@dataclass(frozen=True)
class SamplingPoints:
    """The points of a sampler's ``M`` steps, noisiest first: one more than there are steps."""

    timesteps: tuple[int, ...]
    """``M + 1`` indices of the noise schedule; the model is evaluated at all but the last."""
    alphas: tuple[float, ...]
    """Scale of the clean latents."""
    sigmas: tuple[float, ...]
    """Scale of the noise."""

    @property
    def steps(self) -> int:
        """``M``."""
        return len(self.timesteps) - 1

    @property
    def lambdas(self) -> tuple[float, ...]:
        """``log(alpha / sigma)``, increasing."""
        return tuple(math.log(alpha / sigma) for alpha, sigma in zip(self.alphas, self.sigmas, strict=True))


def sampling_points(schedule: NoiseSchedule, steps: int) -> SamplingPoints:
    """Points evenly spaced in time, from the last timestep to the first.

    Args:
        schedule: The model's noise schedule.
        steps: ``M``, fewer than there are timesteps.

    Raises:
        HostError: If there are not enough timesteps.
    """
    last = schedule.timesteps - 1
    if not 1 <= steps <= last:
        raise HostError(f"Images cannot be generated in {steps} steps: choose 1 to {last}.")
    indices = np.linspace(last, 0, steps + 1).round().astype(int).tolist()
    signal = schedule.alphas_cumprod.double().clamp(min=_SMALLEST_ALPHA)[indices].tolist()
    return SamplingPoints(
        tuple(indices), tuple(math.sqrt(one) for one in signal), tuple(math.sqrt(1.0 - one) for one in signal)
    )


def clean_prediction(
    output: torch.Tensor, latents: torch.Tensor, alpha: float, sigma: float, prediction: Prediction
) -> torch.Tensor:
    """The clean latents ``x`` that follow from the denoiser's output for noisy ``latents``."""
    if prediction == "epsilon":
        return (latents - sigma * output) / alpha
    return alpha * latents - sigma * output


def output_for(
    changed: torch.Tensor,
    clean: torch.Tensor,
    output: torch.Tensor,
    alpha: float,
    sigma: float,
    prediction: Prediction,
) -> torch.Tensor:
    """The denoiser's output from which ``changed`` clean latents follow in place of ``clean``, which follow from ``output``."""
    if prediction == "epsilon":
        return output - (alpha / sigma) * (changed - clean)
    return output - (changed - clean) / sigma


@dataclass(frozen=True)
class RbfShapes:
    """Shape parameters ``s`` of RBF-Solver for every step; the kernels' width is ``e^s`` times the step's.

    They can be fitted to a model; without that, these are the paper's defaults.
    """

    predictor: float | Sequence[float] = ADAMS_SHAPE
    corrector: float | Sequence[float] = 0.0

    def at(self, step: int) -> tuple[float, float]:
        """The shapes of the predictor and the corrector of a step."""
        chosen = (one if isinstance(one, (int, float)) else one[step] for one in (self.predictor, self.corrector))
        predictor, corrector = chosen
        return float(predictor), float(corrector)


def sample(
    denoise: Callable[[torch.Tensor, int], torch.Tensor],
    noise: torch.Tensor,
    points: SamplingPoints,
    prediction: Prediction,
    sampler: SamplerName,
    *,
    shapes: RbfShapes | None = None,
    order: int = 3,
    refine: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Integrate from noise to clean latents with one evaluation per step.

    Args:
        denoise: The denoiser's output for ``(N, C, h, w)`` noisy latents at a timestep, with guidance if that is wanted.
        noise: ``(N, C, h, w)`` standard normal.
        points: The steps.
        prediction: What ``denoise`` predicts.
        sampler: Which coefficients to use.
        shapes: RBF-Solver's shape parameters, by default those of the paper.
        order: RBF-Solver's highest number of predictions in a step.
        refine: Changes the predicted clean latents of a step, given with its number, before they are used.

    Returns:
        ``(N, C, h, w)`` latents, in ``noise``'s dtype.
    """
    shapes = shapes or RbfShapes()
    lambdas, sigmas = points.lambdas, points.sigmas
    latents = noise
    known: list[torch.Tensor] = []  # predictions at the points so far, newest first
    before: torch.Tensor | None = None  # the latents that the last step started from
    for step in range(points.steps):
        output = denoise(latents, points.timesteps[step])
        newest = clean_prediction(output, latents, points.alphas[step], sigmas[step], prediction)
        if refine is not None:
            newest = refine(newest, step)
        if sampler == "rbf" and before is not None:
            used = _order(step - 1, points.steps, order)
            nodes = [lambdas[step - number] for number in range(used + 1)]
            corrected = rbf_coefficients(lambdas[step - 1], lambdas[step], nodes, shapes.at(step - 1)[1])
            latents = _advanced(before, [newest, *known], corrected, sigmas[step - 1], sigmas[step])
        known = [newest, *known][: max(order, 2)]
        coefficients = _coefficients(sampler, lambdas, step, shapes.at(step)[0], order)
        before, latents = latents, _advanced(latents, known, coefficients, sigmas[step], sigmas[step + 1])
    return latents


def _advanced(
    latents: torch.Tensor,
    predictions: Sequence[torch.Tensor],
    coefficients: Sequence[float],
    sigma: float,
    after: float,
) -> torch.Tensor:
    result = (after / sigma) * latents
    for coefficient, prediction in zip(coefficients, predictions, strict=False):
        result = result + (after * coefficient) * prediction
    return result


def _order(step: int, steps: int, most: int) -> int:
    """How many predictions a step uses: few at the start, where there are no more, and at the end, for stability."""
    return min(step + 1, steps - step, most)


def _coefficients(
    sampler: SamplerName, lambdas: Sequence[float], step: int, shape: float, order: int
) -> tuple[float, ...]:
    """Coefficients of the last predictions, newest first."""
    start, end = lambdas[step], lambdas[step + 1]
    whole = math.exp(end) - math.exp(start)
    if sampler == "rbf":
        used = _order(step, len(lambdas) - 1, order)
        return rbf_coefficients(start, end, [lambdas[step - number] for number in range(used)], shape)
    if sampler == "ddim" or _order(step, len(lambdas) - 1, 2) == 1:
        return (whole,)
    slope = (end - start) / (start - lambdas[step - 1]) / 2.0
    return whole * (1.0 + slope), -whole * slope


def rbf_coefficients(start: float, end: float, nodes: Sequence[float], shape: float) -> tuple[float, ...]:
    """Coefficients ``c`` of RBF-Solver for a step of ``lambda``.

    They integrate ``e^lambda`` times the interpolation by Gaussian kernels and a constant through the nodes. A flat kernel
    (``shape`` of :data:`ADAMS_SHAPE` or more) gives Adams' coefficients, one node DDIM's.

    Args:
        start: ``lambda_i``.
        end: ``lambda_{i+1}``.
        nodes: ``lambda`` of the predictions that are used, all different.
        shape: ``s``.

    Returns:
        One coefficient per node.
    """
    whole = math.exp(end) - math.exp(start)
    if len(nodes) == 1:
        return (whole,)
    width = end - start
    if shape >= ADAMS_SHAPE:
        return _adams_coefficients(end, width, nodes)
    places = (np.asarray(nodes, np.float64) - start) / width  # r, in units of the step
    scaled = math.exp(shape)  # S, the kernels' width in the same units
    count = len(nodes)
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = np.exp(-(((places[:, None] - places[None]) / scaled) ** 2))
    system[:count, count] = system[count, :count] = 1.0
    integrals = np.array([*(_kernel_integral(end, width, float(place), scaled) for place in places), whole])
    return tuple(np.linalg.solve(system, integrals)[:count].tolist())


def _adams_coefficients(end: float, width: float, nodes: Sequence[float]) -> tuple[float, ...]:
    """Coefficients that integrate ``e^lambda`` times the polynomial through the nodes."""
    places = (np.asarray(nodes, np.float64) - (end - width)) / width
    powers = np.arange(len(nodes))
    moments = _integral(end, width, lambda at: at[:, None] ** powers)
    return tuple(np.linalg.solve(places[None] ** powers[:, None], moments).tolist())


def _kernel_integral(end: float, width: float, place: float, scaled: float) -> float:
    """Integral over a step of ``e^lambda`` times a Gaussian kernel.

    Args:
        end: ``lambda_{i+1}``.
        width: ``h``.
        place: ``r``: the kernel's middle, 0 at the step's start and 1 at its end.
        scaled: ``S``: the kernel's width.
    """
    upper = (place + scaled**2 * width / 2.0) / scaled
    lower = upper - 1.0 / scaled
    log_scale = (
        end
        + math.log(width)
        + (scaled * width) ** 2 / 4.0
        + width * (place - 1.0)
        + math.log(math.sqrt(math.pi) * scaled / 2.0)
    )
    log_difference = _log_erfc_difference(lower, upper)
    if math.isfinite(log_difference) and log_scale + log_difference < 700.0:
        return math.exp(log_scale + log_difference)
    return float(_integral(end, width, lambda at: np.exp(-(((at - place) / scaled) ** 2))[:, None])[0])


def _log_erfc_difference(lower: float, upper: float) -> float:
    """``log(erfc(lower) - erfc(upper))``; not a number where nothing is left of the difference."""
    if upper < 0.0:
        lower, upper = -upper, -lower
    if lower <= 0.0:
        difference = math.erf(upper) - math.erf(lower)
        return math.log(difference) if difference > 0.0 else math.nan
    # Both are in the tail, where erfc underflows: with its scaled form, in logarithms.
    tails = torch.special.erfcx(torch.tensor([lower, upper], dtype=torch.float64)).log().tolist()
    larger, smaller = tails[0] - lower**2, tails[1] - upper**2
    return larger + math.log1p(-math.exp(smaller - larger)) if smaller < larger else math.nan


def _integral(end: float, width: float, function: Callable[[_Floats], _Floats]) -> _Floats:
    """Gauss-Legendre integral over a step of ``e^lambda`` times functions of the place in the step.

    Args:
        end: ``lambda_{i+1}``.
        width: ``h``.
        function: Maps ``(P,)`` places from 0 to 1 to ``(P, F)`` values.

    Returns:
        ``(F,)`` integrals.
    """
    places = (_GAUSS_POINTS + 1.0) / 2.0
    weights = _GAUSS_WEIGHTS / 2.0 * width * np.exp(end + width * (places - 1.0))
    result: _Floats = weights @ function(places)
    return result
