"""The VAE's memory: counted on the full-size architecture, tiled where it would not fit, and freed after previews."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch
from support.live_memory import LiveMemory
from support.models import make_host

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.hosts.diffusers import autoencoder
from celeb_basis.hosts.diffusers.autoencoder import Autoencoder
from celeb_basis.hosts.diffusers.configs import component_configs
from celeb_basis.hosts.torch_utils import upcast

CARD = torch.device("cuda")


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def full_size(request: pytest.FixtureRequest) -> Any:
    """A full-size VAE without memory: shapes only."""
    import diffusers

    with torch.device("meta"):
        return diffusers.AutoencoderKL.from_config(component_configs(request.param)["vae"]).float().eval()


@pytest.mark.parametrize("side", [512, 1024])
def test_what_is_alive_while_an_image_is_encoded_and_decoded(full_size: Any, side: int) -> None:
    with torch.no_grad(), LiveMemory() as encoding:
        full_size.encode(torch.zeros(1, 3, side, side, device="meta"))
    with torch.no_grad(), LiveMemory() as decoding:
        full_size.decode(torch.zeros(1, 4, side // 8, side // 8, device="meta"))
    counted = max(encoding.peak, decoding.peak)
    estimated = Autoencoder(full_size).memory(CARD).per_pixel * side**2
    assert counted < estimated < 1.15 * counted


def test_a_vae_that_overflows_is_counted_in_float32(full_size: Any) -> None:
    whole = Autoencoder(full_size).memory(CARD)
    assert whole.weights == whole.elsewhere == pytest.approx(83.65e6 * 4, rel=0.01)
    half = Autoencoder(full_size.half())
    factor = 1 if half.overflows else 2
    full_size.float()
    full_size.half()
    assert half.memory(CARD).weights * factor == whole.weights
    assert half.memory(CARD).per_pixel * factor == pytest.approx(whole.per_pixel)
    full_size.float()


def test_weights_on_the_device_are_not_counted_again() -> None:
    vae = Autoencoder(make_host("sdxl", width=64, second_width=64)._pipeline.vae.half())
    cpu = vae.memory(torch.device("cpu"))
    assert cpu.weights == 2 * cpu.elsewhere, "half of the float32 weights are there"
    assert vae.memory(CARD).elsewhere == cpu.weights


def _sides(vae: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the sides of what goes through the encoder and comes out of the decoder."""
    sides: list[int] = []
    vae.encoder.register_forward_pre_hook(lambda _module, inputs: sides.append(inputs[0].shape[-1]))
    vae.decoder.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    monkeypatch.setattr(autoencoder, "TILE", 32)
    return sides


@pytest.mark.parametrize(("free", "largest"), [(None, 64), (10**12, 64), (1000, 32)])
def test_images_are_tiled_only_if_they_do_not_fit(
    free: int | None, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host("sd1", width=64)
    vae = host._pipeline.vae
    sides = _sides(vae, monkeypatch)
    before = {name: value for name, value in vars(vae).items() if "til" in name}
    monkeypatch.setattr(autoencoder, "free_memory", lambda _device: free)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = host.encode_images(image).mean
    picture = host._vae.decode(latent)
    assert latent.shape == (1, 4, 8, 8)
    assert picture.shape == image.shape
    assert max(sides) == largest
    assert {name: value for name, value in vars(vae).items() if "til" in name} == before


def test_a_vae_that_overflows_is_made_wider_once_for_all_views(monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host("sdxl", width=64, second_width=64)
    host._pipeline.to(torch.float16)
    times: list[Any] = []
    monkeypatch.setattr(autoencoder, "upcast", lambda *given: (times.append(given), upcast(*given))[1])
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    streamed = list(host.encode_one_by_one(image[None] for image in images))
    assert len(times) == 1
    assert host._pipeline.vae.dtype == torch.float16
    together = host.encode_images(images)
    assert torch.equal(torch.cat([one.mean for one in streamed]), together.mean)
    assert torch.equal(torch.cat([one.std for one in streamed]), together.std)


@pytest.mark.parametrize("learning", [True, False])
def test_the_vae_leaves_the_device_after_a_preview(learning: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host("sd1", width=64)
    released: list[torch.device] = []
    monkeypatch.setattr(host._vae, "release", released.append)
    request = GenerationRequest("a cat", steps=1, count=2)
    if not learning:
        assert len(list(host.generate(request))) == 2
        assert released == []
        return
    with host.prepare_for_training("fp32"):
        assert len(list(host.generate(request))) == 2
        assert len(released) == 1
        next(preview := host.generate(request))
        assert isinstance(preview, Generator)
        preview.close()
        assert len(released) == 2
