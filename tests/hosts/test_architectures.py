"""The shipped configs against the published models' numbers of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from celeb_basis.hosts.diffusers.configs import component_configs

PUBLISHED = {
    ("sd1", "unet"): 859_520_964,
    ("sd1", "vae"): 83_653_863,
    ("sd1", "text_encoder"): 123_060_480,
    ("sd2", "unet"): 865_910_724,
    ("sd2", "text_encoder"): 340_387_840,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "text_encoder"): 123_060_480,
    ("sdxl", "text_encoder_2"): 694_659_840,
}


@pytest.mark.parametrize(("family", "component"), PUBLISHED)
def test_published_number_of_parameters(family: Any, component: str) -> None:
    import diffusers
    import transformers

    config = component_configs(family)[component]
    with torch.device("meta"):
        if component == "unet":
            model = diffusers.UNet2DConditionModel.from_config(config)
        elif component == "vae":
            model = diffusers.AutoencoderKL.from_config(config)
        else:
            kind = transformers.CLIPTextModelWithProjection if component.endswith("2") else transformers.CLIPTextModel
            model = kind(transformers.CLIPTextConfig(**config))
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[family, component]


@pytest.mark.slow
def test_a_full_size_model_can_be_made() -> None:
    from miniature.small_models.pipelines import make_pipeline

    pipeline = make_pipeline("sd1", full_size=True)
    assert pipeline.unet.num_parameters() == PUBLISHED["sd1", "unet"]
    assert pipeline.unet.conv_out.weight.std() > 0
