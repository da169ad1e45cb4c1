"""How prompts are written for each tool, where tools are found, and what counts as the same."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.interop.comparison import Answer, compare, largest_difference
from benchmarks.interop.testbed import InteropTestbed
from benchmarks.interop.tools import CASES, NAMES, STAND_INS, TOOLS, Case, supported, tool_named
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
def test_prompts_are_written_as_each_tools_users_write_them(tool: str, case: str, prompt: str) -> None:
    assert tool_named(tool).syntax.prompt(CASE[case]) == prompt


def test_plain_prompts_have_two_tokens_for_each_person() -> None:
    tokenizer = clip_tokenizer("clip")
    ids = [tokenizer(word, add_special_tokens=False).input_ids for name in NAMES for word in STAND_INS[name]]
    assert [len(one) for one in ids] == [1, 1, 1, 1]
    assert tool_named("ComfyUI").syntax.plain(CASE["before a full stop"]) == "a photo of sks ata. It rains"
    assert tool_named("InvokeAI").syntax.plain(CASE["emphasis"]) == "a photo of (sks ata)1.3 in a forest"


def test_unsupported_cases_have_a_reason() -> None:
    names = {case.name for case in supported(tool_named("diffusers").syntax)}
    assert names == {case.name for case in CASES if not case.emphasis and not case.long}
    assert "77" in tool_named("diffusers").syntax.unsupported(CASE["beyond 77 tokens"])
    assert len(supported(tool_named("WebUI without the extension").syntax)) == len(CASES)


def test_tools_are_found_by_their_variables(tmp_path: Path) -> None:
    comfyui = tool_named("ComfyUI")
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


def answer_of(testbed: InteropTestbed, case: Case, shift: float = 0.0) -> Answer:
    """The answer of a tool that computes as this project does, except for ``shift`` in its states."""
    values = {f"vectors/{key}": rows for key, rows in testbed.vectors().items()}
    for kind, plain in (("placeholder", False), ("plain", True), ("patched", False)):
        for part, value in testbed.encode(case, plain=plain).items():
            values[f"{kind}/0/{part}"] = value + (shift if kind == "placeholder" else 0.0)
    return Answer("1", torch.__version__, (case,), (case.text,), values)


def test_a_tool_that_computes_the_same_agrees(testbed: InteropTestbed) -> None:
    assert compare(answer_of(testbed, CASE["alone"]), testbed).same


def test_differences_are_found(testbed: InteropTestbed) -> None:
    good = answer_of(testbed, CASE["alone"])
    assert not compare(answer_of(testbed, CASE["alone"], shift=1e-6), testbed).same
    (key, *_) = testbed.vectors()
    rows = good.values[f"vectors/{key}"].clone()
    rows[0, 0] += 1e-7
    for spoiled in (
        good.values | {f"vectors/{key}": rows},
        {name: value for name, value in good.values.items() if name != f"vectors/{key}"},
        good.values
        | {"placeholder/0/states": good.values["plain/0/states"], "patched/0/states": good.values["plain/0/states"]},
        good.values | {"placeholder/0/states": torch.cat([good.values["placeholder/0/states"]] * 2, dim=1)},
        good.values | {"placeholder/0/states": torch.full_like(good.values["placeholder/0/states"], float("nan"))},
        {name: value for name, value in good.values.items() if not name.startswith("patched")},
    ):
        assert not compare(replace(good, values=spoiled), testbed).same
    assert not compare(replace(good, cases=(), prompts=()), testbed).same


def test_largest_difference() -> None:
    one = {"states": torch.zeros(2)}
    assert largest_difference(one, {"states": torch.tensor([0.0, 0.5])}) == 0.5
    assert largest_difference({}, {}) == float("inf")
    assert largest_difference(one, one | {"pooled": torch.zeros(1)}) == float("inf")
