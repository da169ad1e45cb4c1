"""The denoiser's output in a guided step, and the decoder that it is guided through, without a WebUI."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.guided_jobs import Job, Names
from support.tiny_recognizer import network_file

from celeb_basis.errors import HostError
from celeb_basis.faces.guidance import FaceGuidance, GuidedBatch
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import DetectedFace
from celeb_basis.faces.recognizer import Recognizer
from celeb_basis.hosts.a1111 import model as a1111_model
from celeb_basis.hosts.a1111.model import A1111Checkpoint, Decode, recomputed_blocks
from celeb_basis.hosts.a1111.modules import replaced
from celeb_basis.hosts.a1111.sampler_hooks import SamplerHooks, set_guidance
from celeb_basis.webui.guided_faces import GuidedFaces

# In the samplers


class CFGDenoiser(torch.nn.Module):
    """As the host's: predicts the clean latents. ``forward`` is what samplers call."""

    def __init__(self, job: Any, output: torch.Tensor) -> None:
        super().__init__()
        self.p, self.output = job, output
        self.step, self.steps, self.total_steps = 0, 6, 6
        self.mask: torch.Tensor | None = None
        self.nmask: torch.Tensor | None = None
        self.init_latent: torch.Tensor | None = None
        self.sampler = SimpleNamespace(config=SimpleNamespace(options={}))

    def forward(
        self, x: Any, sigma: Any, uncond: Any, cond: Any, cond_scale: Any, s_min_uncond: Any, image_cond: Any
    ) -> Any:
        del x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond
        self.step += 1
        return self.output


class CFGDenoiserTimesteps(CFGDenoiser):
    """As the host's: predicts the noise at a timestep."""

    def __init__(self, job: Any, output: torch.Tensor) -> None:
        super().__init__(job, output)
        signal = torch.linspace(0.99, 0.01, 1000)
        self.inner_model = SimpleNamespace(inner_model=SimpleNamespace(alphas_cumprod=signal))


class Hooks(SamplerHooks):
    """Around the denoisers above, with a tiny decoder."""

    failing: Exception | None = None
    normal = True

    @contextmanager
    def decoder(self, latents: torch.Tensor) -> Iterator[Decode]:
        if self.failing is not None:
            raise self.failing
        self.normal = not latents.is_inference() and not torch.is_inference_mode_enabled()
        yield lambda one: torch.tanh(torch.nn.functional.interpolate(one[:, :3], scale_factor=8.0, mode="bilinear"))


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Hooks:
    """Hooks that are called as the host's functions would."""
    made = Hooks()
    monkeypatch.setattr("celeb_basis.hosts.a1111.sampler_hooks.install", lambda _: None)
    return made


LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
NOISY = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
PATTERN = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]], np.float32)


class OneFace:
    """Finds a face in every picture."""

    name = "fixed"

    def detect(self, picture: Any) -> list[DetectedFace]:
        side = float(picture.shape[0]) / 2
        return [DetectedFace((4.0, 4.0, 4 + side, 4 + side), PATTERN * side + 4, 0.9)]


@pytest.fixture
def batch(tmp_path: Path) -> GuidedBatch:
    recognizer = Recognizer(network_file(tmp_path / "tiny.onnx"))
    target = np.random.default_rng(0).normal(size=16).astype(np.float32)
    faces: Any = OneFace()
    one = FaceGuidance(faces, recognizer, [target / np.linalg.norm(target)], 1.0)
    return GuidedBatch(lambda: [one, None])


def called(hooks: Hooks, denoiser: Any, sigma: float = 0.5, *, step: int = 5) -> torch.Tensor:
    denoiser.step = step
    given = {"uncond": None, "cond": None, "cond_scale": 1.0, "s_min_uncond": 0.0, "image_cond": None}
    result: torch.Tensor = hooks._forward(
        type(denoiser).forward, denoiser, NOISY.clone(), torch.full((2,), sigma), **given
    )
    return result


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_clean_latents_of_a_late_step_are_moved(hooks: Hooks, batch: GuidedBatch, mode: Any) -> None:
    job = Job()
    set_guidance(job, batch)
    with mode():
        denoiser = CFGDenoiser(job, LATENTS.clone())
        moved = called(hooks, denoiser)
        early = called(hooks, denoiser, step=3)
    assert early is denoiser.output
    assert hooks.normal
    assert not torch.equal(moved[0], LATENTS[0])
    assert torch.equal(moved[1], LATENTS[1])
    assert not moved.requires_grad
    assert torch.equal(denoiser.output, LATENTS)


