"""What the WebUI's adapter does on a graphics card or with 8-bit weights, with stand-ins for the WebUI's modules."""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from support.forks import stand_in

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.host import _A1111TrainingMode
from celeb_basis.hosts.a1111.model import A1111Checkpoint
from celeb_basis.hosts.a1111.model_patches import (
    HOST_CONTEXTS,
    ModelPatches,
    gradient_checkpointing,
    in_precision,
)
from celeb_basis.hosts.torch_utils import ChannelsLast

CARD = torch.device("cuda")


class Part(torch.nn.Linear):
    """Remembers where it is sent instead of going there."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.place = "cpu"

    def to(self, device: Any) -> Any:  # type: ignore[override]
        self.place = str(device)
        return self


class Model(torch.nn.Module):
    is_sdxl = is_sd2 = lowvram = False
    sd_checkpoint_info = types.SimpleNamespace(title="a model")

    def __init__(self, unet: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.model: Any = torch.nn.Module() if unet is not None else Part()
        self.model.register_module("diffusion_model", unet)
        self.cond_stage_model, self.first_stage_model = Part(), Part()


class Nothing:
    """In the place of what is switched off: no test looks at it."""

    def disable(self) -> None:
        pass


@pytest.mark.parametrize("medvram", [False, True])
def test_a_preview_finds_the_vae_on_the_device(medvram: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = {"device": CARD, "cpu": torch.device("cpu"), "torch_gc": lambda: None}
    modules = stand_in(monkeypatch, devices=devices, lowvram={"module_in_gpu": None})
    model: Any = Model()
    model.lowvram = medvram
    nothing: Any = Nothing()
    mode = _A1111TrainingMode(weakref.ref(model), nothing, HOST_CONTEXTS, ChannelsLast([]))
    for _ in range(2):
        mode.suspend()
        assert model.first_stage_model.place == ("cpu" if medvram else "cuda"), "with --medvram the WebUI brings it"
        if medvram:
            model.first_stage_model.place, modules["lowvram"].module_in_gpu = "cuda", model.first_stage_model
        mode.resume(A1111Checkpoint(model))
        assert model.first_stage_model.place == "cpu"
        assert model.model.place == model.cond_stage_model.place == "cuda"
        assert modules["lowvram"].module_in_gpu is None


def test_8_bit_weights_that_were_widened_do_not_make_the_webui_load_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(torch.nn.Linear(2, 2).to(torch.float8_e4m3fn))
    loaded_again: list[bool] = []

    def process_images(_p: Any) -> Any:
        loaded_again.append(modules["sd_models"].check_fp8(model) != modules["devices"].fp8)
        return types.SimpleNamespace(images=[])

    def check_fp8(_model: Any) -> bool:
        return True

    progress = dict.fromkeys(("job_no", "job_count", "sampling_step", "sampling_steps", "textinfo", "current_latent"))
    modules = stand_in(
        monkeypatch,
        devices={"device": torch.device("cpu"), "fp8": True},
        sd_models={"check_fp8": check_fp8},
        shared={
            "sd_model": model,
            "opts": types.SimpleNamespace(data={}),
            "cmd_opts": types.SimpleNamespace(),
            "state": types.SimpleNamespace(**progress),
        },
        processing={
            "process_images": process_images,
            "StableDiffusionProcessingTxt2Img": lambda **_: types.SimpleNamespace(close=lambda: None),
        },
    )
    checkpoint = A1111Checkpoint(model)
    with in_precision(checkpoint, "fp32"):
        assert model.model.diffusion_model.weight.dtype == torch.float32
        assert checkpoint.generate_image(GenerationRequest("a hat", steps=1), ("a hat", ""), 0, (64, 64)) is None
    assert loaded_again == [False]
    assert modules["sd_models"].check_fp8 is check_fp8


def test_a_precision_that_the_device_has_no_autocast_for_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: str, **_options: Any) -> None:
        raise RuntimeError(f"User specified an unsupported autocast device_type '{kind}'")

    stand_in(monkeypatch, devices={"device": torch.device("mps")})
    monkeypatch.setattr(torch, "autocast", refuse)
    checkpoint = A1111Checkpoint(Model(torch.nn.Linear(2, 2)))
    with pytest.raises(HostError, match="set precision to fp32"), in_precision(checkpoint, "fp16"):
        pass


class ResBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 4, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.inner(x).tanh()).tanh()


@contextmanager
def manual_cast() -> Iterator[None]:
    """As the WebUI does it on some cards and on Apple's: torch's own layers cast what they are given."""
    original = torch.nn.Linear.forward
    if original.__name__ == "cast":  # once is enough
        yield
        return

    def cast(self: torch.nn.Linear, input: torch.Tensor) -> torch.Tensor:
        return original(self, input.to(self.weight.dtype))

    torch.nn.Linear.forward = cast  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Linear.forward = original  # type: ignore[method-assign]


@pytest.mark.parametrize("upcast_sampling", [False, True])
def test_checkpointed_blocks_compute_again_as_they_did(upcast_sampling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``--upcast-sampling`` only what the WebUI does around the denoiser itself casts."""
    devices = {"unet_needs_upcast": upcast_sampling, "autocast": manual_cast, "without_autocast": nullcontext}
    stand_in(monkeypatch, devices=devices)
    torch.manual_seed(0)
    block = ResBlock()
    x = torch.randn(3, 4, requires_grad=True)
    with manual_cast():
        output = block(x).square().sum()
    (expected,) = torch.autograd.grad(output, x)
    with gradient_checkpointing(A1111Checkpoint(Model(block)), True, HOST_CONTEXTS.blocks):
        with HOST_CONTEXTS.denoiser(), manual_cast():
            output = block(x).square().sum()
        (found,) = torch.autograd.grad(output, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_hypertile_of_the_last_picture_rests_while_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(
        monkeypatch,
        shared={"loaded_hypernetworks": []},
        sd_hijack={"model_hijack": types.SimpleNamespace(circular_enabled=False, apply_circular=lambda _: None)},
        sd_unet={"current_unet_option": None, "apply_unet": lambda _: None},
        sd_models={"apply_token_merging": lambda *_: None},
        extra_networks={"extra_network_registry": {}},
    )
    model: Any = Model(torch.nn.Linear(2, 2))
    tiled = {
        part: types.SimpleNamespace(enabled=True) for part in (model.model.diffusion_model, model.first_stage_model)
    }
    tiled[model.cond_stage_model] = types.SimpleNamespace(enabled=False)
    for part, kept in tiled.items():
        setattr(part, "__webui_hypertile_params", kept)
    patches = ModelPatches(A1111Checkpoint(model))
    patches.disable()
    assert [kept.enabled for kept in tiled.values()] == [False] * 3
    patches.restore()
    assert [kept.enabled for kept in tiled.values()] == [True, True, False]


@pytest.mark.parametrize(
    ("chosen", "on_a_card", "elsewhere"),
    [
        ("xformers", False, False),
        ("sdp", False, True),
        ("sdp-no-mem", False, True),
        ("sub-quadratic", True, True),
        ("Doggettx", True, True),
        (None, True, True),
    ],
)
def test_which_attention_keeps_its_scores(
    chosen: str | None, on_a_card: bool, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, sd_hijack={"current_optimizer": types.SimpleNamespace(name=chosen)})
    checkpoint = A1111Checkpoint(None)
    assert checkpoint.keeps_attention_scores(CARD) is on_a_card
    for other in ("cpu", "mps"):
        assert checkpoint.keeps_attention_scores(torch.device(other)) is elsewhere
