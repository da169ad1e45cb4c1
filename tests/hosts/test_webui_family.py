"""What the WebUI and its forks have in common, without any of them: a program of toys."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from PIL import Image

from celeb_basis.diffusion_model import GenerationRequest, LatentDistribution, NoiseSchedule
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import Encoded, FamilyHost, FamilyTextEncoder, Internals, Learning, means_and_stds

POOLED = 3


class Model:
    def __init__(self, name: str) -> None:
        self.sd_checkpoint_info = types.SimpleNamespace(filename=f"{name}.safetensors", name=name, sha256="0" * 64)


@dataclass
class HostApp:
    """What the toy program has loaded and was seen to do."""

    model: Model | None = field(default_factory=lambda: Model("first"))
    seen: list[str] = field(default_factory=list)
    meets: Callable[[], None] = lambda: None
    """What happens while it draws."""

    def loaded(self) -> Model:
        assert self.model is not None
        return self.model

    def draw(self, *_: Any) -> Image.Image | None:
        self.seen.append("draws")
        self.meets()
        return Image.new("RGB", (8, 8))

    def encode(self, _model: Any, prompts: Any, width: int, height: int) -> dict[str, torch.Tensor]:
        pooled = torch.arange(POOLED).repeat(len(prompts), 1)
        return {
            "crossattn": torch.zeros(len(prompts), 77, 4),
            "vector": torch.cat([pooled, sizes(None, len(prompts), width, height)], dim=1),
        }


def sizes(_model: Any, count: int, width: int, height: int) -> torch.Tensor:
    return torch.tensor([[width, height]]).repeat(count, 1)


class Encoder(FamilyTextEncoder):
    def token_table(self) -> torch.Tensor:
        return torch.zeros(5, 4)


@dataclass(frozen=True)
class Held(Learning):
    seen: list[str]

    def suspend(self) -> None:
        self.seen.append("let go")

    def resume(self, model: Any) -> None:
        self.seen.append(f"held {model.sd_checkpoint_info.name}")


@pytest.fixture
def program() -> HostApp:
    return HostApp()


@pytest.fixture
def model(program: HostApp) -> FamilyHost[Held]:
    class DiffusionModel(FamilyHost[Held]):
        internals = Internals(
            program="Toy",
            loaded_model_or_none=lambda: program.model,
            loaded_model=program.loaded,
            check_model=lambda _model: None,
            checkpoint_name=lambda model: str(model.sd_checkpoint_info.name),
            family_of=lambda _model: "sdxl",
            resolution_of=lambda _model: 64,
            noise_schedule=lambda _model: NoiseSchedule(torch.linspace(0.9, 0.1, 10), "epsilon"),
            unet_of=lambda _model: types.SimpleNamespace(channel_mult=(1, 2, 4)),
            text_part=lambda _model: None,
            weights_dtype=lambda _model: torch.float32,
            keeps_scores=lambda _device: True,
            vae_scale_factor_of=lambda _model: 8,
            encode_images=lambda _model, pictures: LatentDistribution(pictures, pictures),
            send_vae_away=lambda _model: None,
            embedders=lambda _model: ["l", "g"],
            text_encoder=Encoder,
            words_in_place=lambda _model, _words, _names: nullcontext(str),
            encode=program.encode,
            size_vector=sizes,
            draw_one=program.draw,
        )

        @property
        def device(self) -> torch.device:
            return torch.device("cpu")

        @contextmanager
        def prepare_for_training(self, *_: Any, **__: Any) -> Iterator[None]:
            self._learning = Held(weakref.ref(self._model), program.seen)
            yield
            self._learning = None

        def _encoding(self) -> AbstractContextManager[Any]:
            return nullcontext()

        def _denoised(self, latents: torch.Tensor, _timesteps: torch.Tensor, conditioning: Encoded) -> torch.Tensor:
            vector = self._vector(conditioning, latents)
            assert vector is not None
            return vector

    return DiffusionModel()


USES: dict[str, Callable[[Any], Any]] = {
    "facts": lambda model: model.dtype,
    "pictures": lambda model: model.encode_images(torch.zeros(1, 3, 8, 8)),
    "prompts": lambda model: model.encode_prompts(["a photo"], {}),
    "drawing": lambda model: list(model.generate(GenerationRequest("a photo", steps=2))),
}


@pytest.mark.parametrize("use", USES)
def test_another_checkpoint_is_never_used_unnoticed(use: str, model: FamilyHost[Held], program: HostApp) -> None:
    USES[use](model)
    program.model = Model("second")
    with pytest.raises(HostError, match=r"^Toy has switched from first to second: switch back, or start anew"):
        USES[use](model)
    assert program.seen.count("draws") == (use == "drawing")


def test_the_same_file_loaded_anew_is_another_model_while_learning(model: FamilyHost[Held], program: HostApp) -> None:
    first = program.model
    with model.prepare_for_training("fp32"):
        assert model.dtype == torch.float32
        program.model = Model("first")
        with pytest.raises(HostError, match="has switched"):
            _ = model.dtype
    assert model.dtype == torch.float32
    assert first is not program.model


def test_the_size_of_the_latents_takes_the_place_of_the_checkpoints_own(model: FamilyHost[Held]) -> None:
    encoded = model.encode_prompts(["a photo", "a dog"], {})
    assert encoded.vector[:, POOLED:].tolist() == [[64, 64], [64, 64]]
    told = model.predict(torch.zeros(2, 4, 4, 6), torch.tensor([1, 2]), encoded)
    assert told.tolist() == [[0, 1, 2, 48, 32]] * 2


def test_previews_are_drawn_between_letting_go_and_holding_again(model: FamilyHost[Held], program: HostApp) -> None:
    asked = GenerationRequest("a photo", count=2, steps=2)
    assert len(list(model.generate(asked))) == 2
    assert program.seen == ["draws", "draws"], "nothing is held outside of learning"
    program.seen.clear()
    with model.prepare_for_training("fp32"):
        assert len(list(model.generate(asked))) == 2
    assert program.seen == ["let go", "draws", "held first"] * 2


@pytest.mark.parametrize("loaded_then", [None, Model("second")])
def test_after_a_failed_preview_only_the_same_model_is_held_again(
    loaded_then: Model | None, model: FamilyHost[Held], program: HostApp
) -> None:
    def fail() -> None:
        raise ValueError("no memory")

    def fail_and_switch() -> None:
        program.model = loaded_then
        fail()

    first = program.model
    with model.prepare_for_training("fp32"):
        for meets, seen in ((fail, ["let go", "draws", "held first"]), (fail_and_switch, ["let go", "draws"])):
            program.seen.clear()
            program.meets = meets
            with pytest.raises(ValueError, match="no memory"):
                list(model.generate(GenerationRequest("a photo", steps=2)))
            assert program.seen == seen
    assert program.model is loaded_then is not first


def test_only_a_picture_that_overflows_is_encoded_in_float32() -> None:
    def outputs(picture: torch.Tensor) -> torch.Tensor:
        return torch.cat([picture, torch.full_like(picture, 2.0).log() * 2], dim=1)

    def overflowing(picture: torch.Tensor) -> torch.Tensor:
        return outputs(picture * 1000 if picture.max() < 500 else picture * torch.inf)

    pictures = torch.stack([torch.full((3, 2, 2), 3.0), torch.full((3, 2, 2), 700.0)])
    means, stds = means_and_stds(pictures, overflowing, outputs)
    assert means[:, 0, 0, 0].tolist() == [3000.0, 700.0]
    torch.testing.assert_close(stds, torch.full((2, 3, 2, 2), 2.0))
