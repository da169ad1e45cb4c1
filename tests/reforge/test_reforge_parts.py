"""Parts of reForge's adapter, without reForge: which program it is, schedules, and weights made in inference mode."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from support.forks import stand_in

from celeb_basis.errors import HostError
from celeb_basis.hosts.detect import adapter_for
from celeb_basis.hosts.reforge.host import move_to_device
from celeb_basis.hosts.reforge.model import ReForgeCheckpoint
from celeb_basis.hosts.torch_utils import clone_inference_tensors


class ModelSamplingDiscrete:
    def __init__(self, alphas: torch.Tensor) -> None:
        self.sigmas = ((1 - alphas) / alphas).sqrt()


class EPS:
    pass


class V_PREDICTION(EPS):  # noqa: N801 reForge's own name
    pass


class EDM(V_PREDICTION):
    pass


def model_with(kind: type, alphas: torch.Tensor) -> Any:
    sampling = type("ModelSampling", (ModelSamplingDiscrete, kind), {})(alphas)
    unet = types.SimpleNamespace(model=types.SimpleNamespace(model_sampling=sampling))
    info = types.SimpleNamespace(name_for_extra="a-model")
    originals = types.SimpleNamespace(unet=unet)
    return types.SimpleNamespace(forge_objects_original=originals, sd_checkpoint_info=info, ztsnr=False)


@pytest.fixture
def alphas() -> torch.Tensor:
    return torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000), dim=0)


@pytest.fixture
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, shared={"opts": types.SimpleNamespace(sd_noise_schedule="Default")})


def test_reforge_and_sdnext_are_recognized_by_their_folders(tmp_path: Path) -> None:
    for name, marks in {
        "reForge": ["modules_forge/", "ldm_patched/"],
        "SD.Next": ["installer.py", "modules/processing_diffusers.py"],
        "AUTOMATIC1111's WebUI": ["webui.py"],
    }.items():
        folder = tmp_path / name
        for mark in marks:
            (folder / mark).parent.mkdir(parents=True, exist_ok=True)
            if mark.endswith("/"):
                (folder / mark).mkdir()
            else:
                (folder / mark).touch()
        assert adapter_for(folder).name == name


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize(("kind", "prediction"), [(EPS, "epsilon"), (V_PREDICTION, "v_prediction")])
def test_the_schedule_is_read_from_sigmas(kind: type, prediction: str, alphas: torch.Tensor) -> None:
    schedule = ReForgeCheckpoint(model_with(kind, alphas)).schedule
    assert schedule.prediction == prediction
    torch.testing.assert_close(schedule.alphas_cumprod, alphas)


@pytest.mark.usefixtures("_settings")
def test_a_checkpoint_that_predicts_something_else_is_refused_in_words(alphas: torch.Tensor) -> None:
    with pytest.raises(HostError, match=r"a-model predicts neither noise nor velocity: choose"):
        _ = ReForgeCheckpoint(model_with(EDM, alphas)).schedule


def test_weights_made_in_inference_mode_let_gradients_pass_afterwards() -> None:
    with torch.inference_mode():
        layer = torch.nn.Linear(3, 3)
        shared = torch.nn.Sequential(layer, layer)
    values = layer.weight.clone()
    given = torch.ones(1, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="nference"):
        shared(given).sum().backward()
    clone_inference_tensors([shared])
    shared(given).sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(layer.weight.detach(), values)
    assert shared[0].weight is shared[1].weight


def test_a_checkpoint_without_room_on_the_device_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    management = types.ModuleType("ldm_patched.modules.model_management")
    vars(management)["load_models_gpu"] = loaded.extend
    for name in ("ldm_patched", "ldm_patched.modules"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "ldm_patched.modules.model_management", management)
    whole = torch.nn.Linear(1, 1)
    part: Any = torch.nn.Linear(1, 1)
    part.model_lowvram = True
    unet, text = types.SimpleNamespace(model=part), types.SimpleNamespace(model=whole)
    originals = types.SimpleNamespace(unet=unet, clip=types.SimpleNamespace(patcher=text))
    with pytest.raises(HostError, match="room for a part of the checkpoint only: close"):
        move_to_device(ReForgeCheckpoint(types.SimpleNamespace(forge_objects_original=originals)))
    assert loaded == [unet, text]
