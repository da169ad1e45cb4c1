"""How prompts are written for each tool, where tools are looked for, and what counts as the same."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.interop.cases import CASES, PEOPLE, STAND_INS, Case, handled
from benchmarks.interop.comparing import compared, largest_difference
from benchmarks.interop.people import World
from benchmarks.interop.running import Answer
from benchmarks.interop.tools import TOOLS, known
from celeb_basis.hosts.diffusers.configs import clip_tokenizer

CASE = {case.name: case for case in CASES}


@pytest.mark.parametrize(
    ("tool", "case", "prompt"),
    [
        ("diffusers", "before a comma", "a photo of <adamo>, smiling"),
        ("ComfyUI", "before a comma", "a photo of embedding:adamo, smiling"),
        ("ComfyUI", "before a full stop", "a photo of embedding:adamo . It rains"),
        ("ComfyUI", "possessive", "embedding:adamo 's hat on a table"),
        ("ComfyUI", "emphasis", "a photo of (embedding:adamo:1.3) in a forest"),
        ("InvokeAI", "emphasis", "a photo of (<adamo>)1.3 in a forest"),
        ("InvokeAI", "emphasis on a phrase", "(<adamo> and <berisa>)1.2, detailed"),
        ("WebUI without the extension", "possessive", "adamo's hat on a table"),
        ("WebUI with the extension", "emphasis", "a photo of (<adamo>:1.3) in a forest"),
    ],
)
def test_prompts_as_the_tools_users_write_them(tool: str, case: str, prompt: str) -> None:
    assert known(tool).syntax.prompt(CASE[case]) == prompt


def test_plain_prompts_have_two_tokens_for_each_person() -> None:
    tokenizer = clip_tokenizer("clip")
    ids = [tokenizer(word, add_special_tokens=False).input_ids for name in PEOPLE for word in STAND_INS[name]]
    assert [len(one) for one in ids] == [1, 1, 1, 1]
    assert known("ComfyUI").syntax.plain(CASE["before a full stop"]) == "a photo of sks ata. It rains"
    assert known("InvokeAI").syntax.plain(CASE["emphasis"]) == "a photo of (sks ata)1.3 in a forest"


def test_what_a_tool_has_not_is_told() -> None:
    names = {case.name for case in handled(known("diffusers").syntax)}
    assert names == {case.name for case in CASES if not case.emphasis and not case.long}
    assert "77" in known("diffusers").syntax.why_not(CASE["beyond 77 tokens"])
    assert len(handled(known("WebUI without the extension").syntax)) == len(CASES)


def test_tools_are_found_by_their_variables(tmp_path: Path) -> None:
    comfyui = known("ComfyUI")
    assert comfyui.folder({}) is None
    assert comfyui.python({}) == sys.executable
    named = {"CELEB_BASIS_COMFYUI": str(tmp_path)}
    assert comfyui.folder(named) == tmp_path
    assert comfyui.python(named) == sys.executable
    own = tmp_path / "venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert comfyui.python(named) == str(own)
    assert comfyui.python(named | {"CELEB_BASIS_COMFYUI_PYTHON": "/other/python"}) == "/other/python"
    assert all(tool.variable for tool in TOOLS if tool.name != "diffusers")


def answered(world: World, case: Case, shift: float = 0.0) -> Answer:
    """What a tool would answer that computes as this project does, save for ``shift`` in its states."""
    values = {f"vectors/{key}": rows for key, rows in world.vectors().items()}
    for way, plain in (("word", False), ("plain", True), ("placed", False)):
        for part, value in world.encode(case, plain=plain).items():
            values[f"{way}/0/{part}"] = value + (shift if way == "word" else 0.0)
    return Answer("1", torch.__version__, (case,), (case.text,), values)


def test_a_tool_that_computes_alike_is_the_same(chance: World) -> None:
    assert compared(answered(chance, CASE["alone"]), chance).same


def test_what_differs_is_seen(chance: World) -> None:
    good = answered(chance, CASE["alone"])
    assert not compared(answered(chance, CASE["alone"], shift=1e-6), chance).same
    (key, *_) = chance.vectors()
    rows = good.values[f"vectors/{key}"].clone()
    rows[0, 0] += 1e-7
    for spoiled in (
        good.values | {f"vectors/{key}": rows},
        {name: value for name, value in good.values.items() if name != f"vectors/{key}"},
        good.values
        | {"word/0/states": good.values["plain/0/states"], "placed/0/states": good.values["plain/0/states"]},
        good.values | {"word/0/states": torch.cat([good.values["word/0/states"]] * 2, dim=1)},
        good.values | {"word/0/states": torch.full_like(good.values["word/0/states"], float("nan"))},
        {name: value for name, value in good.values.items() if not name.startswith("placed")},
    ):
        assert not compared(replace(good, values=spoiled), chance).same
    assert not compared(replace(good, cases=(), prompts=()), chance).same


def test_differences() -> None:
    one = {"states": torch.zeros(2)}
    assert largest_difference(one, {"states": torch.tensor([0.0, 0.5])}) == 0.5
    assert largest_difference({}, {}) == float("inf")
    assert largest_difference(one, one | {"pooled": torch.zeros(1)}) == float("inf")
