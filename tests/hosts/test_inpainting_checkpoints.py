"""Inpainting checkpoints, whose denoisers take a mask and the latents of a masked image beside the noisy latents.

An identity is learned on them as images are drawn with them from a prompt alone: everything is masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from celeb_basis.diffusion_model import GenerationRequest, LatentDistribution
from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers import DiffusersHost, load_host
from celeb_basis.hosts.diffusers.pipelines import sampler
from celeb_basis.hosts.diffusers.single_file import probe_prediction
from celeb_basis.hosts.inpainting import MaskedImage
from miniature.small_models.ldm_layout import save_single_file
from miniature.small_models.pipelines import build_pipeline, save_pipeline, small_configs

SIZES: dict[str, Any] = {"width": 64, "second_width": 128, "resolution": 32}
PIPELINES = {
    "sd1": diffusers.StableDiffusionInpaintPipeline,
    "sd2": diffusers.StableDiffusionInpaintPipeline,
    "sdxl": diffusers.StableDiffusionXLInpaintPipeline,
}


def inpainting_pipeline(kind: Any, channels: int = 9) -> Any:
    """A small random pipeline whose denoiser takes so many channels."""
    configs = small_configs(kind, **SIZES)
    configs["unet"]["in_channels"] = channels
    return build_pipeline(kind, configs, seed=0)


@pytest.fixture(params=list(PIPELINES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str) -> DiffusersHost:
    return DiffusersHost(inpainting_pipeline(kind))


def words_for(model: DiffusersHost) -> dict[str, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {"<p>": [0.05 * torch.randn(2, one.width, generator=generator) for one in model.text_encoders]}


def gray_latents(pipeline: Any, side: int) -> torch.Tensor:
    with torch.no_grad():
        found = pipeline.vae.encode(torch.zeros(1, 3, side, side)).latent_dist.mean
    latents: torch.Tensor = found * pipeline.vae.config.scaling_factor
    return latents


def noise(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def test_the_denoiser_is_given_a_mask_of_everything_and_a_gray_image(model: DiffusersHost) -> None:
    given: list[torch.Tensor] = []
    pipeline = model._pipeline
    hook = pipeline.unet.register_forward_pre_hook(lambda _unet, arguments: given.append(arguments[0].clone()))
    with torch.no_grad():
        predicted = model.predict(noise(), torch.tensor([5, 900]), model.encode_prompts(["a", "b"], {}))
    hook.remove()
    assert predicted.shape == (2, 4, 4, 4)
    (joined,) = given
    assert torch.equal(joined[:, :4], noise())
    assert torch.equal(joined[:, 4], torch.ones(2, 4, 4))
    expected = gray_latents(pipeline, 4 * model._vae.scale_factor).expand(2, -1, -1, -1)
    torch.testing.assert_close(joined[:, 5:], expected)


def test_gradients_reach_the_vectors(model: DiffusersHost) -> None:
    vectors = [one.requires_grad_() for one in words_for(model)["<p>"]]
    with model.prepare_for_training("fp32", checkpointing=True):
        conditioning = model.encode_prompts(["a photo of <p>"], {"<p>": vectors})
        model.predict(noise(1), torch.tensor([500]), conditioning).square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in vectors)


def test_the_gray_image_is_encoded_while_the_vae_is_there(
    model: DiffusersHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After :meth:`release_vae` nothing asks for it again."""
    model.encode_images(torch.zeros(1, 3, 32, 32))
    monkeypatch.setattr(model._vae, "encode", lambda *_: pytest.fail("the VAE was asked for again"))
    side = 32 // model._vae.scale_factor
    with torch.no_grad():
        latents = torch.zeros(3, 4, side, side)
        model.predict(latents, torch.tensor([1, 2, 3]), model.encode_prompts(["a", "b", "c"], {}))


