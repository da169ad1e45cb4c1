"""Samplers against exact solutions, against other formulations of themselves, and against their papers' formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from celeb_basis.errors import HostError
from celeb_basis.method import NoiseSchedule, Prediction
from celeb_basis.sampling import (
    ADAMS_SHAPE,
    SAMPLERS,
    RbfShapes,
    SamplerName,
    SamplingPoints,
    clean_prediction,
    rbf_coefficients,
    sample,
    sampling_points,
)

MEAN, DEVIATION = 0.7, 0.4
"""Of the Gaussian data for which everything is known."""


def schedule(prediction: Prediction = "epsilon") -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseSchedule(torch.cumprod(1 - betas, 0), prediction)


def gaussian_denoiser(noise_schedule: NoiseSchedule) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The optimal denoiser of data with one mean and deviation: its posterior mean is linear in the noisy latents."""

    def denoise(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        signal = float(noise_schedule.alphas_cumprod[timestep])
        alpha, sigma = math.sqrt(signal), math.sqrt(1 - signal)
        variance = DEVIATION**2 * signal + sigma**2
        clean = MEAN + DEVIATION**2 * alpha / variance * (latents - alpha * MEAN)
        noise = (latents - alpha * clean) / sigma
        return noise if noise_schedule.prediction == "epsilon" else alpha * noise - sigma * clean

    return denoise


def exact(noise: torch.Tensor, points: SamplingPoints) -> torch.Tensor:
    """Where the diffusion ODE of the Gaussian data leads: the same number of deviations from the mean."""
    start, end = (math.hypot(points.alphas[at] * DEVIATION, points.sigmas[at]) for at in (0, -1))
    return points.alphas[-1] * MEAN + end / start * (noise - points.alphas[0] * MEAN)


def noise(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 4, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def even_schedule(prediction: Prediction = "epsilon") -> NoiseSchedule:
    """A schedule whose ``lambda`` falls evenly, so that all steps are equally wide."""
    return NoiseSchedule(torch.sigmoid(2 * torch.linspace(3, -4, 1000, dtype=torch.float64)), prediction)


def errors(
    sampler: SamplerName, steps: int, prediction: Prediction, shapes: RbfShapes | None = None
) -> tuple[float, float]:
    """The error at the end, and that of the latents that the last evaluation is given."""
    known = even_schedule(prediction)
    points, denoise = sampling_points(known, steps), gaussian_denoiser(known)
    seen = []

    def watched(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        seen.append(latents)
        return denoise(latents, timestep)

    result = sample(watched, noise(), points, prediction, sampler, shapes=shapes)
    before_last = SamplingPoints(points.timesteps[:-1], points.alphas[:-1], points.sigmas[:-1])
    ends = (result, points), (seen[-1], before_last)
    found = [float((one - exact(noise(), until)).abs().max()) for one, until in ends]
    return found[0], found[1]


ADAMS = RbfShapes(ADAMS_SHAPE, ADAMS_SHAPE)


@pytest.mark.parametrize(
    ("sampler", "shapes", "order", "within"),
    [("ddim", None, 1, 1), ("dpm++", None, 2, 2), ("rbf", ADAMS, 2, 3), ("rbf", None, 1, 1)],
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_errors_fall_with_the_order_of_the_sampler(
    sampler: SamplerName, shapes: RbfShapes | None, order: int, within: int, prediction: Prediction
) -> None:
    """The last step alone is of the first order, and adds one error of the second.

    Kernels as wide as the step reproduce constants alone: with them, steps that are ever smaller gain one order only.
    """
    # Both divide 999, so that points are where they would be in continuous time.
    coarse, fine = (errors(sampler, steps, prediction, shapes) for steps in (37, 111))
    assert math.log(coarse[0] / fine[0], 3) > order - 0.3
    assert math.log(coarse[1] / fine[1], 3) > within - 0.3


def test_better_samplers_need_fewer_steps() -> None:
    for steps in (9, 27):
        ddim, *others = (errors(sampler, steps, "epsilon")[0] for sampler in SAMPLERS)
        assert max(others) < 0.7 * ddim


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_evaluation_a_step(sampler: SamplerName) -> None:
    known, seen = schedule(), []
    denoise = gaussian_denoiser(known)

    def counted(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        seen.append(timestep)
        return denoise(latents, timestep)

    points = sampling_points(known, 6)
    sample(counted, noise(), points, "epsilon", sampler)
    assert tuple(seen) == points.timesteps[:-1]
    assert (points.timesteps[0], points.timesteps[-1]) == (999, 0)
    assert np.diff(points.timesteps).max() - np.diff(points.timesteps).min() <= 1


def test_ddim_is_that_of_its_own_paper() -> None:
    """Eq. 12 without added noise: the predicted clean latents, and the predicted noise in its new amount."""
    known = schedule()
    points, denoise = sampling_points(known, 7), gaussian_denoiser(known)
    latents = noise()
    for step in range(7):
        predicted = denoise(latents, points.timesteps[step])
        now, after = known.alphas_cumprod[points.timesteps[step]], known.alphas_cumprod[points.timesteps[step + 1]]
        clean = (latents - (1 - now).sqrt() * predicted) / now.sqrt()
        latents = after.sqrt() * clean + (1 - after).sqrt() * predicted
    torch.testing.assert_close(sample(denoise, noise(), points, "epsilon", "ddim"), latents)
    # One prediction is all that a sampler of a higher order has in its first step, which is here the last as well.
    (single,) = {sample(denoise, noise(), sampling_points(known, 1), "epsilon", one).sum().item() for one in SAMPLERS}
    assert math.isfinite(single)


def test_dpm_solver_is_that_of_its_own_paper() -> None:
    """Algorithm 2 of DPM-Solver++, with first-order steps at both ends."""
    known = schedule()
    points, denoise = sampling_points(known, 8), gaussian_denoiser(known)
    latents, last = noise(), None
    for step in range(8):
        alpha, sigma = points.alphas, points.sigmas
        clean = clean_prediction(denoise(latents, points.timesteps[step]), latents, alpha[step], sigma[step], "epsilon")
        width = points.lambdas[step + 1] - points.lambdas[step]
        direction = clean
        if last is not None and step < 7:
            ratio = (points.lambdas[step] - points.lambdas[step - 1]) / width
            direction = (1 + 1 / (2 * ratio)) * clean - 1 / (2 * ratio) * last
        latents = sigma[step + 1] / sigma[step] * latents - alpha[step + 1] * math.expm1(-width) * direction
        last = clean
    torch.testing.assert_close(sample(denoise, noise(), points, "epsilon", "dpm++"), latents)


def integral(start: float, end: float, function: Callable[[np.ndarray], np.ndarray]) -> float:
    """A quadrature of many points, of ``e^lambda`` times a function."""
    places, weights = np.polynomial.legendre.leggauss(300)
    at = start + (end - start) * (places + 1) / 2
    return float(((end - start) / 2 * weights * np.exp(at) * function(at)).sum())


def reference_coefficients(start: float, end: float, nodes: Sequence[float], shape: float) -> np.ndarray:
    """RBF-Solver's linear system as the paper writes it, with integrals by quadrature."""
    beta, count = 1 / (math.exp(shape) * abs(end - start)), len(nodes)
    system, right = np.zeros((count + 1, count + 1)), np.zeros(count + 1)
    for row, one in enumerate(nodes):
        for column, other in enumerate(nodes):
            system[row, column] = math.exp(-((beta * (one - other)) ** 2))
        system[row, count] = system[count, row] = 1
        right[row] = integral(start, end, lambda at, one=one: np.exp(-((beta * (at - one)) ** 2)))  # type: ignore[misc]
    right[count] = math.exp(end) - math.exp(start)
    return np.asarray(np.linalg.solve(system, right)[:count])


@pytest.mark.parametrize("shape", [-2.0, -0.5, 0.0, 1.0, 1.9])
@pytest.mark.parametrize(("start", "end"), [(-4.8, -3.1), (-0.2, -0.15), (1.0, 3.5), (-6.0, 3.0)])
@pytest.mark.parametrize("places", [(0.0, -1.0), (1.0, 0.0, -0.7), (1.0, 0.0, -1.2, -3.0)])
def test_coefficients_are_the_papers(shape: float, start: float, end: float, places: tuple[float, ...]) -> None:
    nodes = [start + place * (end - start) for place in places]
    found = rbf_coefficients(start, end, nodes, shape)
    # The flatter the kernels, the worse is the system's condition.
    np.testing.assert_allclose(found, reference_coefficients(start, end, nodes, shape), rtol=3e-7, atol=1e-10)


def test_a_constant_is_integrated_exactly() -> None:
    for shape in (-2.0, 0.0, 1.5, ADAMS_SHAPE):
        assert sum(rbf_coefficients(-1.0, 0.3, [-1.0, -1.9, -3.0], shape)) == pytest.approx(
            math.exp(0.3) - math.exp(-1.0)
        )


def test_flat_kernels_are_adams_coefficients() -> None:
    """These integrate every polynomial through the nodes exactly, and are the limit of flat kernels."""
    start, end, nodes = -1.0, -0.4, [-0.4, -1.0, -1.7]
    adams = rbf_coefficients(start, end, nodes, ADAMS_SHAPE)
    for power in range(3):
        moment = sum(one * node**power for one, node in zip(adams, nodes, strict=True))
        assert moment == pytest.approx(integral(start, end, lambda at, power=power: at**power))  # type: ignore[misc]
    np.testing.assert_allclose(rbf_coefficients(start, end, nodes, 1.99), adams, rtol=0.02)


def test_rbf_solver_is_that_of_its_own_paper() -> None:
    """Predictor and corrector step by step, in the paper's order, with coefficients from the reference above."""
    known = schedule("v_prediction")
    shapes = RbfShapes(predictor=[0.3, 0.8, -0.4, 1.1, 0.2, 0.9, 0.1], corrector=[-0.3, 0.6, 1.2, 0.0, -1.0, 0.4, 0.0])
    steps, points, denoise = 7, sampling_points(known, 7), gaussian_denoiser(known)
    lambdas, sigmas = points.lambdas, points.sigmas

    def clean_at(latents: torch.Tensor, at: int) -> torch.Tensor:
        output = denoise(latents, points.timesteps[at])
        return clean_prediction(output, latents, points.alphas[at], sigmas[at], "v_prediction")

    def moved(latents: torch.Tensor, step: int, nodes: list[int], shape: float) -> torch.Tensor:
        start, end = lambdas[step], lambdas[step + 1]
        found = reference_coefficients(start, end, [lambdas[node] for node in nodes], shape)
        if len(nodes) == 1:
            found = np.array([math.exp(end) - math.exp(start)])
        total = sum(float(one) * cleans[node] for one, node in zip(found, nodes, strict=True))
        return sigmas[step + 1] / sigmas[step] * latents + sigmas[step + 1] * total

    latents = noise()
    cleans = {0: clean_at(latents, 0)}
    for step in range(steps):
        used = [step - back for back in range(min(step + 1, steps - step, 3))]
        predicted = moved(latents, step, used, shapes.at(step)[0])
        if step < steps - 1:
            cleans[step + 1] = clean_at(predicted, step + 1)
            predicted = moved(latents, step, [step + 1, *used], shapes.at(step)[1])
        latents = predicted
    found = sample(denoise, noise(), points, "v_prediction", "rbf", shapes=shapes)
    torch.testing.assert_close(found, latents, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_zero_terminal_signal_to_noise_ratio_stays_finite(sampler: SamplerName) -> None:
    alphas = schedule().alphas_cumprod.clone()
    alphas[-1] = 0
    known = NoiseSchedule(alphas, "v_prediction")
    points = sampling_points(known, 40)
    result = sample(gaussian_denoiser(known), noise(), points, "v_prediction", sampler)
    assert result.isfinite().all()
    assert float((result - exact(noise(), points)).abs().max()) < 0.1


def test_impossible_numbers_of_steps_are_refused() -> None:
    for steps in (0, 1000):
        with pytest.raises(HostError, match="choose 1 to 999"):
            sampling_points(schedule(), steps)
