"""An exported person in each tool that is found, by its own loader: diffusers always, the others by their variables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.interop.__main__ import main
from benchmarks.interop.cases import CASES, Case
from benchmarks.interop.comparing import EvaluationResult, compared
from benchmarks.interop.people import World
from benchmarks.interop.running import ToolFailedError, ask
from benchmarks.interop.tools import TOOLS, Tool, known

CASE = {case.name: case for case in CASES}


def needed(name: str) -> Tool:
    tool = known(name)
    if tool.variable and tool.folder() is None:
        pytest.skip(f"needs {name}: set {tool.variable} to its folder")
    return tool


@pytest.mark.parametrize("name", [tool.name for tool in TOOLS])
def test_the_person_is_the_same(name: str, chance: World, tmp_path: Path) -> None:
    verdict = compared(ask(needed(name), chance, tmp_path), chance)
    assert all(verdict.vectors.values())
    assert [one.prompt for one in verdict.prompts if not one.same] == []


def tried(name: str, chance: World, folder: Path, case: Case) -> EvaluationResult:
    """One prompt, as this project writes it but for the tool's word for a person."""
    tool = needed(name)
    free = replace(tool, syntax=replace(tool.syntax, glued=None, cut=""))
    return compared(ask(free, chance, folder, [case]), chance)


@pytest.mark.parametrize("case", ["before a full stop", "possessive"])
def test_comfyui_takes_glued_punctuation_for_a_part_of_the_name(case: str, chance: World, tmp_path: Path) -> None:
    """Why the page on ComfyUI asks for a space there."""
    verdict = tried("ComfyUI", chance, tmp_path, CASE[case])
    assert all(verdict.vectors.values())
    assert not verdict.same


def test_invokeai_drops_what_is_beyond_75_tokens(chance: World, tmp_path: Path) -> None:
    """Why the page on InvokeAI warns of it."""
    assert not tried("InvokeAI", chance, tmp_path, CASE["beyond 77 tokens"]).same


def test_a_tool_that_cannot_be_run_is_told(chance: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELEB_BASIS_COMFYUI", str(tmp_path))
    monkeypatch.delenv("CELEB_BASIS_COMFYUI_PYTHON", raising=False)
    (tmp_path / "run").mkdir()
    with pytest.raises(ToolFailedError, match="No module named 'comfy'"):
        ask(known("ComfyUI"), chance, tmp_path / "run")


def test_the_command_names_the_variables_of_what_it_does_not_find(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, chance: World
) -> None:
    from celeb_basis.identities.identity import save_identity

    for tool in TOOLS:
        monkeypatch.delenv(tool.variable or "NONE", raising=False)
    files = []
    for person in chance.people:
        files += ["--identity", str(tmp_path / f"{person.name}.safetensors")]
        save_identity(person, tmp_path / f"{person.name}.safetensors")
    assert main(["--only", "comfyui", "--only", "webui", "--sd1-only", *files]) == 0
    said = capsys.readouterr().out
    for variable in ("CELEB_BASIS_COMFYUI", "CELEB_BASIS_WEBUI"):
        assert f"not found: set {variable} to its folder" in said
