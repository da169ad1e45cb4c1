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
    tokens: tokens_host.A1111Tokens = tokens_host.install(Registry(tmp_path))
    first = wrapped(modules)
    assert not any(function in before for function in first)
    other = tmp_path / "other"
    again: tokens_host.A1111Tokens = tokens_host.install(Registry(other))
    assert again is tokens
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


def test_a_name_that_is_a_likely_mistake_gets_a_comment(
    modules: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ada", "Jane Doe"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    embeddings = types.SimpleNamespace(word_embeddings={"adam": 0}, skipped_embeddings={"<Adah>": 0})
    hijack = types.SimpleNamespace(embedding_db=embeddings, comments=[])
    monkeypatch.setitem(sys.modules, "modules.sd_hijack", types.SimpleNamespace(model_hijack=hijack))
    modules["extra_networks"].extra_network_registry["adetail"] = 0
    comments: list[str] = []
    processing = Processing()
    processing.comment = comments.append  # type: ignore[attr-defined]
    with installed_for(tmp_path):
        fine = "<b>bold</b> <adam> <adah> <lora:ada2:1> <adetail:1> < <> a<b ada2 (adda:1.2) <zzz> </b>"
        parse = modules["extra_networks"].parse_prompt
        processing.cached_params([fine], 1)
        parse(fine)
        assert not comments
        assert not hijack.comments
        for _ in range(2):
            parse("<adda:0.8>, <adda>")
        assert hijack.comments == ["<adda:0.8> was left out: nobody in your library has this name. Did you mean <ada>?"]
        processing.cached_params(["<Adda> and <jane>", "tree"], 1)
        assert comments == [
            "<Adda> was read as plain text: nobody in your library has this name. Did you mean <ada>?",
            "<jane> was read as plain text: nobody in your library has this name. Did you mean <Jane Doe>?",
        ]


def test_a_name_that_was_deleted_gets_a_comment(modules: dict[str, Any], tmp_path: Path) -> None:
    assert modules
    comments: list[str] = []
    processing = Processing()
    processing.comment = comments.append  # type: ignore[attr-defined]
    paths = [tmp_path / f"{name}.safetensors" for name in ("zoe", "quentin")]
    for path in paths:
        path.write_bytes(b"")
    with installed_for(tmp_path) as tokens, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "embedding_names", frozenset)
        processing.cached_params(["<Zoe>"], 1)
        comments.clear()
        paths[0].unlink()
        processing.cached_params(["<Zoe>"], 1)
        assert comments == ["<Zoe> was read as plain text: nobody in your library has this name any more."]
        tokens.registry.remember("eve")  # deleted before any prompt named anyone
        processing.cached_params(["<eve>, (<EVE>:1.2)"], 1)
        assert comments[1:] == [
            "<eve> was read as plain text: nobody in your library has this name any more.",
            "<EVE> was read as plain text: nobody in your library has this name any more.",
        ]
        paths[0].write_bytes(b"")
        comments.clear()
        processing.cached_params(["<zoe>"], 1)
        assert "any more" not in comments[0]
        tokens.registry.folder = tmp_path / "another library"
        comments.clear()
        processing.cached_params(["<zoe> <eve>"], 1)
        assert comments == []


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
