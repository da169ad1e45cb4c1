"""``install.py`` with a launcher that stands in for the host's, and ``preload.py`` with the host's kind of parser."""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Launcher(types.ModuleType):
    """The two functions of the host's launcher that are used, with its behaviour."""

    def __init__(self, installed: set[str], error: str = "") -> None:
        super().__init__("launch")
        self.installed, self.error = installed, error
        self.commands: list[str] = []

    def is_installed(self, package: str) -> bool:
        return package in self.installed

    def run_pip(self, command: str, desc: str | None = None) -> None:
        assert desc
        self.commands.append(command)
        if self.error:
            raise RuntimeError(self.error)


def run(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, *, hidden: tuple[str, ...] = (), numpy: str = "1.26.2"
) -> int:
    """The installer's exit code; ``hidden`` modules are not to be found, all others are."""
    monkeypatch.setitem(sys.modules, "launch", launcher)
    installer = runpy.run_path(str(ROOT / "install.py"), run_name="installer")
    found = types.SimpleNamespace(find_spec=lambda name: None if name in hidden else object())
    monkeypatch.setitem(installer["main"].__globals__, "importlib", types.SimpleNamespace(util=found))
    monkeypatch.setattr(installer["metadata"], "version", lambda _: numpy)
    code: int = installer["main"]()
    return code


def test_nothing_is_done_where_everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher(set())
    assert run(launcher, monkeypatch) == 0
    assert launcher.commands == []


def test_only_what_is_missing_is_installed_and_nothing_that_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher({"numpy", "protobuf"})
    assert run(launcher, monkeypatch, hidden=("insightface", "onnx")) == 0
    (command,) = launcher.commands
    words = command.split()
    assert words[:2] == ["install", "--no-deps"]
    assert [word for word in words if "==" in word or ">=" in word] == ['"insightface==2.1"', '"onnx==1.16.2"']
    assert "--upgrade" not in words


def test_beside_numpy_2_builds_are_taken_that_work_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher({"numpy"})
    assert run(launcher, monkeypatch, hidden=("insightface", "skimage"), numpy="2.1.2") == 0
    (command,) = launcher.commands
    assert '"insightface==2.1"' in command
    assert '"scikit-image>=0.25"' in command


def test_a_package_under_another_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu has the module, but not the distribution, onnxruntime; a broken module may still be installed."""
    launcher = Launcher({"insightface"})
    assert run(launcher, monkeypatch, hidden=("insightface",)) == 0
    assert launcher.commands == []


def test_without_a_network_the_start_goes_on_with_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Launcher(set(), error="Couldn't install.\nCommand: pip\nError code: 1\nstderr: No route to host")
    assert run(launcher, monkeypatch, hidden=("onnx",)) == 0
    said = capsys.readouterr().out
    assert "could not be installed" in said
    assert "No route to host" in said
    assert "while it is online" in said


def test_it_pins_what_the_host_pins() -> None:
    """What the host pins is named with its version, or not at all."""
    needed = runpy.run_path(str(ROOT / "install.py"), run_name="installer")["NEEDED"]
    pinned = {"protobuf": "protobuf==3.20.0", "scikit-image": "scikit-image==0.21.0"}
    wanted = {name: requirement for _, name, requirement in needed}
    assert {name: wanted[name] for name in pinned} == pinned
    assert not {"numpy", "pillow", "torch", "transformers", "gradio", "fastapi", "safetensors"} & set(wanted)


def test_it_imports_nothing_heavy_and_needs_no_package_of_ours(tmp_path: Path) -> None:
    (tmp_path / "launch.py").write_text("def is_installed(package): return True\n")
    command = [sys.executable, "-X", "importtime", str(ROOT / "install.py")]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert not {"torch", "insightface", "numpy", "celeb_basis"} & {
        line.split("|")[-1].strip() for line in done.stderr.splitlines()
    }


def test_outside_the_webui_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "install.py")], cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "bootstrap.py" in done.stderr


def test_flags() -> None:
    parser = argparse.ArgumentParser()
    runpy.run_path(str(ROOT / "preload.py"))["preload"](parser)
    assert vars(parser.parse_args([])) == dict.fromkeys(
        ("celeb_basis_dir", "celeb_basis_faces", "celeb_basis_names"), None
    )
    given = parser.parse_args(["--celeb-basis-dir", "/people", "--celeb-basis-faces", "antelopev2"])
    assert (given.celeb_basis_dir, given.celeb_basis_faces) == ("/people", "antelopev2")
