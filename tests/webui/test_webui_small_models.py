"""A small SD1 of any width, written for the WebUI, is the same model there as in diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.webui import need_webui

from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers import DiffusersHost
from miniature.small_models.for_webui import save_for_webui, webui_yaml
from miniature.small_models.pipelines import make_pipeline


def _pipeline(prediction: str) -> Any:
    pipeline = make_pipeline("sd1", width=192, text_layers=3, resolution=64)
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    return pipeline


def test_the_config_names_everything_that_the_original_code_builds(tmp_path: Path) -> None:
    params = webui_yaml(_pipeline("v_prediction"), tmp_path)["model"]["params"]
    assert params["parameterization"] == "v"
    assert params["cond_stage_config"]["params"]["version"] == str(tmp_path)
    assert params["unet_config"]["params"]["context_dim"] == 192
    with pytest.raises(HostError, match="SD1"):
        save_for_webui(make_pipeline("sd2", width=64), tmp_path / "other.safetensors")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_it_is_the_same_model_in_the_webui(tmp_path: Path, prediction: str) -> None:
    webui = need_webui()
    from safetensors.torch import load_file, save_file

    pipeline = _pipeline(prediction)
    save_for_webui(pipeline, tmp_path / "models" / "small.safetensors")
    generator = torch.Generator().manual_seed(5)
    given = {
        "vectors": torch.randn(2, 192, generator=generator) * 0.1,
        "latents": torch.randn(1, 4, 8, 8, generator=generator),
        "timesteps": torch.tensor([300]),
        "pictures": torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1,
    }
    save_file(given, str(tmp_path / "inputs.safetensors"))
    words = ("--file", str(tmp_path / "models" / "small.safetensors"), "--inputs", str(tmp_path / "inputs.safetensors"))
    found = webui.answer_of("support.webui_small", *words, data=tmp_path)
    assert found == {"family": "sd1", "size_multiple": 16, "prediction": prediction}
    answer = load_file(str(tmp_path / "answer.safetensors"))
    model = DiffusersHost(pipeline)
    with torch.no_grad():
        conditioning = model.encode_prompts(["a photo of <v> person"], {"<v>": [given["vectors"]]})
        predicted = model.predict(given["latents"], given["timesteps"], conditioning)
    torch.testing.assert_close(answer["states"], conditioning.states, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(answer["predicted"], predicted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(answer["mean"], model.encode_images(given["pictures"]).mean, rtol=1e-3, atol=1e-3)
