"""A small model on the disk, real face networks, a real photo, and the command line run in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from support.command_line import Said
from support.sample_photos import sample_photos

from celeb_basis.cli.main import main

COMPONENTS = 8
NAMES = 60


@dataclass(frozen=True)
class Parts:
    """Files that commands need."""

    model: Path
    faces: Path
    names: Path
    photo: Path

    @property
    def learning(self) -> list[str]:
        """Options of a learning run that takes a moment."""
        options = f"--components {COMPONENTS} --views 3 --steps 4 --batch-size 1 --no-early-stop --no-likeness"
        return ["--model", str(self.model), "--faces", str(self.faces), "--names", str(self.names), *options.split()]


@pytest.fixture(scope="session")
def cli_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SD1-shaped model folder of diffusers with random weights."""
    from miniature.small_models.pipelines import make_pipeline, save_pipeline

    folder = tmp_path_factory.mktemp("model") / "small-sd1"
    save_pipeline(make_pipeline("sd1", width=64), folder)
    return folder


@pytest.fixture(scope="session")
def parts(cli_model: Path, miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    names = folder / "names.txt"
    from celeb_basis.names.lists import shipped_names

    names.write_text("\n".join(shipped_names().names[:NAMES]) + "\n", encoding="utf-8")
    photo = folder / "portrait.png"
    with Image.open(sample_photos()["six"]) as image:
        image.convert("RGB").save(photo)
    return Parts(cli_model, miniature_folder, names, photo)


@pytest.fixture(autouse=True)
def own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty default library for each test."""
    folder = tmp_path / "library"
    monkeypatch.setenv("CELEB_BASIS_LIBRARY", str(folder))
    return folder


@pytest.fixture
def celeb(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory, parts: Parts) -> Path:
    """A folder in which ``ada`` has been learned; its library is ``library``."""
    folder = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELEB_BASIS_CACHE", str(folder / "cache"))
        words = ["learn", parts.photo, "--name", "ada", "--consent", "she said yes", *parts.learning]
        words += ["--library", folder / "library", "--report", folder / "ada.html", "--quiet"]
        assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture
def library(learned: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CELEB_BASIS_LIBRARY", str(learned / "library"))
    monkeypatch.setenv("CELEB_BASIS_CACHE", str(learned / "cache"))
    return learned / "library"
