"""What is written for other tools computes what was trained; states resume exactly; sampling is diffusers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from miniature.training.autoencoder import new_autoencoder
from miniature.training.autoencoder_start import EPSILON, folded, last_norms
from miniature.training.checkpoints import follow, load_state, save_state
from miniature.training.denoiser import (
    ANYWHERE,
    BRIEF,
    DECIDING,
    ELSEWHERE,
    EMPTY_SHARE,
    Data,
    counted_more,
    draw_timesteps,
    windows,
)
from miniature.training.diffusion import SCHEDULER, TIMESTEPS, alphas_bar, noised, sample
from miniature.training.latent_scale import SCALING_FACTOR, LatentScale
from miniature.training.shards import EXTRAS_FROM, PORTRAITS_FROM, Shard, read_shard, shard_paths, write_shard
from miniature.training.text_model import Tokens, WorldText


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    return new_autoencoder().eval()


def pictures(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(count, 3, 4, 4, generator=generator)
    return nn.functional.interpolate(small, size=(64, 64), mode="bicubic").clamp(-1, 1)


def test_the_untrained_autoencoder_keeps_colors(autoencoder: Any) -> None:
    with torch.no_grad():
        x = pictures(4)
        y = autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample
    for channel in range(3):
        assert torch.corrcoef(torch.stack([x[:, channel].flatten(), y[:, channel].flatten()]))[0, 1] > 0.85


def test_folding_changes_the_epsilon_and_nothing_else(autoencoder: Any) -> None:
    plain = folded(autoencoder)
    assert {norm.eps for norm in last_norms(autoencoder)} == {EPSILON}
    assert {norm.eps for norm in plain.modules() if isinstance(norm, nn.GroupNorm)} == {1e-6}
    with torch.no_grad():
        z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(plain.decode(z).sample, autoencoder.decode(z).sample, atol=1e-3)


def test_built_in_latent_scale(autoencoder: Any) -> None:
    with torch.no_grad():
        raw = autoencoder.encode(pictures()).latent_dist
        scale = LatentScale.measured(raw.mean)
        model = scale.built_in(autoencoder)
        built = model.encode(pictures()).latent_dist
        assert model.config.scaling_factor == SCALING_FACTOR
        wanted = scale.standardized(raw.mean)
        assert torch.allclose(built.mean * SCALING_FACTOR, wanted, atol=1e-4)
        assert torch.allclose(scale.raw(wanted), raw.mean, atol=1e-4)
        std = torch.tensor(scale.std)[:, None, None] * SCALING_FACTOR
        assert torch.allclose(built.std, raw.std / std, rtol=1e-3)
        theirs = model.decode(wanted / SCALING_FACTOR).sample
        assert torch.allclose(theirs, autoencoder.decode(raw.mean).sample, atol=1e-3)


def test_sampling_is_ddim() -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(SCHEDULER)
    assert torch.allclose(scheduler.alphas_cumprod, alphas_bar(), atol=1e-6)
    weights = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))

    def denoise(x: torch.Tensor, times: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        mixed = torch.einsum("oc,nchw->nohw", weights, x).tanh()
        return mixed * (1 + times[:, None, None, None] / 1000) + states.mean((1, 2))[:, None, None, None]

    noise = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    states = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(4))
    empty = torch.zeros(1, 5, 6)
    ours = sample(denoise, states, empty, noise, steps=10, guidance=3.0)
    scheduler.set_timesteps(10)
    x = noise
    for t in scheduler.timesteps:
        times = t.expand(3)
        cold, warm = denoise(x, times, empty.expand_as(states)), denoise(x, times, states)
        x = scheduler.step(cold + 3.0 * (warm - cold), t, x).prev_sample
    assert torch.allclose(ours, x, atol=1e-4)


def test_velocity_gives_back_picture_and_noise() -> None:
    latents, noise = torch.randn(5, 4, 2, 2), torch.randn(5, 4, 2, 2)
    share = alphas_bar()[torch.tensor([0, 200, 500, 800, 999])]
    noisy, velocity = noised(latents, noise, share)
    a, s = share.sqrt()[:, None, None, None], (1 - share).sqrt()[:, None, None, None]
    assert torch.allclose(a * noisy - s * velocity, latents, atol=1e-5)
    assert torch.allclose(s * noisy + a * velocity, noise, atol=1e-5)


def _steps(model: nn.Linear, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def test_a_state_goes_on_exactly(tmp_path: Path) -> None:
    def fresh() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    whole, optimizer = fresh()
    _steps(whole, optimizer, 0, 10)
    half, optimizer = fresh()
    _steps(half, optimizer, 0, 5)
    save_state(tmp_path / "state.safetensors", {"model": half}, [optimizer], {"step": 5})
    again, optimizer = fresh()
    assert load_state(tmp_path / "state.safetensors", {"model": again}, [optimizer]) == {"step": 5}
    _steps(again, optimizer, 5, 10)
    assert again.weight.equal(whole.weight)


def test_an_average_follows() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    wanted = 0.9 * one.weight + 0.1 * other.weight
    follow(one, other, 0.9)
    assert torch.allclose(one.weight, wanted)


def test_a_shard_survives_the_disk(tmp_path: Path) -> None:
    ids = Tokens()(["a photo of a person", "someone"]).int()
    shard = Shard(torch.randn(2, 4, 16, 16), torch.stack([ids, ids.flip(0)]))
    write_shard(tmp_path, 3, shard)
    (path,) = shard_paths(tmp_path)
    again = read_shard(path)
    assert torch.allclose(again.latents.float(), shard.latents, atol=2e-3)
    assert again.captions.equal(shard.captions)


def test_batches_hold_a_caption_of_their_own_picture_or_none(tmp_path: Path) -> None:
    tokens = Tokens()
    captions = torch.stack([tokens([f"{word} hat"] * 8) for word in ("red", "green", "blue")]).int()
    latents = torch.arange(3.0)[:, None, None, None].expand(3, 4, 16, 16)
    write_shard(tmp_path, 0, Shard(latents[:2].contiguous(), captions[:2]))
    empty = tokens([""])[0]
    data = Data(tmp_path, empty, "cpu")
    assert data.refresh() == 2
    write_shard(tmp_path, 1, Shard(latents[2:].contiguous(), captions[2:]))
    assert data.refresh() == 3
    raw, ids, faces = data.batch(np.random.default_rng(0), 2000)
    rows = raw[:, 0, 0, 0].long()
    assert not faces.any()
    without_caption = (ids == empty).all(1)
    assert (ids[~without_caption] == captions[rows, 0][~without_caption]).all()
    assert abs(float(without_caption.float().mean()) - EMPTY_SHARE) < 0.03
    assert set(rows.tolist()) == {0, 1, 2}


def test_a_batch_has_as_many_portraits_as_it_is_to_have(tmp_path: Path) -> None:
    latents = torch.arange(6.0)[:, None, None, None].expand(6, 4, 4, 4)
    captions = Tokens()(["a hat"])[None].int()
    for number, rows in ((0, [0, 1, 2, 3]), (PORTRAITS_FROM, [4]), (PORTRAITS_FROM + 1, [5])):
        write_shard(tmp_path, number, Shard(latents[rows].contiguous(), captions.expand(len(rows), 1, 77).contiguous()))
    data = Data(tmp_path, Tokens()([""])[0], "cpu")
    data.refresh()
    for share, expected in ((None, [1 / 6] * 6), (0.6, [0.1] * 4 + [0.3] * 2), (0.0, [0.25] * 4 + [0.0] * 2)):
        drawn = data.batch(np.random.default_rng(0), 4000, share)[0][:, 0, 0, 0].long()
        found = torch.bincount(drawn, minlength=6) / len(drawn)
        assert torch.allclose(found, torch.tensor(expected), atol=0.03)


def test_a_fifth_of_the_portraits_are_of_extras(tmp_path: Path) -> None:
    latents = torch.arange(5.0)[:, None, None, None].expand(5, 4, 4, 4)
    captions = Tokens()(["a hat"])[None].int()
    for number, rows in ((0, [0]), (PORTRAITS_FROM, [1]), (EXTRAS_FROM, [2, 3, 4])):
        write_shard(tmp_path, number, Shard(latents[rows].contiguous(), captions.expand(len(rows), 1, 77).contiguous()))
    data = Data(tmp_path, Tokens()([""])[0], "cpu")
    data.refresh()
    for share, expected in ((None, [0.2] * 5), (0.6, [0.4, 0.48] + [0.04] * 3), (1.0, [0, 0.8] + [0.2 / 3] * 3)):
        drawn = data.batch(np.random.default_rng(0), 6000, share)[0][:, 0, 0, 0].long()
        found = torch.bincount(drawn, minlength=5) / len(drawn)
        assert torch.allclose(found, torch.tensor(expected), atol=0.03)


def test_portraits_of_named_people_are_mostly_called_by_the_name_alone(tmp_path: Path) -> None:
    captions = Tokens()(["a photo of a hat", "a hat", "a red hat on a beach", "a photo of the red hat"])[None].int()
    for number in (0, PORTRAITS_FROM, EXTRAS_FROM):
        latents = torch.full((1, 4, 4, 4), float(number > 0) + float(number > PORTRAITS_FROM))
        write_shard(tmp_path, number, Shard(latents, captions))
    data = Data(tmp_path, Tokens()([""])[0], "cpu")
    data.refresh()
    raw, ids, _ = data.batch(np.random.default_rng(0), 9000)
    rows, shortest = raw[:, 0, 0, 0].long(), (ids == captions[0, 1]).all(1)
    for kind, chosen in ((0, 0.25), (1, BRIEF + 0.25 * (1 - BRIEF)), (2, 0.25)):
        assert abs(float(shortest[rows == kind].float().mean()) - (1 - EMPTY_SHARE) * chosen) < 0.03


def test_faces_count_more_in_the_loss() -> None:
    faces = torch.zeros(2, 4, 4, dtype=torch.bool)
    faces[0, 1:3, 1:3] = True
    weights = counted_more(faces, 4.0)
    assert torch.isclose(weights.mean(), torch.tensor(1.0))
    assert torch.allclose(weights[0, 0, 1:3, 1:3], 5 * weights[1, 0, 0, 0])
    assert torch.equal(counted_more(faces, 0.0), torch.ones(2, 1, 4, 4))


def test_the_whole_text_encoder_says_the_same() -> None:
    text = WorldText([49406, 49407, 320, 1125, 539])
    ids = torch.tensor([[49406, 320, 1125, 539, 49407] + [49407] * 72])
    with torch.no_grad():
        assert torch.allclose(text.whole()(ids).last_hidden_state, text(ids), atol=1e-5)


def test_windows_lie_around_faces_and_show_the_picture_there() -> None:
    place = torch.arange(24 * 24.0).reshape(24, 24)
    latents = torch.stack([place, -place]).expand(40, 2, 24, 24)
    faces = torch.zeros(40, 24, 24, dtype=torch.bool)
    faces[:20, 3:6, 20:23] = True  # the others show nobody
    cut, seen = windows(latents, faces, 8, np.random.default_rng(0))
    assert cut.shape == (40, 2, 8, 8)
    assert torch.equal(cut[:, 1], -cut[:, 0])
    top, left = cut[:, 0, 0, 0] // 24, cut[:, 0, 0, 0] % 24
    for row in range(40):
        y, x = int(top[row]), int(left[row])
        assert torch.equal(cut[row, 0], place[y : y + 8, x : x + 8])
        assert torch.equal(seen[row], faces[row, y : y + 8, x : x + 8])
    assert not seen[20:].any()
    assert len({(int(y), int(x)) for y, x in zip(top[20:], left[20:], strict=True)}) > 10
    assert torch.equal(windows(latents, faces, 24, np.random.default_rng(1))[0], latents)
    many = windows(latents[:1].expand(400, -1, -1, -1), faces[:1].expand(400, -1, -1), 8, np.random.default_rng(2))[1]
    around = float(many.flatten(1).sum(1).eq(9).float().mean())
    assert 1 - ELSEWHERE - 0.06 < around < 1 - ELSEWHERE + 0.12


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
