"""The wheel holds all that the package needs and nothing else, and works away from its repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from celeb_basis import __version__

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "celeb_basis"
NOT_SOURCES = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "*-output")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository: setuptools writes into the folder it builds, and takes what an older build left there."""
    folder = tmp_path_factory.mktemp("sources") / "celeb-basis"
    shutil.copytree(ROOT, folder, ignore=NOT_SOURCES)
    return folder


@pytest.fixture(scope="module")
def wheel(sources: Path) -> Path:
    """The wheel, built with the installed setuptools and without a network."""
    target = sources.parent / "wheels"
    options = ["--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index"]
    run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(target), str(sources)])
    (found,) = target.glob("*.whl")
    return found


def run(command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def package_files() -> set[str]:
    """Every file of the package in the repository."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".pyo"))
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    about = f"celeb_basis-{__version__}.dist-info/"
    assert {name for name in names if not name.startswith(about)} == package_files()
    assert {f"{about}METADATA", f"{about}entry_points.txt"} <= names
    assert any(name.startswith(about) and name.endswith("LICENSE") for name in names)
    # The files that the demo does not run without, by their names.
    assert {
        "celeb_basis/py.typed",
        "celeb_basis/miniature/model/model_index.json",
        "celeb_basis/miniature/model/names.txt",
        "celeb_basis/miniature/model/tokenizer/tokenizer.json",
        "celeb_basis/miniature/face_pack/LICENSES.txt",
        "celeb_basis/miniature/face_pack/README.md",
        "celeb_basis/miniature/face_pack/miniature/celeb-basis-pack.json",
        "celeb_basis/miniature/face_pack/miniature/detector.onnx",
        "celeb_basis/miniature/face_pack/miniature/recognition.onnx",
    } <= names
    assert any(name.endswith(".css") for name in names)
    assert any(name.startswith("celeb_basis/names/") and name.endswith(".txt") for name in names)


def test_the_source_archive_holds_the_package(sources: Path) -> None:
    script = "from setuptools.build_meta import build_sdist; print(build_sdist('sdists'))"
    name = run([sys.executable, "-c", script], cwd=sources).splitlines()[-1]
    with tarfile.open(sources / "sdists" / name) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert package_files() <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_the_face_packs_licenses_name_its_origin() -> None:
    folder = PACKAGE / "miniature" / "face_pack"
    card = (folder / "README.md").read_text("utf-8")
    texts = (folder / "LICENSES.txt").read_text("utf-8")
    manifest = (folder / "miniature" / "celeb-basis-pack.json").read_text("utf-8")
    for name, version in (("faceplugin-face-recognition-js", "0.0.1"), ("facenet-pytorch", "2.6.0")):
        assert f"`{name}` {version}" in card
        assert f"{name} {version}" in texts
        assert f"{name}@{version}" in manifest or f"{name}=={version}" in manifest
    assert texts.count("MIT License") == texts.count("Permission is hereby granted") == 2


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    """In a new environment, from an empty folder, with an empty home and no network: only pip uses one."""
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [str(scripts / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, str(wheel)], cwd=tmp_path)
    for folder in ("home", "empty"):
        (tmp_path / folder).mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CELEB_BASIS_", "PYTHON", "XDG_", "HF_")) and not name.lower().endswith("_proxy")
    }
    environment |= dict.fromkeys(("HOME", "USERPROFILE", "LOCALAPPDATA"), str(tmp_path / "home"))
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    said = run([str(scripts / "celeb-basis"), "demo", "--steps", "40"], cwd=tmp_path / "empty", env=environment)
    page = tmp_path / "empty" / "demo-output" / "index.html"
    assert str(page.relative_to(tmp_path / "empty")) in said
    assert page.stat().st_size > 100_000
    assert len(list(page.parent.glob("people/*.safetensors"))) == 2
