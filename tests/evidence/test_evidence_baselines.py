"""The baselines' parts: spaces and free coefficients against finite differences, LoRA adapters against their definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.bases import name_list, toy_bases, toy_pool
from support.models import make_host
from support.toys import ToyModel

from benchmarks.evidence.baselines import RANK, TARGETS, FreeLearner, LoraLearner, lora_adapters
from benchmarks.evidence.precompute import Space, make_bases
from celeb_basis.diffusion_model import Prediction
from celeb_basis.names.lists import shipped_names
from celeb_basis.settings import TrainingSettings

ATTENTION = ("attn1", "attn2")


def _learner(prediction: Prediction = "epsilon") -> Any:
    model = ToyModel(prediction=prediction)
    settings = TrainingSettings(steps=6, components=8, early_stop=False, batch_size=8, mode="direct")
    return FreeLearner(model, toy_bases(model), toy_pool(("ann", "bob")), settings)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_gradients_are_those_of_finite_differences(prediction: Prediction) -> None:
    trainer = _learner(prediction)
    trainer.model.denoiser.double()
    for encoder in trainer.model.text_encoders:
        encoder.table, encoder.mix = encoder.table.double(), encoder.mix.double()
    trainer._bases_on_device = [
        replace(basis, mean=basis.mean.double(), components=basis.components.double()) for basis in trainer.bases
    ]
    draw = trainer.sample_batch()
    draw = replace(draw, clean=draw.clean.double(), noise=draw.noise.double())
    start = torch.randn(8, *trainer.average.sums.shape[1:], dtype=torch.float64, generator=trainer.generator)
    start.requires_grad_(True)
    loss = trainer.loss(draw, start)
    (gradient,) = torch.autograd.grad(loss, start)
    direction = torch.randn(start.shape, dtype=torch.float64, generator=trainer.generator)
    step = 1e-5
    with torch.no_grad():
        slope = (trainer.loss(draw, start + step * direction) - trainer.loss(draw, start - step * direction)) / (
            2 * step
        )
    assert float(slope) != 0
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=2e-3, abs=1e-9)


def test_free_coefficients_are_of_any_length() -> None:
    trainer = _learner()
    batch = trainer.sample_batch()
    before = trainer.coefficients(batch)
    with torch.no_grad():
        for parameter in trainer.module.parameters():
            parameter.mul_(3)
    torch.testing.assert_close(trainer.coefficients(batch), 3 * before)


def test_free_coefficients_are_learned_in_float32() -> None:
    trainer = _learner()
    events = list(trainer.run())
    assert trainer.step == trainer.total == 12
    assert np.isfinite([event.loss for event in events[:-1]]).all()


def test_spaces_are_orthonormal_and_represent_the_names() -> None:
    model, names = ToyModel(), name_list(60)
    plain = make_bases(model, names, Space(), 8)[0]
    for space in (Space("random"), Space("free"), Space(names=20), Space(distinct=True)):
        basis = make_bases(model, names, space, 8)[0]
        assert basis.sha256 != plain.sha256
        gram = torch.einsum("ekd,eld->ekl", basis.components, basis.components)
        torch.testing.assert_close(gram, torch.eye(basis.size).expand_as(gram), atol=1e-4, rtol=0)
        assert basis.name_coefficients.shape == (len(basis.names), basis.positions, basis.size)
        torch.testing.assert_close(
            basis.project(basis.expand(basis.name_coefficients)), basis.name_coefficients, atol=1e-4, rtol=0
        )
    free = make_bases(model, names, Space("free"), 8)[0]
    assert free.size == free.width
    for row, name in enumerate(free.names):
        ids = model.text_encoders[0].tokenize([name])[0]
        torch.testing.assert_close(free.name_coefficients[row], model.text_encoders[0].table[ids], atol=1e-4, rtol=0)
    assert make_bases(model, names, Space("random"), 8)[0].size == 8
    assert len(make_bases(model, names, Space(names=20), 8)[0].names) == 20


@pytest.fixture
def unet() -> Any:
    return make_host("sd1")._pipeline.unet


def predict(unet: Any, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents = torch.randn(2, 4, size, size, generator=generator)
    states = torch.randn(2, 7, width, generator=generator)
    with torch.no_grad():
        found: torch.Tensor = unet(latents, torch.tensor([10, 700]), encoder_hidden_states=states).sample
    return found


def test_lora_changes_nothing_until_it_is_trained_and_leaves_nothing_behind(unet: Any) -> None:
    unet.requires_grad_(True)
    unet.conv_in.weight.requires_grad_(False)
    plain, before = predict(unet), {key: value.clone() for key, value in unet.state_dict().items()}
    modules, flags = [*unet.modules()], [parameter.requires_grad for parameter in unet.parameters()]
    with lora_adapters(unet, torch.Generator().manual_seed(0)) as adapters:
        assert torch.equal(predict(unet), plain)
        assert {id(one) for one in unet.parameters() if one.requires_grad} == {id(one) for one in adapters}
        with torch.no_grad():
            adapters[1].normal_(generator=torch.Generator().manual_seed(1))
        assert not torch.equal(predict(unet), plain)
    assert torch.equal(predict(unet), plain)
    assert unet.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())
    assert [*unet.modules()] == modules
    assert [parameter.requires_grad for parameter in unet.parameters()] == flags


def test_lora_is_of_that_rank_on_the_attention_alone(unet: Any) -> None:
    names = [
        f"{place}.{part}" for place, module in unet.named_modules() for part in TARGETS if place.endswith(ATTENTION)
    ]
    linear = [unet.get_submodule(name) for name in names]
    wrapped: list[str] = []
    with lora_adapters(unet, torch.Generator().manual_seed(0)) as adapters:
        wrapped += [name.removesuffix(".base_layer") for name, _ in unet.named_modules() if name.endswith("base_layer")]
        assert sum(one.numel() for one in adapters) == sum(
            RANK * (layer.in_features + layer.out_features) for layer in linear
        )
        assert all(one.dtype == torch.float32 for one in adapters)
    assert sorted(wrapped) == sorted(names)
    assert len(names) >= 8


def test_lora_is_the_matrix_product_it_is_defined_as() -> None:
    model = torch.nn.Module()
    model.to_q, model.other = torch.nn.Linear(64, 5), torch.nn.Linear(64, 5)
    x = torch.randn(3, 64)
    with lora_adapters(model, torch.Generator().manual_seed(0)) as (down, up):
        assert (down.shape, up.shape) == ((RANK, 64), (5, RANK))
        assert float(down.detach().std()) == pytest.approx(1 / 8, rel=0.2)
        torch.nn.init.normal_(up)
        weight = model.to_q.weight + up @ down
        torch.testing.assert_close(model.to_q(x), x @ weight.T + model.to_q.bias)


def test_lora_is_what_the_loop_trains() -> None:
    model = make_host("sd1")
    bases = make_bases(model, shipped_names(), Space("free"), 0)
    settings = TrainingSettings(steps=2, components=bases[0].size, early_stop=False, mode="direct", batch_size=1)
    trainer = LoraLearner(model, bases, toy_pool(("ann", "bob"), side=8), settings)
    before = {key: value.clone() for key, value in model._pipeline.unet.state_dict().items()}
    with lora_adapters(model._pipeline.unet, trainer.generator) as adapters:
        trainer.use(adapters)
        start = [one.detach().clone() for one in adapters]
        events = list(trainer.run())
        assert len(events) == 5
        assert not any(torch.equal(one, other) for one, other in zip(adapters[1::2], start[1::2], strict=True))
    assert all(torch.equal(value, before[key]) for key, value in model._pipeline.unet.state_dict().items())
    vectors = [trainer._token_vectors[number] for number in range(2)]
    assert not torch.equal(*vectors)
    assert trainer.average.value(0) is not None
    torch.testing.assert_close(trainer.average.value(0), vectors[0].cpu())


def test_lora_of_half_precision_weights_is_trained_in_float32(unet: Any) -> None:
    unet.to(torch.bfloat16)
    with lora_adapters(unet, torch.Generator().manual_seed(0), 2) as adapters:
        assert {one.dtype for one in adapters} == {torch.float32}
        assert {min(one.shape) for one in adapters} == {2}
        found = unet(
            torch.randn(1, 4, 8, 8).bfloat16(), 10, torch.randn(1, 7, unet.config.cross_attention_dim).bfloat16()
        )
        assert found.sample.dtype == torch.bfloat16
