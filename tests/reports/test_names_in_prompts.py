"""Names that prompts cannot hold: refused for new people, explained for those who have one already."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.command_line import learn, own_folders, run

from celeb_basis.errors import IdentityError
from celeb_basis.hosts.a1111 import tokens as tokens_module
from celeb_basis.hosts.a1111.tokens import A1111Tokens
from celeb_basis.prompts.registry import Registry
from celeb_basis.prompts.syntax import check_new_name, cut, with_emphasis

EATEN = [
    "agent #2",
    "#ada",
    "ada#",
    "a__b",
    "__ada__",
    "'ada'",
    "lora",
    "LoRA",
    "lyco",
    "hypernet",
    "BREAK",
    "Tom AND Jerry",
]
FINE = [
    "ada",
    "Ada Lovelace",
    "b",
    "i",
    "script",
    "O'Brien",
    "a++ & b's",
    "Doe, Zoë",
    "Tom and Jerry",
    "BREAKER",
    "x_y",
    "日本",
]


@pytest.mark.parametrize("name", EATEN)
def test_names_that_prompts_eat_are_refused_for_new_people(name: str) -> None:
    with pytest.raises(IdentityError, match=re.escape(ascii(name))):
        check_new_name(name)


@pytest.mark.parametrize("name", FINE)
def test_all_other_names_may_be_given(name: str) -> None:
    assert check_new_name(name) == name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("names")
    with own_folders(place):
        assert learn("ada").code == 0
        yield place


@pytest.mark.parametrize("name", ["agent #2", "lora", "a__b"])
def test_every_command_that_gives_a_name_refuses_it(folder: Path, name: str) -> None:
    ada = folder / "library" / "ada.safetensors"
    for said in (
        learn(name),
        run("blend", "ada", "--as", name, "--model", "miniature"),
        run("import", ada, "--as", name),
    ):
        assert said.code == 2
        assert ascii(name) in said.err
        assert "prompts" in said.err or "network" in said.err
        assert "celeb-basis itself" not in said.err
    assert sorted(path.stem for path in (folder / "library").glob("*.safetensors")) == ["ada"]


def test_who_has_such_a_name_keeps_it(folder: Path, tmp_path: Path) -> None:
    """A person from before: generated on the command line, which has no comments, and learned again."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "agent #2.safetensors").write_bytes((folder / "library" / "ada.safetensors").read_bytes())
    options = ("--model", "miniature", "--library", library)
    drawn = run("generate", "<agent #2>", "--output", tmp_path / "out", "--steps", 1, *options)
    assert drawn.code == 0, drawn.err
    assert run("blend", "agent #2", "--as", "agent #2", "--replace", *options).code == 0


# In the WebUI


def strip_comments(text: str) -> str:
    """The WebUI's own, from modules/processing_scripts/comments.py."""
    return re.sub("#[^\n]*(\n|$)", "\n", re.sub("(^|\n)#[^\n]*(\n|$)", "\n", text))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    for name in ("agent #2", "ada", "lora"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    return Registry(tmp_path)


def test_the_card_says_why_a_name_with_a_comment_does_not_work(registry: Registry) -> None:
    assert cut(strip_comments("a photo of <agent #2>, smiling"), registry.known) == ["a photo of <agent \n"]
    metadata: Any = None
    assert "comment: rename the person" in registry.reasons(None)("agent #2", metadata)
    assert "comment" not in registry.reasons(None)("ada", metadata)
    registry.has_comments = lambda: False
    assert "comment" not in registry.reasons(None)("agent #2", metadata)


@pytest.fixture
def webui(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """As much of the WebUI as the hooks ask for."""
    host = SimpleNamespace(opts=SimpleNamespace(enable_prompt_comments=True), comments=[])
    modules = {
        "shared": host,
        "sd_models": SimpleNamespace(model_data=SimpleNamespace(sd_model=None)),
        "extra_networks": SimpleNamespace(extra_network_registry={"lora": 1}, extra_network_aliases={}),
        "sd_hijack": SimpleNamespace(model_hijack=host),
    }
    host.opts.emphasis, host.opts.use_old_emphasis_implementation = "Original", False
    monkeypatch.setattr(tokens_module, "host_module", modules.__getitem__)
    return host


@pytest.mark.parametrize(
    "typed", ["a photo of <agent #2>, smiling", ["a hat", "(<AGENT #2>:1.2)"], "a\n<agent #2:0.8>"]
)
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_the_image_says_who_was_lost_in_a_comment(
    webui: SimpleNamespace, registry: Registry, typed: Any, field: str
) -> None:
    tokens = A1111Tokens(registry)
    said: list[str] = []
    processing = SimpleNamespace(**{"prompt": "", "negative_prompt": "", field: typed}, comment=said.append)
    texts = [strip_comments(one) for one in ([typed] if isinstance(typed, str) else typed)]
    tokens._cached_params(lambda *_: (), processing, texts)
    assert [sentence for sentence in said if "<agent #2>" in sentence and "comment" in sentence]
    webui.opts.enable_prompt_comments = False
    assert tokens._lost_in_comments(processing) == []


@pytest.mark.usefixtures("webui")
def test_a_comment_that_holds_nobody_is_no_reason_to_speak(registry: Registry) -> None:
    tokens = A1111Tokens(registry)
    processing = SimpleNamespace(prompt="a hat # <ada> is left out", negative_prompt=None)
    assert tokens._lost_in_comments(processing) == []


@pytest.mark.parametrize(("prompt", "spoken"), [("<lora:0.8>", True), ("<lora:style:1>", False), ("<lora>", False)])
def test_a_weight_that_the_webui_reads_as_a_network_is_said(
    webui: SimpleNamespace, registry: Registry, prompt: str, spoken: bool
) -> None:
    tokens = A1111Tokens(registry)
    assert tokens._with_emphasis(prompt) == prompt
    assert any("write (<lora>:0.8)" in sentence for sentence in webui.comments) == spoken


def test_tags_of_the_host_stay_its_own() -> None:
    shadowed: list[str] = []
    text = with_emphasis("<lora:0.8> <lora:a:1> <ada:1.2>", lambda _: True, reserved={"lora"}, shadowed=shadowed.append)
    assert text == "<lora:0.8> <lora:a:1> (<ada>:1.2)"
    assert shadowed == ["<lora:0.8>"]
