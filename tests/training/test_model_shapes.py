"""Learning through real (small) Stable Diffusion architectures: one and two text encoders, epsilon and v, every precision."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from support.bases import toy_pool
from support.models import HostFactory

from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import Precision
from celeb_basis.events import StepDone
from celeb_basis.hosts.diffusers import DiffusersHost
from celeb_basis.method import Basis
from celeb_basis.names.lists import name_list, shipped_names
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.run import make_identities
from celeb_basis.training.trainer import Trainer

_COMPONENTS = 16


def _bases(model: DiffusersHost) -> tuple[Basis, ...]:
    names = name_list(shipped_names().names[:200], "two hundred names")
    return tuple(built.basis for built in build_bases(model.text_encoders, names, BasisOptions(components=_COMPONENTS)))


def _fingerprint(model: DiffusersHost) -> dict[str, tuple[str, torch.dtype, bool, bool]]:
    """Hash, dtype, requires_grad and mode of every parameter and buffer of the model."""
    parts = {}
    for name, module in model._pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            for key, tensor in module.state_dict(keep_vars=True).items():
                digest = hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
                parts[f"{name}.{key}"] = (digest, tensor.dtype, tensor.requires_grad, module.training)
    return parts


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    ("precision", "held"),
    [("fp32", "wide"), ("bf16", "wide"), ("bf16", "narrow"), ("fp16", "wide"), ("fp16", "narrow")],
)
def test_learning_runs_finite_and_leaves_the_model_as_it_was(
    host_factory: HostFactory, kind: str, precision: Precision, held: str
) -> None:
    model = host_factory(kind, width=64, **({"second_width": 128} if kind == "sdxl" else {}))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if held == "narrow":  # the weights themselves in the narrow type, as a GPU holds them
        model._pipeline.to(dtype)
    bases = _bases(model)
    assert [basis.width for basis in bases] == ([64, 128] if kind == "sdxl" else [64])
    before = _fingerprint(model)
    settings = TrainingSettings(steps=3, components=_COMPONENTS, precision=precision, batch_size=2, early_stop=False)
    trainer = Trainer(model, bases, toy_pool(("ann", "bob")), settings)
    start = [parameter.detach().clone() for parameter in trainer.module.parameters()]
    losses = [event.loss for event in trainer.run() if isinstance(event, StepDone)]
    assert len(losses) == 6
    assert all(0 < loss < 100 for loss in losses)
    assert all(not torch.equal(a, b) for a, b in zip(start, trainer.module.parameters(), strict=True))
    assert _fingerprint(model) == before
    for identity in make_identities(trainer, consent="a test"):
        assert identity.encoders == (
            ("clip_l", "clip_g") if kind == "sdxl" else ("clip_h",) if kind == "sd2" else ("clip_l",)
        )
        assert [array.shape for array in identity.coefficients] == [(2, _COMPONENTS)] * len(bases)
        assert [array.shape for array in identity.vectors] == [(2, basis.width) for basis in bases]
        assert (identity.metadata.steps, identity.metadata.consent) == (6, "a test")


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_gradients_through_the_whole_model_equal_finite_differences(host_factory: HostFactory, kind: str) -> None:
    """Along random directions in the space of the coefficients, in float64."""
    model = host_factory(kind, width=64, **({"second_width": 64} if kind == "sdxl" else {}))
    for module in model._pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.double()
    model.predict = _in_float64(model)  # type: ignore[method-assign]
    trainer = Trainer(
        model, _bases(model), toy_pool(), TrainingSettings(steps=1, components=_COMPONENTS, precision="fp32")
    )
    trainer.token_vectors = lambda coefficients: [  # type: ignore[method-assign]  # Basis.expand rounds to float32
        basis.mean.double() + torch.einsum("ek,ekd->ed", rows, basis.components.double())
        for basis, rows in zip(trainer.bases, coefficients, strict=True)
    ]
    batch = trainer.sample_batch()
    batch = replace(batch, clean=batch.clean.double(), noise=batch.noise.double())
    start = trainer.coefficients(batch).detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(trainer.loss(batch, start), start)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        direction = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (float(trainer.loss(batch, start + sign * 1e-5 * direction)) for sign in (1, -1))
        assert (ahead - behind) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def _in_float64(model: DiffusersHost):  # type: ignore[no-untyped-def]
    """The model's ``predict`` without rounding the result to float32."""

    class Unrounded:
        def __call__(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: object) -> torch.Tensor:
            kept: list[torch.Tensor] = []
            hook = model._unet.register_forward_hook(lambda _m, _i, output: kept.append(output[0]))
            try:
                DiffusersHost.predict(model, latents, timesteps, conditioning)
            finally:
                hook.remove()
            return kept[0]

    return Unrounded()