def test_without_guidance_the_output_is_the_hosts_own(hooks: Hooks, batch: GuidedBatch) -> None:
    denoiser = CFGDenoiser(Job(), LATENTS.clone())
    assert called(hooks, denoiser) is denoiser.output
    set_guidance(denoiser.p, batch)
    set_guidance(denoiser.p, None)
    assert called(hooks, denoiser) is denoiser.output
    # A batch of another size than its prompts is left alone.
    set_guidance(denoiser.p, GuidedBatch(lambda: [*batch.images, None]))
    assert called(hooks, denoiser) is denoiser.output


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sampler_of_timesteps_ends_at_the_same_clean_latents(
    hooks: Hooks, batch: GuidedBatch, dtype: torch.dtype
) -> None:
    """Its denoiser gives the noise, from which the moved clean latents have to follow."""
    job = Job()
    set_guidance(job, batch)
    signal = float(torch.linspace(0.99, 0.01, 1000)[200])
    alpha, deviation = math.sqrt(signal), math.sqrt(1 - signal)
    noise = ((NOISY - alpha * LATENTS) / deviation).to(dtype)
    wanted = called(hooks, CFGDenoiser(job, LATENTS.clone()))
    result = called(hooks, CFGDenoiserTimesteps(job, noise), 200.3)
    assert result.dtype == dtype
    clean = (NOISY - deviation * result.float()) / alpha
    tolerance = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(clean, wanted, atol=tolerance, rtol=tolerance)
    assert (clean[0] - LATENTS[0]).abs().max() > 0.05


def test_the_second_evaluation_of_a_step_moves_less_where_its_noise_level_is_far_lower(
    hooks: Hooks, batch: GuidedBatch
) -> None:
    """Heun's step from 0.5 to 0.05 would take four and a half times the move of its second evaluation."""
    job = Job()
    set_guidance(job, batch)
    denoiser = CFGDenoiser(job, LATENTS.clone())
    whole = called(hooks, denoiser, 0.05) - LATENTS
    denoiser.sampler.config.options["second_order"] = True
    first = called(hooks, denoiser, 0.5, step=4) - LATENTS
    second = called(hooks, denoiser, 0.05) - LATENTS
    torch.testing.assert_close(first, whole)
    assert 0 < second.norm() * (0.5 - 0.05) / (2 * 0.05) < whole.norm()
    called(hooks, denoiser, 0.5, step=4)
    torch.testing.assert_close(called(hooks, denoiser, 0.45) - LATENTS, whole)


@pytest.mark.parametrize(("init", "steps"), [(None, 5), (torch.zeros(1), 4)])
def test_the_last_call_of_a_sampler_of_timesteps_is_guided(
    hooks: Hooks, batch: GuidedBatch, init: torch.Tensor | None, steps: int
) -> None:
    """Where six are expected, DDIM calls five times, and four times for an image to start from."""
    job = Job()
    set_guidance(job, batch)
    denoiser = CFGDenoiserTimesteps(job, LATENTS.clone())
    denoiser.init_latent = init
    guided = [called(hooks, denoiser, 200, step=step) is not denoiser.output for step in range(steps)]
    assert guided == [step >= min(math.ceil(steps * 2 / 3), steps - 1) for step in range(steps)]
    assert guided[-1]


@pytest.mark.parametrize("kind", [CFGDenoiser, CFGDenoiserTimesteps])
def test_the_part_that_inpainting_keeps_is_not_moved(hooks: Hooks, batch: GuidedBatch, kind: Any) -> None:
    job = Job()
    set_guidance(job, batch)
    denoiser = kind(job, LATENTS.clone())
    denoiser.nmask = torch.zeros(1, 4, 8, 8)
    denoiser.nmask[..., :4] = 1
    denoiser.mask, denoiser.init_latent = 1 - denoiser.nmask, torch.randn(2, 4, 8, 8)
    moved = called(hooks, denoiser, 200)
    assert (moved[0, :, :, :4] != LATENTS[0, :, :, :4]).any()
    torch.testing.assert_close(moved[..., 4:], LATENTS[..., 4:])


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "needs more memory than is free"),
        (HostError("There is no checkpoint."), "There is no checkpoint."),
    ],
)
def test_what_fails_in_a_step_ends_guidance_and_not_the_image(
    hooks: Hooks, names: Names, failing: Exception, said: str, miniature_faces: InsightFaceNetwork
) -> None:
    job = Job()
    GuidedFaces(set_guidance, lambda: names, lambda: miniature_faces).before_batch(job, 1)
    assert job.extra_generation_params == {"Face guidance": "1"}
    denoiser = CFGDenoiser(job, LATENTS[:1].clone())
    hooks.failing = failing
    assert called(hooks, denoiser) is denoiser.output
    assert called(hooks, denoiser) is denoiser.output
    (comment,) = job.comments
    assert said in comment
    assert comment.endswith("From there on, the image was generated without face guidance.")
    assert job.extra_generation_params == {}


