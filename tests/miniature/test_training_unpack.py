"""Weights that were written for others come back as training's own."""

from __future__ import annotations

from pathlib import Path

import torch

from miniature.trainer.text_model import Tokens, WorldText
from miniature.training.autoencoder import load_autoencoder, new_autoencoder
from miniature.training.autoencoder_start import folded, unfold
from miniature.training.captions import used_tokens
from miniature.training.checkpoints import load_state
from miniature.training.denoiser import ANYWHERE, DECIDING, draw_timesteps
from miniature.training.diffusion import TIMESTEPS
from miniature.training.latent_scale import LatentScale
from miniature.training.people import read_people
from miniature.training.unet import new_unet
from miniature.training.unpack import unpack


class Pipeline:
    """As much of one as is unpacked."""

    def __init__(self) -> None:
        self.raw = new_autoencoder()
        self.scale = LatentScale((0.5, -0.5, 0.1, 0.0), (2.0, 1.0, 0.5, 1.5))
        self.vae = self.scale.built_in(folded(self.raw))
        self.text = WorldText(used_tokens(Tokens(), read_people().names))
        with torch.no_grad():
            self.text.table.weight.add_(0.01)
        self.text_encoder = self.text.whole()
        self.unet = new_unet()


def test_unpacked_states_compute_what_ships(tmp_path: Path) -> None:
    pipeline = Pipeline()
    unpack(pipeline, tmp_path, 7)
    scale = LatentScale.read(tmp_path / "latent-scale.json")
    again = load_autoencoder(tmp_path / "encoder.safetensors")
    assert scale == LatentScale((0.0,) * 4, (1.0,) * 4)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours = pipeline.scale.standardized(pipeline.raw.encode(x).latent_dist.mean)
        theirs = scale.standardized(again.encode(x).latent_dist.mean)
        assert torch.allclose(ours, theirs, atol=1e-3)
        z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(
            pipeline.raw.decode(pipeline.scale.raw(z)).sample, again.decode(scale.raw(z)).sample, atol=1e-3
        )
    text = WorldText(pipeline.text.used)
    assert load_state(tmp_path / "text.safetensors", {"model": text}) == {"step": 7}
    ids = Tokens()(["a photo of Alan Turing"])
    with torch.no_grad():
        assert torch.allclose(text(ids), pipeline.text(ids), atol=1e-5)
    unet = new_unet()
    load_state(tmp_path / "denoiser-state.safetensors", {"unet": unet})
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), pipeline.unet.parameters(), strict=True))


def test_unfolding_undoes_folding() -> None:
    model = new_autoencoder()
    again = folded(model)
    unfold(again)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)


def test_most_timesteps_lie_where_it_is_decided_who_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    times = torch.cat([draw_timesteps(64, generator) for _ in range(50)]).float() / TIMESTEPS
    low, high = DECIDING
    share = float(((times >= low) & (times < high)).float().mean())
    assert abs(share - (1 - ANYWHERE + ANYWHERE * (high - low))) < 0.02
    assert float(times.min()) < 0.05
    assert float(times.max()) > 0.95
    halves = draw_timesteps(64, generator).chunk(2)
    assert abs(float(halves[0].float().mean() - halves[1].float().mean())) < 0.35 * TIMESTEPS


def test_timesteps_can_be_drawn_evenly() -> None:
    times = draw_timesteps(1000, torch.Generator().manual_seed(0), 1.0).sort().values
    assert (times - torch.arange(1000)).abs().max() <= 1
