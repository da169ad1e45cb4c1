"""What the WebUI and its forks have in common, without any of them: a program of toys."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

from celeb_basis.diffusion_model import GenerationRequest, LatentDistribution, NoiseSchedule
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import LoadedCheckpoint
from celeb_basis.hosts.a1111.host import EncodedPrompts, FamilyHost, TrainingMode
from celeb_basis.hosts.torch_utils import encode_each

POOLED = 3


class Model:
    def __init__(self, name: str) -> None:
        self.sd_checkpoint_info = types.SimpleNamespace(filename=f"{name}.safetensors", name=name, sha256="0" * 64)


@dataclass
class Program:
    """What the toy program has loaded and was seen to do."""

    model: Model | None = field(default_factory=lambda: Model("first"))
    seen: list[str] = field(default_factory=list)
    meets: Callable[[], None] = lambda: None
    """What happens while it generates."""


class Checkpoint(LoadedCheckpoint):
    """The toy program's checkpoint; a test has one class of it, with its program."""

    program = "Toy"
    toy: ClassVar[Program]
    family = "sdxl"
    resolution = 64
    predicts_velocity = False
    schedule = NoiseSchedule(torch.linspace(0.9, 0.1, 10), "epsilon")
    unet = types.SimpleNamespace(channel_mult=(1, 2, 4))
    text_model = None
    dtype = torch.float32
    vae_scale_factor = 8
    is_inpainting = False
    text_encoders: ClassVar[list[Any]] = ["l", "g"]
    embedding_keys: ClassVar[list[str]] = ["l", "g"]
    embedding_databases = ()
    text_device = torch.device("cpu")

    @classmethod
    def live_model(cls) -> Any:
        return cls.toy.model

    def check(self) -> None:
        pass

    def keeps_attention_scores(self, _device: torch.device) -> bool:
        return True

    def encode_one_by_one(self, images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        for image in images:
            yield LatentDistribution(image, image)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def offload_vae(self) -> None:
        pass

    def token_embedding(self, _text_encoder: Any) -> Any:
        return types.SimpleNamespace(wrapped=types.SimpleNamespace(weight=torch.zeros(5, 4)))

    def text_encoder_module(self, _text_encoder: Any) -> torch.nn.Module:
        return torch.nn.Linear(2, 3)

    def encode_prompts(self, prompts: Any, width: int, height: int) -> dict[str, torch.Tensor]:
        pooled = torch.arange(POOLED).repeat(len(prompts), 1)
        sizes = self.size_embedding(len(prompts), width, height)
        return {"crossattn": torch.zeros(len(prompts), 77, 4), "vector": torch.cat([pooled, sizes], dim=1)}

    def size_embedding(self, count: int, width: int, height: int) -> torch.Tensor:
        return torch.tensor([[width, height]]).repeat(count, 1)

    def generate_image(self, *_: Any) -> Image.Image | None:
        self.toy.seen.append("draws")
        self.toy.meets()
        return Image.new("RGB", (8, 8))


@dataclass(frozen=True)
class Mode(TrainingMode):
    seen: list[str]

    def suspend(self) -> None:
        self.seen.append("suspended")

    def resume(self, checkpoint: Any) -> None:
        self.seen.append(f"resumed {checkpoint.name}")


Host = FamilyHost[Checkpoint, Mode]


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def model(program: Program) -> Host:
    class OfThisProgram(Checkpoint):
        toy = program

    class Toy(FamilyHost[Checkpoint, Mode]):
        checkpoint_type = OfThisProgram

        @property
        def device(self) -> torch.device:
            return torch.device("cpu")

        @contextmanager
        def prepare_for_training(self, *_: Any, **__: Any) -> Iterator[None]:
            self._training = Mode(weakref.ref(self._checkpoint.model), program.seen)
            yield
            self._training = None

        def _encoding(self) -> AbstractContextManager[Any]:
            return nullcontext()

        def _denoised(
            self, latents: torch.Tensor, _steps: torch.Tensor, conditioning: EncodedPrompts, *_: torch.Tensor | None
        ) -> torch.Tensor:
            vector = self._vector(conditioning, latents)
            assert vector is not None
            return vector

    return Toy()


USES: dict[str, Callable[[Any], Any]] = {
    "facts": lambda model: model.dtype,
    "pictures": lambda model: model.encode_images(torch.zeros(1, 3, 8, 8)),
    "prompts": lambda model: model.encode_prompts(["a photo"], {}),
    "drawing": lambda model: list(model.generate(GenerationRequest("a photo", steps=2))),
}


@pytest.mark.parametrize("use", USES)
def test_another_checkpoint_is_never_used_unnoticed(use: str, model: Host, program: Program) -> None:
    USES[use](model)
    program.model = Model("second")
    with pytest.raises(HostError, match=r"^Toy has switched from first to second: switch back, or start again"):
        USES[use](model)
    assert program.seen.count("draws") == (use == "drawing")


def test_the_same_file_loaded_again_is_another_model_while_learning(model: Host, program: Program) -> None:
    first = program.model
    with model.prepare_for_training("fp32"):
        assert model.dtype == torch.float32
        program.model = Model("first")
        with pytest.raises(HostError, match="has switched"):
            _ = model.dtype
    assert model.dtype == torch.float32
    assert first is not program.model


def test_the_size_of_the_latents_takes_the_place_of_the_checkpoints_own(model: Host) -> None:
    encoded = model.encode_prompts(["a photo", "a dog"], {})
    assert encoded.vector[:, POOLED:].tolist() == [[64, 64], [64, 64]]
    given = model.predict(torch.zeros(2, 4, 4, 6), torch.tensor([1, 2]), encoded)
    assert given.tolist() == [[0, 1, 2, 48, 32]] * 2


def test_previews_are_generated_between_suspend_and_resume(model: Host, program: Program) -> None:
    asked = GenerationRequest("a photo", count=2, steps=2)
    assert len(list(model.generate(asked))) == 2
    assert program.seen == ["draws", "draws"], "nothing is suspended outside of training"
    program.seen.clear()
    with model.prepare_for_training("fp32"):
        assert len(list(model.generate(asked))) == 2
    assert program.seen == ["suspended", "draws", "resumed first"] * 2


@pytest.mark.parametrize("loaded_then", [None, Model("second")])
def test_after_a_failed_preview_only_the_same_model_is_resumed(
    loaded_then: Model | None, model: Host, program: Program
) -> None:
    def fail() -> None:
        raise ValueError("no memory")

    def fail_and_switch() -> None:
        program.model = loaded_then
        fail()

    first = program.model
    with model.prepare_for_training("fp32"):
        for meets, seen in ((fail, ["suspended", "draws", "resumed first"]), (fail_and_switch, ["suspended", "draws"])):
            program.seen.clear()
            program.meets = meets
            with pytest.raises(ValueError, match="no memory"):
                list(model.generate(GenerationRequest("a photo", steps=2)))
            assert program.seen == seen
    assert program.model is loaded_then is not first


def test_from_the_first_picture_that_overflows_on_all_are_encoded_in_float32() -> None:
    calls: list[bool] = []
    entered: list[str] = []

    @contextmanager
    def in_float32() -> Iterator[None]:
        entered.append("wide")
        yield
        entered.append("narrow")

    def encode(picture: torch.Tensor, wide: bool) -> torch.Tensor:
        calls.append(wide)
        mean = picture if wide else picture * (1000 if picture.max() < 500 else torch.inf)
        return torch.cat([mean, torch.full_like(picture, 2.0).log() * 2], dim=1)

    pictures = [torch.full((1, 3, 2, 2), value) for value in (3.0, 700.0, 4.0, 800.0)]
    found = list(encode_each(pictures, encode, in_float32))
    assert [float(mean[0, 0, 0, 0]) for mean, _ in found] == [3000.0, 700.0, 4.0, 800.0]
    assert calls == [False, False, True, True, True]
    assert entered == ["wide", "narrow"], "the weights are made wider once"
    torch.testing.assert_close(torch.cat([std for _, std in found]), torch.full((4, 3, 2, 2), 2.0))