# The VAE


class ResnetBlock(torch.nn.Module):
    """A block as in the original code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = torch.nn.GroupNorm(2, channels), torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.calls = 0

    def forward(self, x: torch.Tensor, temb: Any) -> torch.Tensor:
        del temb
        self.calls += 1
        result: torch.Tensor = x + self.conv(torch.nn.functional.silu(self.norm(x)))
        return result


class Decoder(torch.nn.Module):
    """Latents to a picture of eight times their size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.block = torch.nn.Conv2d(4, 8, 3, padding=1), ResnetBlock(8)
        self.conv_out = torch.nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv_out(
            torch.nn.functional.interpolate(self.block(self.conv_in(z), None), scale_factor=8.0)
        )
        return result


class Vae(torch.nn.Module):
    """A VAE of the original code, in half precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.post_quant_conv = Decoder(), torch.nn.Conv2d(4, 4, 1)
        self.half()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The host's modules under ``--medvram``, with a denoiser on the device, and its own casts of layers."""

    class Conv2d(torch.nn.Conv2d):
        """A layer that the host would cast."""

    def narrow(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.org_forward(x.half())

    denoiser = torch.nn.Linear(2, 2)
    lowvram = SimpleNamespace(module_in_gpu=denoiser, sent=[])

    def send_everything_to_cpu() -> None:
        lowvram.sent.append(lowvram.module_in_gpu)
        lowvram.module_in_gpu = None

    lowvram.send_everything_to_cpu = send_everything_to_cpu
    devices = SimpleNamespace(device=torch.device("cpu"), cpu=torch.device("cpu"), patch_module_list=[Conv2d])
    modules = {"lowvram": lowvram, "devices": devices}
    monkeypatch.setattr(a1111_model, "host_module", modules.__getitem__)
    layer = Conv2d(1, 1, 1)
    with replaced(Conv2d, forward=narrow, org_forward=torch.nn.Conv2d.forward):
        yield SimpleNamespace(**modules, denoiser=denoiser, layer=layer)


def test_the_webuis_decoder_is_differentiable_in_float32_and_left_as_it_was(host: SimpleNamespace) -> None:
    vae = Vae()
    checkpoint = A1111Checkpoint(SimpleNamespace(first_stage_model=vae, scale_factor=0.5, lowvram=True))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    latents = 100 * LATENTS[:1]
    with checkpoint.decoding_with_gradients(latents) as decode, torch.enable_grad():
        given = latents.clone().requires_grad_()
        picture = decode(given)
        assert picture.dtype == torch.float32
        host.layer(torch.zeros(1, 1, 2, 2))  # not in half precision, whose weights it does not have
        (gradient,) = torch.autograd.grad(picture.square().sum(), given)
    assert vae.decoder.block.calls == 2  # once more on the way back
    assert torch.isfinite(gradient).all()
    assert host.lowvram.sent == [host.denoiser]
    assert host.lowvram.module_in_gpu is vae  # the host's hook takes it away when the denoiser is called
    assert "forward" not in vars(vae.decoder.block)
    for name, value in vae.state_dict().items():
        assert value.dtype == torch.float16
        assert torch.equal(value, before[name])
    assert all(weight.requires_grad for weight in vae.parameters())


def test_a_decoder_that_computes_twice_has_the_same_gradient() -> None:
    decoder = Decoder()
    given = LATENTS[:1].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(decoder(given).square().sum(), given)
    with recomputed_blocks(decoder):
        (found,) = torch.autograd.grad(decoder(given).square().sum(), given)
    torch.testing.assert_close(found, wanted)
