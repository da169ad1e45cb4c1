"""The diffusion loss against diffusers' own schedulers, and its gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from support.toys import ToyModel

from celeb_basis.diffusion_model import Prediction
from celeb_basis.method import (
    CoefficientHead,
    CoefficientShape,
    DirectCoefficients,
    add_noise,
    diffusion_loss,
    prediction_target,
    unit_rows,
)

_SHAPE = CoefficientShape(groups=1, positions=2, components=6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noising_and_target_equal_diffusers_scheduler(prediction: Prediction) -> None:
    model = ToyModel(prediction=prediction)
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction
    )
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(5, 4, 8, 8, generator=generator)
    noise = torch.randn(5, 4, 8, 8, generator=generator)
    timesteps = torch.tensor([0, 1, 499, 998, 999])
    torch.testing.assert_close(
        add_noise(model.schedule, clean, noise, timesteps), scheduler.add_noise(clean, noise, timesteps)
    )
    expected = noise if prediction == "epsilon" else scheduler.get_velocity(clean, noise, timesteps)
    torch.testing.assert_close(prediction_target(model.schedule, clean, noise, timesteps), expected)


def test_a_perfect_prediction_costs_nothing() -> None:
    model = ToyModel(prediction="v_prediction")
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    timesteps = torch.tensor([10, 900])
    model.predict = lambda *_: prediction_target(model.schedule, clean, noise, timesteps)  # type: ignore[method-assign]
    assert float(diffusion_loss(model, clean, noise, timesteps, None)) == 0.0


def test_unit_rows_lie_on_the_unit_sphere() -> None:
    rows = unit_rows(torch.randn(3, _SHAPE.size), _SHAPE)
    assert rows.shape == (3, 1, 2, 6)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(3, 1, 2))


def test_head_is_the_papers_equation() -> None:
    head = CoefficientHead(_SHAPE, torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.normalize(torch.randn(3, 512), dim=-1)
    x = vectors @ head.weight.T + head.bias
    x = torch.where(x > 0, x, 0.2 * x).reshape(3, 1, 2, 6)
    torch.testing.assert_close(head(vectors, torch.zeros(3, dtype=torch.int64)), x / x.norm(dim=-1, keepdim=True))


def test_head_starts_standard_normal_with_zero_bias() -> None:
    head = CoefficientHead(CoefficientShape(1, 2, 512), torch.Generator().manual_seed(0))
    assert head.weight.shape == (1024, 512)
    assert abs(float(head.weight.detach().mean())) < 0.01
    assert abs(float(head.weight.detach().std()) - 1) < 0.01
    assert not bool(head.bias.any())


@pytest.mark.parametrize("kind", ["head", "direct"])
def test_gradients_of_the_coefficients_equal_finite_differences(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    people = torch.tensor([0, 1, 1])
    vectors = torch.nn.functional.normalize(torch.randn(3, 512, generator=generator, dtype=torch.float64), dim=-1)
    if kind == "head":
        module = CoefficientHead(_SHAPE, generator).double()
        # A column of the big weight is enough: the whole is linear in it, and 6,000 differences would take minutes.
        column = module.weight[:, :2].detach().clone().requires_grad_()
        rest = module.weight[:, 2:].detach()

        def run(part: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            parameters = {"weight": torch.cat([part, rest], dim=1), "bias": bias}
            return torch.func.functional_call(module, parameters, (vectors, people))

        bias = torch.randn(_SHAPE.size, generator=generator, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(run, (column, bias))
    else:
        direct = DirectCoefficients(_SHAPE, 2, generator).double()
        raw = direct.raw.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda r: torch.func.functional_call(direct, {"raw": r}, (vectors, people)), (raw,)
        )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("widths", [(12,), (12, 20)])
def test_gradients_of_the_loss_to_the_token_vectors_equal_finite_differences(
    prediction: Prediction, widths: tuple[int, ...]
) -> None:
    model = ToyModel(widths=widths, prediction=prediction)
    model.denoiser.double()
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, 4, 4, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 4, 4, 4, generator=generator, dtype=torch.float64)
    timesteps = torch.tensor([100, 700])

    def loss(*vectors: torch.Tensor) -> torch.Tensor:
        conditioning = model.encode_prompts(["photo of <p> person", "the face of <p>"], {"<p>": vectors})
        return diffusion_loss(model, clean, noise, timesteps, conditioning)

    starts = [torch.randn(2, w, generator=generator, dtype=torch.float64).requires_grad_() for w in widths]
    assert torch.autograd.gradcheck(loss, starts)
