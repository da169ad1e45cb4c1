"""Wrapping the host's functions, on stand-ins of its modules; what it amounts to is tried in a real WebUI."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from support.installed_tokens import installed_for

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111 import tokens as tokens_host
from celeb_basis.hosts.a1111.tokens import CheckpointTracker
from celeb_basis.prompts.registry import Registry


class Base:
    def tokenize_line(self, line: str) -> tuple[list[Any], int]:
        return [], len(line)


class Wrapper(Base):
    pass


class Processing:
    def cached_params(self, required_prompts: list[str], *_: Any) -> tuple[Any, ...]:
        return (tuple(required_prompts),)


def schedules_of(prompts: list[str], _steps: int) -> list[list[list[Any]]]:
    """Each prompt twice, until its first step and until as many as it has characters: names must come back as they were."""
    return [[[1, prompt], [len(prompt), prompt.lower()]] for prompt in prompts]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The modules of a host, as far as they are wrapped."""
    contents: dict[str, dict[str, Any]] = {
        "": {},
        "sd_hijack_clip": {"FrozenCLIPEmbedderWithCustomWordsBase": Wrapper},
        "sd_hijack_clip_old": {"process_text_old": lambda _encoder, texts: texts},
        "extra_networks": {
            "parse_prompt": lambda prompt: (re.sub(r"<(?!lora)(\w+):([^>]+)>", "", prompt), {}),
            "extra_network_registry": {},
            "extra_network_aliases": {},
        },
        "prompt_parser": {"get_learned_conditioning_prompt_schedules": schedules_of},
        "processing": {"StableDiffusionProcessing": Processing},
        "sd_models": {"model_data": types.SimpleNamespace(sd_model=None)},
        "shared": {"opts": types.SimpleNamespace(emphasis="Original", use_old_emphasis_implementation=False)},
    }
    made = {}
    for name, content in contents.items():
        full = f"modules.{name}".rstrip(".")
        made[name] = types.ModuleType(full)
        vars(made[name]).update(content)
        monkeypatch.setitem(sys.modules, full, made[name])
    return made


def wrapped(modules: dict[str, Any]) -> list[Any]:
    return [
        vars(Base)["tokenize_line"],
        modules["sd_hijack_clip_old"].process_text_old,
        modules["extra_networks"].parse_prompt,
        modules["prompt_parser"].get_learned_conditioning_prompt_schedules,
        vars(Processing)["cached_params"],
    ]


def test_installed_once_and_taken_out(modules: dict[str, Any], tmp_path: Path) -> None:
    before = wrapped(modules)
    assert tokens_host.installed() is None
    tokens = tokens_host.install(Registry(tmp_path))
    first = wrapped(modules)
    assert not any(function in before for function in first)
    other = tmp_path / "other"
    assert tokens_host.install(Registry(other)) is tokens
    assert tokens.registry.folder == other
    assert wrapped(modules) == first
    assert tokens_host.installed() is tokens
    tokens_host.uninstall()
    tokens_host.uninstall()
    assert wrapped(modules) == before
    assert tokens_host.installed() is None


def test_for_a_while(modules: dict[str, Any], tmp_path: Path) -> None:
    before = wrapped(modules)
    with installed_for(tmp_path) as tokens:
        assert tokens_host.installed() is tokens
    assert wrapped(modules) == before
    with pytest.raises(ZeroDivisionError), installed_for(tmp_path):
        raise ZeroDivisionError
    assert wrapped(modules) == before


def test_a_host_without_one_of_the_functions_stays_as_it_was(modules: dict[str, Any], tmp_path: Path) -> None:
    del modules["prompt_parser"].get_learned_conditioning_prompt_schedules
    line = vars(Base)["tokenize_line"]
    with pytest.raises(HostError, match="get_learned_conditioning_prompt_schedules"):
        tokens_host.install(Registry(tmp_path))
    assert vars(Base)["tokenize_line"] is line
    assert tokens_host.installed() is None


def test_calls_go_through_the_wrappers(modules: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "ada.safetensors").write_bytes(b"")
    comments: list[str] = []
    processing = Processing()
    processing.comment = comments.append  # type: ignore[attr-defined]
    with installed_for(tmp_path):
        assert modules["extra_networks"].parse_prompt("<Ada:0.8> <lora:x:1>")[0] == "(<Ada>:0.8) <lora:x:1>"
        assert modules["extra_networks"].parse_prompt("<lost:1 <ada> b")[0] == "<lost:1 <ada> b"
        schedules = modules["prompt_parser"].get_learned_conditioning_prompt_schedules
        assert schedules(["[<ada:2>:<eve>:0.5]", "c"], 10) == [
            [[1, "[(<ada>:2):<eve>:0.5]"], [17, "[(<ada>:2):<eve>:0.5]"]],
            [[1, "c"], [1, "c"]],
        ]
        assert schedules(["c"], 10) == [[[1, "c"], [1, "c"]]]
        assert Base().tokenize_line("no brackets") == ([], 11)
        params = processing.cached_params(["<ada>", "tree"], 1)
        assert params == (("<ada>", "tree"), (("ada", "no checkpoint is loaded: choose one."),))
        assert processing.cached_params(["tree"], 1) == (("tree",), ())
    assert comments == ["<ada> was read as plain text: no checkpoint is loaded: choose one."]


def test_a_loaded_checkpoint_is_one_until_it_changes(modules: dict[str, Any]) -> None:
    loaded = CheckpointTracker()
    assert loaded() is None

    class Model:
        is_sdxl, is_sd2, sd_checkpoint_info = False, False, types.SimpleNamespace(name_for_extra="a", sha256=None)

    model = modules["sd_models"].model_data.sd_model = Model()
    first = loaded()
    assert first is not None
    assert (first.info.name, first.info.family, first.info.sha256) == ("a", "sd1", "")
    assert loaded() is first
    # The host puts another file's weights into the same model.
    model.sd_checkpoint_info = types.SimpleNamespace(name_for_extra="b", sha256="ab")
    second = loaded()
    assert second is not None
    assert second is not first
    assert (second.info.name, second.info.sha256) == ("b", "ab")
    modules["sd_models"].model_data.sd_model = Model()
    assert loaded() is not second
