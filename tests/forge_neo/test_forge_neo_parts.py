"""What of the adapter for Forge Neo needs no Forge Neo: recognizing it, finding its classes, and what it refuses."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from celeb_basis.errors import HostError
from celeb_basis.hosts.detect import adapter_for
from celeb_basis.hosts.forge.model import ForgeCheckpoint
from celeb_basis.hosts.forge.modules import silent_text_engines, text_engine_class
from celeb_basis.hosts.forge.tokens import ForgeTokens, ForgeTracker

NEWER, OLDER = "backend.text_processing.sd_engine", "backend.text_processing.classic_engine"


def stand_in(monkeypatch: pytest.MonkeyPatch, **contents: dict[str, Any]) -> None:
    """The package ``backend`` with these modules of ``backend.text_processing``, and its ``args`` where they are given."""
    for name in ("backend", "backend.text_processing"):
        package = types.ModuleType(name)
        package.__path__ = []
        monkeypatch.setitem(sys.modules, name, package)
    for name, content in contents.items():
        place = "backend.args" if name == "args" else f"backend.text_processing.{name}"
        module = types.ModuleType(place)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, place, module)


def test_forge_neo_is_recognized_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "backend" / "diffusion_engine").mkdir(parents=True)
    (tmp_path / "modules_forge").mkdir()
    assert adapter_for(tmp_path).name == "Forge"
    (tmp_path / "modules_forge" / "presets.py").write_text("raise RuntimeError")
    assert adapter_for(tmp_path).name == "Forge Neo"


@pytest.mark.parametrize(
    ("module", "name"), [("sd_engine", "ClipEngine"), ("classic_engine", "ClassicTextProcessingEngine")]
)
def test_the_text_engine_is_found_by_either_name(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    stand_in(monkeypatch, **{module: {name: int}})
    assert text_engine_class() is int
    assert ForgeTokens.tokenizing_class() is int


def test_a_program_with_neither_is_told_what_is_looked_for_and_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, sd_engine={"SomethingNewer": int})
    with pytest.raises(HostError) as refused:
        text_engine_class()
    told = str(refused.value)
    assert f"neither ClipEngine in {NEWER} nor ClassicTextProcessingEngine in {OLDER}" in told
    assert "Forge Neo of 2025 or 2026" in told
    assert "a newer version of this extension" in told


def test_a_module_that_misses_another_names_that_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch)
    sys.modules["backend.text_processing"].__path__ = [str(tmp_path)]
    (tmp_path / "sd_engine.py").write_text("import a_package_that_nobody_has")
    with pytest.raises(HostError, match="a_package_that_nobody_has was not found: repair Forge's own installation"):
        text_engine_class()


def test_the_next_images_parameters_name_no_embedding_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since 2026 they are kept in the program's own arguments, a class of that name."""

    class DynamicArguments:
        last_extra_generation_params: ClassVar[dict[str, str]] = {"TI": "from the page"}

    stand_in(monkeypatch, sd_engine={"ClipEngine": int}, args={"dynamic_args": DynamicArguments})
    with silent_text_engines():
        DynamicArguments.last_extra_generation_params["TI"] = "of a run"
    assert DynamicArguments.last_extra_generation_params == {"TI": "from the page"}


def test_nor_where_they_are_kept_beside_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(
        monkeypatch,
        classic_engine={"ClassicTextProcessingEngine": int, "last_extra_generation_params": {"TI": "from the page"}},
        args={"dynamic_args": {"embedding_dir": None}},
    )
    engines = sys.modules[OLDER]
    with silent_text_engines():
        engines.last_extra_generation_params["TI"] = "of a run"
    assert engines.last_extra_generation_params == {"TI": "from the page"}


class Engine:
    """A checkpoint as Forge Neo holds it: without ``is_sd2`` and ``is_sd3``."""

    is_sd1 = is_sdxl = False
    sd_checkpoint_info = types.SimpleNamespace(name_for_extra="a-model", filename="a-model.safetensors", sha256="")

    def __init__(self, **changes: Any) -> None:
        predictor = types.SimpleNamespace(prediction_type="epsilon", alphas_cumprod=torch.linspace(0.99, 0.01, 1000))
        unet = types.SimpleNamespace(in_channels=4, storage_dtype=torch.float16)
        self.model_config = types.SimpleNamespace()
        vars(self).update(changes)
        for name in ("prediction_type", "alphas_cumprod"):
            if name in changes:
                setattr(predictor, name, changes[name])
        for name in ("in_channels", "storage_dtype"):
            if name in changes:
                setattr(unet, name, changes[name])
        self.forge_objects_original = types.SimpleNamespace(
            unet=types.SimpleNamespace(model=types.SimpleNamespace(diffusion_model=unet, predictor=predictor)),
            vae=types.SimpleNamespace(latent_channels=4, downscale_ratio=8),
        )


class ZImage(Engine):
    pass


class Flux(Engine):
    pass


class QwenImage(Engine):
    pass


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, classic_engine={"ClassicTextProcessingEngine": int})


@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize(("kind", "called"), [(ZImage, "Z-Image"), (Flux, "Flux"), (QwenImage, "Qwen-Image")])
def test_other_families_are_refused_by_name(kind: type[Engine], called: str) -> None:
    with pytest.raises(HostError, match=f"^a-model is a checkpoint of {called}: choose"):
        ForgeCheckpoint(kind()).check()


@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prediction_type": "const", "alphas_cumprod": None}, "a-model is a rectified-flow checkpoint"),
        ({"model_config": types.SimpleNamespace(nunchaku=True)}, "a-model is quantized by Nunchaku"),
        ({"storage_dtype": torch.int8}, "a-model is held in torch.int8, which lets no gradients through"),
        ({"storage_dtype": "nf4"}, "a-model is held in nf4"),
    ],
)
def test_what_cannot_be_trained_through_is_refused_in_a_sentence(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(HostError, match=f"^{told}"):
        ForgeCheckpoint(Engine(is_sd1=True, **changes)).check()


@pytest.mark.usefixtures("engines")
def test_an_sd1_without_the_flag_of_sd2_is_an_sd1() -> None:
    checkpoint = ForgeCheckpoint(Engine(is_sd1=True))
    checkpoint.check()
    assert checkpoint.family == "sd1"
    assert ForgeTracker().describe(checkpoint, "").family == "sd1"
    assert ForgeTracker().describe(ForgeCheckpoint(ZImage()), "").family == "zimage"
