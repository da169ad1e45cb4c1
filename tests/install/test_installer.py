"""``install.py`` with a launcher that stands in for the host's, and ``preload.py`` with the host's kind of parser."""

from __future__ import annotations

import argparse
import io
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Launcher(types.ModuleType):
    """The two functions of the host's launcher that are used, with its behaviour."""

    def __init__(self, installed: set[str], error: str = "", failing: str = "") -> None:
        super().__init__("launch")
        self.installed, self.error = installed, error
        self.failing = failing  # the error is raised only for commands with this in them
        self.commands: list[str] = []

    def is_installed(self, package: str) -> bool:
        return package in self.installed

    def run_pip(self, command: str, desc: str | None = None) -> None:
        assert desc
        self.commands.append(command)
        if self.error and self.failing in command:
            raise RuntimeError(self.error)


def run(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, *, hidden: tuple[str, ...] = (), numpy: str = "1.26.2"
) -> int:
    """The installer's exit code; ``hidden`` modules are not to be found, all others are."""
    monkeypatch.setitem(sys.modules, "launch", launcher)
    installer = runpy.run_path(str(ROOT / "install.py"), run_name="installer")
    found = types.SimpleNamespace(find_spec=lambda name: None if name in hidden else object())
    monkeypatch.setitem(
        installer["main"].__globals__, "importlib", types.SimpleNamespace(util=found, invalidate_caches=lambda: None)
    )
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
    assert [word for word in words if "==" in word or ">=" in word] == ['"insightface==2.1"', '"onnx==1.16.1"']
    assert "--upgrade" not in words


def test_beside_numpy_2_builds_are_taken_that_work_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher({"numpy"})
    assert run(launcher, monkeypatch, hidden=("insightface", "skimage"), numpy="2.1.2") == 0
    (command,) = launcher.commands
    assert '"insightface==2.1"' in command
    assert '"scikit-image>=0.25"' in command


def test_a_package_under_another_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu has the module, but not the distribution, onnxruntime."""
    launcher = Launcher(set())
    assert run(launcher, monkeypatch) == 0
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


WITHOUT_A_BUILD = "Couldn't install.\nstderr: ERROR: No matching distribution found for onnx==1.16.1"


def test_one_without_a_build_does_not_keep_the_others_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Launcher(set(), WITHOUT_A_BUILD, failing="onnx==")
    assert run(launcher, monkeypatch, hidden=("insightface", "onnx", "onnxruntime", "flatbuffers")) == 0
    alone = [re.findall(r'"([^"]+)"', command) for command in launcher.commands[1:]]
    assert alone == [["insightface==2.1"], ["onnx==1.16.1"], ["onnxruntime==1.23.2"], ["flatbuffers>=23.5"]]
    said = capsys.readouterr().out
    assert '"onnx==1.16.1" could not be installed' in said
    assert "no build of it for this Python" in said
    assert f'"{sys.executable}" -m pip install --no-deps "onnx==1.16.1"\n' in said
    assert all("--only-binary=:all:" in command for command in launcher.commands), "nothing is compiled at every start"


def test_without_a_network_it_is_tried_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Launcher(
        set(), "stderr: NewConnectionError('<...>: Failed to establish a new connection')\nERROR: No match"
    )
    assert run(launcher, monkeypatch, hidden=("insightface", "onnx")) == 0
    assert len(launcher.commands) == 1
    assert "while it is online" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("/venv/bin/python: No module named pip", "-m ensurepip"),
        ("OSError('Tunnel connection failed: 407 Proxy Authentication Required')", "HTTPS_PROXY"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "certificates"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 30] Read-only file system: '/usr'",
            "user who installed",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/usr'",
            "user who installed",
        ),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: ... [WinError 5] Access is denied: 'onnxruntime_pybind11_state.pyd'", "another program"),
        ("ERROR: In --require-hashes mode, all requirements must have their versions pinned", "require-hashes"),
        ("error: externally-managed-environment", "venv"),
        ("ERROR: onnx.whl is not a supported wheel on this platform.", "no build"),
        ("something nobody has seen", "while it is online"),
    ],
)
def test_every_failure_says_what_to_do(
    said: str, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Launcher(set(), said), monkeypatch, hidden=("onnx",)) == 0
    assert advice in capsys.readouterr().out


def test_what_pip_did_not_install_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``--skip-install`` makes the launcher's pip do nothing; with ``target`` in its configuration, pip installs elsewhere."""
    assert run(Launcher(set()), monkeypatch, hidden=("onnx",)) == 0
    said = capsys.readouterr().out
    assert '"onnx==1.16.1" cannot be found' in said
    assert "--skip-install" in said
    assert "pip config list" in said


