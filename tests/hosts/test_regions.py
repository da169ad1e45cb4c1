"""Regions with prompts of their own: their masks, and images that are generated with them in diffusers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.hosts.diffusers import DiffusersHost
from celeb_basis.regions import Box, Region, combined, region_mask, region_weights
from miniature.small_models.pipelines import build_pipeline, small_configs

LEFT, RIGHT, WHOLE = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1), Box(0, 0, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (96, 64)])
def test_halves_share_the_image_and_meet_softly(height: int, width: int) -> None:
    left, right = region_weights([LEFT, RIGHT], height, width)
    torch.testing.assert_close(left + right, torch.ones(height, width))
    torch.testing.assert_close(left, right.flip(1))
    assert (left[:, 0] == 1).all()
    assert (left[:, -1] == 0).all()
    assert (left.diff(dim=1) <= 0).all()


def test_a_box_fades_inside_of_the_image_and_not_at_its_edge() -> None:
    mask = region_mask(Box(0.25, 0, 0.75, 0.5), 64, 64)
    assert mask[0, 32] == 1
    assert mask[63, 32] == 0
    assert 0 < mask[32, 32] < 1
    assert 0 < mask[0, 16] < 1
    assert mask.sum().item() == pytest.approx(32 * 32, rel=0.02)


def test_overlapping_regions_share() -> None:
    weights = region_weights([WHOLE, WHOLE, LEFT], 8, 8)
    assert weights.sum(0).max() <= 1 + 1e-6
    assert weights[0, 0, 0] == pytest.approx(1 / 3)


def _range(*predictions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    together = torch.stack(predictions)[..., 3:4]
    return together.amin(0), together.amax(0)


def test_predictions_are_combined_by_their_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    shared, one, other = torch.randn(3, 2, 4, 8, 8, generator=generator)
    result = combined(shared, [one, other], region_weights([Box(0, 0, 0.25, 1), RIGHT], 8, 8))
    torch.testing.assert_close(result[..., 0], one[..., 0])
    torch.testing.assert_close(result[..., 7], other[..., 7])
    torch.testing.assert_close(result[..., 3:4], result[..., 3:4].clamp(*_range(shared, one, other)))


def pictures(model: Any, request: GenerationRequest) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(one, np.int16) for one in model.generate(request)])


REQUEST = GenerationRequest("a cat and a dog", count=2, seed=3, steps=4, guidance=3.0)


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def model(request: Any) -> Any:
    return request.getfixturevalue(f"{request.param}_host")


@pytest.mark.parametrize(("sampler", "guidance"), [("ddim", 1.0), ("ddim", 3.0), ("dpm++", 3.0), ("rbf", 1.0)])
def test_one_region_over_everything_is_its_prompt(sd1_host: Any, sampler: Any, guidance: float) -> None:
    request = replace(REQUEST, sampler=sampler, guidance=guidance)
    regional = pictures(sd1_host, replace(request, regions=[Region("two cats", WHOLE)]))
    assert np.abs(regional - pictures(sd1_host, replace(request, prompt="two cats"))).max() <= 1
    assert np.abs(regional - pictures(sd1_host, request)).max() > 3


def test_each_family_draws_its_regions(model: Any) -> None:
    regional = pictures(model, replace(REQUEST, regions=[Region("two cats", WHOLE)]))
    assert np.abs(regional - pictures(model, replace(REQUEST, prompt="two cats"))).max() <= 1


def test_an_inpainting_checkpoint_draws_its_regions() -> None:
    configs = small_configs("sd1", width=64, second_width=128, resolution=32)
    configs["unet"]["in_channels"] = 9
    model = DiffusersHost(build_pipeline("sd1", configs, seed=0))
    regional = pictures(model, replace(REQUEST, regions=[Region("two cats", WHOLE)]))
    assert np.abs(regional - pictures(model, replace(REQUEST, prompt="two cats"))).max() <= 1


def test_each_region_costs_one_evaluation_and_none_when_it_has_ended(sd1_host: Any) -> None:
    calls = []
    forward = sd1_host._unet.forward
    sd1_host._unet.forward = lambda *given, **named: calls.append(1) or forward(*given, **named)
    try:
        regions = [Region("two cats", LEFT), Region("two dogs", RIGHT)]
        for until, wanted in ((1.0, 4 * 3), (0.5, 4 + 2 * 2), (0.0, 4)):
            calls.clear()
            pictures(sd1_host, replace(REQUEST, count=1, regions=regions, regions_until=until))
            assert len(calls) == wanted
        calls.clear()
        pictures(sd1_host, replace(REQUEST, count=1))
        assert len(calls) == 4
    finally:
        del sd1_host._unet.forward


def test_nothing_of_the_regions_stays(sd1_host: Any) -> None:
    before = pictures(sd1_host, REQUEST)
    pictures(sd1_host, replace(REQUEST, regions=[Region("two cats", LEFT)]))
    assert (pictures(sd1_host, REQUEST) == before).all()
    assert not sd1_host._unet._forward_hooks


def test_a_side_follows_its_own_prompt(sd1_host: Any) -> None:
    request = replace(REQUEST, count=1, steps=1)
    both = pictures(sd1_host, replace(request, regions=[Region("two cats", LEFT), Region("two dogs", RIGHT)]))
    cats, dogs = (pictures(sd1_host, replace(request, prompt=one)) for one in ("two cats", "two dogs"))
    columns = slice(0, 8), slice(-8, None)
    for side, own, other in ((columns[0], cats, dogs), (columns[1], dogs, cats)):
        nearer, farther = (np.abs(both[:, :, side] - one[:, :, side]).mean() for one in (own, other))
        assert nearer < farther