def test_an_image_is_that_of_diffusers_own_inpainting_pipeline(model: DiffusersHost, kind: str) -> None:
    request = GenerationRequest(
        "a photo of <p>", placeholder_tokens=words_for(model), steps=4, guidance=3.0, seed=7, width=32, height=32
    )
    before = set(map(id, model._unet._forward_pre_hooks.values()))
    (ours,) = model.generate(request)
    assert set(map(id, model._unet._forward_pre_hooks.values())) == before, "the denoiser is as it was"
    parts = dict(model._pipeline.components) | {"scheduler": sampler(model._pipeline.scheduler)}
    if kind != "sdxl":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    theirs = PIPELINES[kind](**parts)
    theirs.set_progress_bar_config(disable=True)
    factor = model._vae.scale_factor
    with torch.no_grad():
        drawn = theirs(
            **model._generation_prompts(request),
            image=Image.new("RGB", (32, 32), (128, 128, 128)),
            mask_image=Image.new("L", (32, 32), 255),
            masked_image_latents=gray_latents(model._pipeline, 32),
            latents=torch.randn(1, 4, 32 // factor, 32 // factor, generator=torch.Generator().manual_seed(7)),
            strength=1.0,
            num_inference_steps=4,
            guidance_scale=3.0,
            width=32,
            height=32,
        ).images[0]
    difference = np.abs(np.asarray(ours, float) - np.asarray(drawn.convert("RGB"), float))
    assert difference.max() <= 2
    (other,) = model.generate(GenerationRequest("a tree", steps=4, guidance=3.0, seed=8, width=32, height=32))
    assert other.tobytes() != ours.tobytes()


def test_a_folder_and_a_single_file_hold_the_same(kind: str, tmp_path: Path) -> None:
    pipeline = inpainting_pipeline(kind)
    save_single_file(pipeline, tmp_path / "single.safetensors")
    save_pipeline(pipeline, tmp_path / "folder")
    index = tmp_path / "folder" / "model_index.json"
    index.write_text(index.read_text().replace(type(pipeline).__name__, PIPELINES[kind].__name__))
    here = DiffusersHost(pipeline)
    timesteps = torch.tensor([10, 700])
    with torch.no_grad():
        expected = here.predict(noise(), timesteps, here.encode_prompts(["a", "b"], {}))
        for path in (tmp_path / "single.safetensors", tmp_path / "folder"):
            loaded = load_host(path, device="cpu", dtype="fp32")
            assert loaded.info.family == kind
            found = loaded.predict(noise(), timesteps, loaded.encode_prompts(["a", "b"], {}))
            torch.testing.assert_close(found, expected)


def test_what_an_inpainting_sd2_predicts_is_probed_with_everything_masked() -> None:
    class Denoiser(torch.nn.Module):
        """Predicts noise where its mask covers everything, and nonsense elsewhere."""

        dtype, device = torch.float32, torch.device("cpu")
        config = diffusers.configuration_utils.FrozenDict(in_channels=9, cross_attention_dim=4)

        def forward(self, latents: torch.Tensor, *_: Any, **_named: Any) -> tuple[torch.Tensor]:
            assert latents.shape[1] == 9
            return (torch.where(latents[:, 4:5] == 1.0, latents[:, :4], torch.full_like(latents[:, :4], -9.0)),)

    assert probe_prediction(Denoiser()) == "epsilon"


@pytest.mark.parametrize(
    ("channels", "called"), [(5, "depth-to-image"), (8, "InstructPix2Pix"), (7, "special|upscaling")]
)
def test_others_that_need_an_image_are_refused_by_name(channels: int, called: str, tmp_path: Path) -> None:
    pipeline = inpainting_pipeline("sd1", channels)
    with pytest.raises(HostError, match=called):
        DiffusersHost(pipeline)
    save_single_file(pipeline, tmp_path / "single.safetensors")
    with pytest.raises(HostError, match=called):
        load_host(tmp_path / "single.safetensors", device="cpu")


def test_each_size_is_encoded_once() -> None:
    asked: list[tuple[int, ...]] = []

    def encode(images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        for image in images:
            asked.append(tuple(image.shape))
            latents = image[:, :1, ::8, ::8].repeat(1, 4, 1, 1) + 0.5
            yield LatentDistribution(latents, torch.zeros_like(latents))

    masked = MaskedImage(encode, 8)
    pictures = [torch.full((1, 3, 16, 40), 0.25), torch.full((1, 3, 16, 40), -0.5), torch.full((1, 3, 8, 8), 0.75)]
    found = [float(one.mean.mean()) for one in masked.encode_too(pictures)]
    assert found == [0.75, 0.0, 1.25], "only what was asked for, in its order"
    assert asked == [(1, 3, 16, 40), (1, 3, 16, 40), (1, 3, 16, 40), (1, 3, 8, 8), (1, 3, 8, 8)]
    wide = masked.like(torch.zeros(3, 4, 2, 5, dtype=torch.bfloat16))
    assert (wide.shape, wide.dtype) == ((3, 5, 2, 5), torch.bfloat16)
    masked.like(torch.zeros(1, 4, 1, 1))
    assert len(asked) == 5, "both sizes are known"
    assert torch.equal(wide[0, 0].float(), torch.ones(2, 5))
    assert torch.equal(wide[0, 1:].float(), torch.full((4, 2, 5), 0.5))
    masked.like(torch.zeros(1, 4, 3, 3))
    assert asked[5:] == [(1, 3, 24, 24)]
