"""Parts of SD.Next's adapter on a pipeline of diffusers and stand-ins of SD.Next's modules."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from support.forks import stand_in
from support.models import make_host
from support.webui_people import add_people

from celeb_basis.errors import HostError
from celeb_basis.hosts.sdnext.host import SDNextHost
from celeb_basis.hosts.sdnext.tokens import SDNextTokens, SDNextTracker, add_token, token_of
from celeb_basis.identities.identity import Identity
from celeb_basis.prompts.registry import Registry


def read_networks(prompt: str) -> tuple[str, dict[str, Any]]:
    return re.sub(r"<(\w+):([^>]+)>", "", prompt), {}


def set_prompt(*given: Any) -> Any:
    return given[7:]


@pytest.fixture
def pipeline() -> Any:
    loaded = make_host("sd1")._pipeline
    loaded.sd_checkpoint_info = types.SimpleNamespace(name="Diffusers/small", sha256=None, filename="", path=None)
    return loaded


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, pipeline: Any) -> Any:
    """SD.Next's modules as far as the adapter asks them, around ``pipeline``."""
    return stand_in(
        monkeypatch,
        modeldata={"model_data": types.SimpleNamespace(sd_model=pipeline)},
        devices={"device": torch.device("cpu")},
        sd_models={},
        lora={},
        lora__lora_common={"previously_loaded_networks": []},
        extra_networks={"parse_prompt": read_networks, "extra_network_registry": {"lora": None}},
        processing_args={"set_prompt": set_prompt},
        shared={"opts": types.SimpleNamespace(prompt_attention="native")},
        textual_inversion={"get_text_encoders": lambda: ([pipeline.text_encoder], [pipeline.tokenizer], [32])},
    )


@pytest.mark.usefixtures("modules")
def test_the_noise_schedule_is_the_checkpoints_whichever_sampler_is_chosen(pipeline: Any) -> None:
    own = SDNextHost().schedule
    pipeline.default_scheduler = pipeline.scheduler
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, beta_end=0.5)
    assert torch.equal(SDNextHost().schedule.alphas_cumprod, own.alphas_cumprod)


@pytest.mark.usefixtures("modules")
def test_offloading_rests_while_learning_and_is_set_up_again(pipeline: Any, modules: Any) -> None:
    said: list[str] = []
    pipeline.has_accelerate = True
    vars(modules["sd_models"]).update(
        disable_offload=lambda _: said.append("off"),
        set_diffuser_offload=lambda _, force=False: said.append("on" if force else "nothing done"),
    )
    with SDNextHost().prepare_for_training("fp32"):
        said.append("learning")
    assert said == ["off", "learning", "on"]


def test_the_device_is_sdnexts_own_where_the_denoiser_is_offloaded(
    modules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SDNextHost()
    assert model.device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for given, meant in (("cuda", "cuda:1"), ("cuda:0", "cuda:0")):
        modules["devices"].device = torch.device(given)
        assert model.device == torch.device(meant)


def test_another_checkpoint_in_the_meantime_is_explained(modules: Any) -> None:
    model = SDNextHost()
    modules["modeldata"].model_data.sd_model = None
    with pytest.raises(HostError, match="switched from small to nothing: switch back"):
        model.encode_prompts(["a dog"], {})


def test_a_lora_in_the_weights_is_explained(modules: Any) -> None:
    modules["lora__lora_common"].previously_loaded_networks = ["a LoRA"]
    with pytest.raises(HostError, match="generate one image without any, then learn"):
        SDNextHost()


def test_no_checkpoint_is_explained(modules: Any) -> None:
    modules["modeldata"].model_data.sd_model = None
    with pytest.raises(HostError, match="no checkpoint loaded: choose one"):
        SDNextHost()


def test_a_model_of_another_kind_is_explained(modules: Any) -> None:
    modules["modeldata"].model_data.sd_model = type("FluxPipeline", (), {"transformer": 1})()
    with pytest.raises(HostError, match="not a Stable Diffusion 1, 2 or XL"):
        SDNextHost()
    loaded = SDNextTracker()()
    assert loaded is not None
    with pytest.raises(HostError, match="no CLIP text encoder"):
        loaded.encoders()


@pytest.mark.usefixtures("modules")
def test_vectors_of_another_width_are_refused_in_words() -> None:
    with pytest.raises(HostError, match="No text encoder of the loaded checkpoint takes vectors of 5 numbers"):
        add_token("ada", [torch.zeros(2, 5)])


@pytest.fixture
def ada(modules: Any, tmp_path: Path) -> Identity:  # noqa: ARG001
    checkpoint = SDNextTracker()()
    assert checkpoint is not None
    (identity,) = add_people(tmp_path, ["ada"], checkpoint)
    return identity


@pytest.fixture
def tokens(ada: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ARG001
    monkeypatch.setattr("celeb_basis.hosts.sdnext.tokens.add_token", lambda *_: None)
    installed = SDNextTokens(Registry(tmp_path))
    installed.install()
    yield installed
    installed.uninstall()


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("<ada>, <Ada>!", "TOKEN, TOKEN!"),
        ("(<ada>:1.2)", "(TOKEN:1.2)"),
        ("<ada:0.8>", "(TOKEN:0.8)"),
        ("[<ada>:a dog:0.5]", "[TOKEN:a dog:0.5]"),
        ("<nobody> <lora:some:1>", "<nobody> <lora:some:1>"),
    ],
)
def test_names_are_written_as_tokens_in_every_prompt(typed: str, meant: str, modules: Any, ada: Identity) -> None:
    meant = meant.replace("TOKEN", token_of(ada.content_hash))
    given = modules["processing_args"].set_prompt(*range(7), [typed], typed, None, [typed, "a dog"])
    assert given == ([meant], meant, None, [meant, "a dog"])


@pytest.mark.usefixtures("tokens")
def test_a_weight_in_the_brackets_is_not_taken_for_a_network(modules: Any) -> None:
    assert modules["extra_networks"].parse_prompt("<ada:0.8> <lora:some:1>")[0] == "(<ada>:0.8) "


def test_uninstalling_puts_the_functions_back(tokens: Any, modules: Any) -> None:
    tokens.uninstall()
    assert modules["processing_args"].set_prompt is set_prompt
    assert modules["extra_networks"].parse_prompt is read_networks