def test_what_pip_says_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    assert run(Launcher(set(), "ERROR: \x1b[2Jgone \u202e \u4f60"), monkeypatch, hidden=("onnx",)) == 0
    out.flush()
    said = out.buffer.getvalue()
    assert b"\x1b" not in said
    assert b"gone" in said


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that comes first."""
    folder = tmp_path / "site [packages] %41 \u00e9"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def leave(site: Path, module: str, kind: str) -> None:
    """What an uninstallation leaves behind."""
    folder = site / module
    if kind != "metadata only":
        folder.mkdir()
    if kind == "caches":
        (folder / "capi" / "__pycache__").mkdir(parents=True)
        (folder / "capi" / "__pycache__" / "_ld_preload.cpython-311.pyc").write_bytes(b"")
    if kind == "code without its library":
        (folder / "__init__.py").write_text("")
        (folder / "capi").mkdir()
        (folder / "capi" / "__init__.py").write_text("")
    if kind == "library without code":
        (folder / "capi").mkdir()
        (folder / "capi" / "onnxruntime_pybind11_state.pyd").write_bytes(b"")
        (folder / "onnx_cpp2py_export.pyd").write_bytes(b"")
    if kind in ("metadata only", "metadata and folder"):
        (site / f"{module}-1.16.0.dist-info").mkdir()
        (site / f"{module}-1.16.0.dist-info" / "METADATA").write_text(f"Name: {module}\nVersion: 1.16.0\n")


KINDS = ("empty", "caches", "code without its library", "library without code", "metadata only", "metadata and folder")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", ["onnxruntime", "onnx"])
def test_leftovers_are_not_installed(site: Path, module: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from celeb_basis.faces.packages import is_whole

    leave(site, module, kind)
    # Only this folder, as in an environment from which the package was uninstalled.
    monkeypatch.setattr(sys, "path", [str(site)])
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    installer = runpy.run_path(str(ROOT / "install.py"), run_name="installer")
    assert not installer["is_there"](module)
    assert not is_whole(module)
    requirement = f"{module}==1.16.1"
    assert ("--force-reinstall" in installer["command"]([requirement])) == kind.startswith("metadata"), (
        "pip believes it"
    )


def test_what_is_installed_here_is_whole() -> None:
    from celeb_basis.faces.packages import is_whole, missing_packages

    installer = runpy.run_path(str(ROOT / "install.py"), run_name="installer")
    assert all(installer["is_there"](module) for module, _, _ in installer["NEEDED"])
    assert missing_packages() == []
    assert is_whole("celeb_basis")


def test_the_package_recommends_what_the_installer_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    from celeb_basis.faces import packages

    installer = runpy.run_path(str(ROOT / "install.py"), run_name="installer")
    for numpy, protobuf in (("1.26.2", "3.20.0"), ("2.1.2", "7.35.1"), ("2.3.0", "4.25.8"), ("2.0.0", "3.20.3")):
        versions = {"numpy": numpy, "protobuf": protobuf}
        monkeypatch.setitem(installer["missing"].__globals__, "version", lambda name, all=versions: all.get(name, ""))
        monkeypatch.setattr(packages, "_version", lambda name, all=versions: all.get(name, ""))
        monkeypatch.setitem(installer["missing"].__globals__, "is_there", lambda _: False)
        for module, requirement in installer["missing"]():
            if module not in ("cv2", "matplotlib"):  # it recommends the OpenCV that needs no window system
                assert packages._requirement(module) == requirement


def test_beside_an_older_protobuf_the_onnx_that_accepts_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Forge Neo: NumPy 2 and protobuf 4.25. onnx 1.22 and newer refuse to be imported beside it."""
    installer = runpy.run_path(str(ROOT / "install.py"), run_name="installer")
    for protobuf, onnx in (
        ("4.25.8", "onnx>=1.18,<1.22"),
        ("3.20.3", "onnx==1.17.0"),
        ("6.31.1", "onnx>=1.17"),
        ("", "onnx>=1.17"),
    ):
        versions = {"numpy": "2.3.0", "protobuf": protobuf}
        monkeypatch.setitem(installer["missing"].__globals__, "version", lambda name, all=versions: all.get(name, ""))
        assert installer["newer_onnx"]() == onnx


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
