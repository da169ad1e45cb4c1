"""The ways to keep people to their places that the benchmark compares, on a small model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.places.__main__ import ELSE, NOBODY, OTHER, OWN, _figures
from benchmarks.places.ways import WAYS, RegionalModel, Way
from celeb_basis.prompts.places import Places, parse_places

PROMPT = "a photo of Ada and Ben"


def places(text: str) -> dict[str, Places]:
    found = parse_places(text)
    assert found is not None
    return {PROMPT: found}


@pytest.fixture
def predict(sd1_host: Any) -> Any:
    """A prediction for a prompt, with places for :data:`PROMPT`."""

    @torch.no_grad()
    def of(prompt: str, way: Way, text: str = "Ada: left; Ben: right") -> torch.Tensor:
        side = 64 // sd1_host.info.vae_scale_factor
        model = RegionalModel(sd1_host, sd1_host._unet, places(text), way, (side, side))
        latents = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
        return model.predict(latents, torch.tensor([500]), model.encode_prompts([prompt], {}))

    return of


def test_without_places_the_model_is_itself(predict: Any) -> None:
    plain = predict(PROMPT, "without")
    for way in WAYS:
        assert torch.equal(predict("a photo of Ada", way), predict("a photo of Ada", "without"))
    assert torch.equal(predict(PROMPT, "without"), plain)


def test_predictions_are_each_persons_at_the_edges(predict: Any) -> None:
    ada, ben = (predict(f"a photo of {name} and {name}", "without") for name in ("Ada", "Ben"))
    both = predict(PROMPT, "predictions")
    torch.testing.assert_close(both[..., 0], ada[..., 0])
    torch.testing.assert_close(both[..., -1], ben[..., -1])


def test_attention_to_one_region_over_everything_is_its_prompt(predict: Any) -> None:
    alone = predict(PROMPT, "attention", "Ada: 0 0 1 1")
    torch.testing.assert_close(alone, predict("a photo of Ada and Ben", "without"))
    both = predict(PROMPT, "attention")
    assert not torch.allclose(both, predict(PROMPT, "without"), atol=1e-6)
    exchanged = predict(PROMPT, "attention", "Ada: right; Ben: left")
    assert not torch.allclose(both, exchanged, atol=1e-6)


def test_shares_are_of_sides_and_of_images() -> None:
    seen = np.array([[OWN, OWN], [OWN, OTHER], [NOBODY, ELSE], [OWN, ELSE]])
    figures = {label: value for label, (value, _, _) in _figures(seen, 2).items()}
    assert figures == {
        "two faces": 0.75,
        "each on their side": 0.5,
        "both on their sides": 0.25,
        "the other on a side": 0.125,
    }
