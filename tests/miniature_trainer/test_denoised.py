"""What the denoiser leaves of pictures, and a decoder that learns from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from celeb_basis.errors import FileError
from miniature.trainer.autoencoder import DENOISED, Pictures, Run, load_autoencoder, new_autoencoder, train
from miniature.trainer.denoised import LAST, STEPS, denoise_pool, left_of
from miniature.trainer.denoiser import unet_config
from miniature.trainer.text_model import Tokens, WorldText, save_text
from miniature.training.captions import used_tokens
from miniature.training.checkpoints import save_state
from miniature.training.diffusion import alphas_bar, step_time
from miniature.training.latent_scale import LatentScale
from miniature.training.unet import new_unet
from miniature.world.pool import Shard, write_shard
from miniature.world.scenes import SIDE

COUNT = 6


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A shard of pictures that brighten to the right and to the bottom, with heads at their middles."""
    ramp = np.add.outer(np.arange(SIDE), 0.3 * np.arange(SIDE))
    pictures = np.stack([ramp * (1 + 0.1 * number) for number in range(COUNT)]).astype(np.uint8)
    boxes = np.zeros((COUNT, 2, 3), np.float32)
    boxes[:, 0] = 60, 40, 80
    captions = np.repeat(Tokens()(["a photo"] * 8).numpy()[None], COUNT, 0).astype(np.int32)
    shard = Shard(np.repeat(pictures[..., None], 3, 3), captions, boxes, np.full(COUNT, -1, np.int32))
    write_shard(tmp_path / "pictures", 7, shard)
    return tmp_path / "pictures"


def test_a_perfect_denoiser_leaves_what_was_there() -> None:
    latents = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    bars, given = alphas_bar(), []

    def perfect(noisy: torch.Tensor, times: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        given.append(int(times[0]))
        share = bars[times][:, None, None, None]
        clean = latents.repeat(2, 1, 1, 1)
        noise = (noisy - share.sqrt() * clean) / (1 - share).sqrt()
        return share.sqrt() * noise - (1 - share).sqrt() * clean

    states = torch.zeros(3, 7, 2)
    left = left_of(latents, states, states[:1], perfect, 4, seed=2)
    assert given == [step_time(number, STEPS) for number in (3, 2, 1, 0)]
    assert torch.allclose(left, latents, atol=0.1)  # the last step ends with a little noise, as sampling does
    wrong = left_of(latents, states, states[:1], lambda noisy, *_: torch.zeros_like(noisy), 4, seed=2)
    assert float((wrong - latents).abs().mean()) > 0.15


def test_crops_of_a_picture_and_of_what_was_left_show_the_same_place(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"miniature\.trainer\.denoised"):
        Pictures(pool, COUNT, denoised=tmp_path / DENOISED)
    side = SIDE // 8
    places = torch.arange(side * side, dtype=torch.float16).reshape(1, 1, side, side)
    (tmp_path / DENOISED).mkdir()
    save_file({"latents": places.repeat(COUNT, 4, 1, 1)}, str(tmp_path / DENOISED / "shard-00007.safetensors"))
    data = Pictures(pool, COUNT, denoised=tmp_path / DENOISED)
    crops, weights, left = data.denoised_crops(np.random.default_rng(0), 64, 5)
    assert crops.shape == (5, 3, 64, 64)
    assert weights.shape == (5, 1, 64, 64)
    assert left.shape == (5, 4, 8, 8)
    for crop, latents in zip(crops, left, strict=True):
        first = int(latents[0, 0, 0])
        top, column = 8 * (first // side), 8 * (first % side)
        shown = torch.from_numpy(data.pictures[:, top : top + 64, column : column + 64]).permute(0, 3, 1, 2)
        assert any(torch.allclose((crop + 1) * 127.5, one, atol=0.01) for one in shown.float())


def test_a_decoder_learns_from_what_was_left(pool: Path, tmp_path: Path) -> None:
    save_state(tmp_path / "encoder.safetensors", {"model": new_autoencoder()}, (), {"step": 1})
    save_text(tmp_path / "text.safetensors", WorldText(used_tokens(Tokens(), ["ada lovelace"])), {"step": 1})
    unet = new_unet(unet_config("small"))
    state = {"unet": unet, "unet_ema": unet}
    save_state(tmp_path / "denoiser-state.safetensors", state, (), {"step": 1, "seconds": 1.0})
    LatentScale((0.1, 0, 0, 0), (2.0, 1, 1, 1)).write(tmp_path / "latent-scale.json")
    assert denoise_pool(pool, tmp_path, "small") == 1
    assert denoise_pool(pool, tmp_path, "small", processes=2) == 0
    left = load_file(str(tmp_path / DENOISED / "shard-00007.safetensors"))["latents"]
    assert left.shape == (COUNT, 4, SIDE // 8, SIDE // 8)
    assert bool(torch.isfinite(left).all())
    assert max(step_time(last - 1, STEPS) for last in LAST) < 250, "more noise would move what is seen"
    train(tmp_path, pool, Run(minutes=5, steps=3, decoder=True, sharper=True, denoised=True), COUNT)
    before, after = (load_autoencoder(tmp_path / f"{name}.safetensors") for name in ("encoder", "decoder"))
    assert all(map(torch.equal, before.encoder.parameters(), after.encoder.parameters()))
    assert not torch.equal(before.decoder.conv_out.weight, after.decoder.conv_out.weight)
