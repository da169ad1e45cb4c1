"""Exported identities in each tool that is found, by its own loader: diffusers always, the others by their variables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.interop.__main__ import main
from benchmarks.interop.comparison import EvaluationResult, ToolFailedError, compare, run_tool
from benchmarks.interop.testbed import InteropTestbed
from benchmarks.interop.tools import CASES, TOOLS, Case, Tool, tool_named

CASE = {case.name: case for case in CASES}


def needed(name: str) -> Tool:
    tool = tool_named(name)
    if tool.variable and tool.folder() is None:
        pytest.skip(f"needs {name}: set {tool.variable} to its folder")
    return tool


@pytest.mark.parametrize("name", [tool.name for tool in TOOLS])
def test_the_identity_is_the_same(name: str, testbed: InteropTestbed, tmp_path: Path) -> None:
    verdict = compare(run_tool(needed(name), testbed, tmp_path), testbed)
    assert all(verdict.vectors.values())
    assert [one.prompt for one in verdict.prompts if not one.same] == []


def try_case(name: str, testbed: InteropTestbed, folder: Path, case: Case) -> EvaluationResult:
    """One prompt as this project writes it, except for the tool's placeholder."""
    tool = needed(name)
    free = replace(tool, syntax=replace(tool.syntax, glued=None, cut=""))
    return compare(run_tool(free, testbed, folder, [case]), testbed)


@pytest.mark.parametrize("case", ["before a full stop", "possessive"])
def test_comfyui_reads_glued_punctuation_as_part_of_the_name(
    case: str, testbed: InteropTestbed, tmp_path: Path
) -> None:
    """This is why the page on ComfyUI requires a space there."""
    verdict = try_case("ComfyUI", testbed, tmp_path, CASE[case])
    assert all(verdict.vectors.values())
    assert not verdict.same


def test_invokeai_drops_what_is_beyond_75_tokens(testbed: InteropTestbed, tmp_path: Path) -> None:
    """This is why the page on InvokeAI warns of it."""
    assert not try_case("InvokeAI", testbed, tmp_path, CASE["beyond 77 tokens"]).same


def test_a_tool_that_cannot_be_run_is_reported(
    testbed: InteropTestbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELEB_BASIS_COMFYUI", str(tmp_path))
    monkeypatch.delenv("CELEB_BASIS_COMFYUI_PYTHON", raising=False)
    (tmp_path / "run").mkdir()
    with pytest.raises(ToolFailedError, match="No module named 'comfy'"):
        run_tool(tool_named("ComfyUI"), testbed, tmp_path / "run")


def test_the_command_names_the_variables_of_what_it_does_not_find(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, testbed: InteropTestbed
) -> None:
    from celeb_basis.identities.identity import save_identity

    for tool in TOOLS:
        monkeypatch.delenv(tool.variable or "NONE", raising=False)
    files = []
    for identity in testbed.identities:
        files += ["--identity", str(tmp_path / f"{identity.name}.safetensors")]
        save_identity(identity, tmp_path / f"{identity.name}.safetensors")
    assert main(["--only", "comfyui", "--only", "webui", "--sd1-only", *files]) == 0
    printed = capsys.readouterr().out
    for variable in ("CELEB_BASIS_COMFYUI", "CELEB_BASIS_WEBUI"):
        assert f"not found: set {variable} to its folder" in printed
