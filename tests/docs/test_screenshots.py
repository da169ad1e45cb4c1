"""The documentation shows every picture that the script of screenshots takes, and no other of this page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.webui import need_webui

from benchmarks.webui import screenshots
from benchmarks.webui.film import MOST_BYTES, Film

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
OF_OTHER_PROGRAMS = re.compile(r"(forge|reforge|sdnext|comfyui|neighbours/)")
DRAWN = {"scheme.png", "film.webp"}  # by other commands


def _shown() -> set[str]:
    """The pictures of ``docs/images`` that a page of the documentation shows, by their paths in it."""
    found = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"\s]+\.(?:png|webp|gif))", page.read_text("utf-8")):
            path = (page.parent / target).resolve()
            if path.is_relative_to(IMAGES):
                found.add(path.relative_to(IMAGES).as_posix())
    return found


def test_what_the_script_takes_is_what_the_documentation_shows() -> None:
    shown = {name for name in _shown() - DRAWN if not OF_OTHER_PROGRAMS.match(name)}
    assert shown == set(screenshots.PICTURES)
    assert len(set(screenshots.PICTURES)) == len(screenshots.PICTURES)


def test_every_picture_is_there_and_shown() -> None:
    there = {path.relative_to(IMAGES).as_posix() for path in IMAGES.rglob("*") if path.is_file()}
    assert there == _shown()


@pytest.mark.parametrize("name", screenshots.PICTURES)
def test_a_picture_has_the_size_of_its_look_and_few_bytes(name: str) -> None:
    with Image.open(IMAGES / name) as image:
        assert image.width == (390 if "-phone" in name else 1366)
    assert (IMAGES / name).stat().st_size < 300_000


def test_the_palette_keeps_white_and_a_few_pixels_of_an_accent() -> None:
    random = np.random.default_rng(0)
    pixels = np.full((300, 400, 3), 255, np.uint8)
    pixels[50:250, 50:350] = random.integers(60, 200, (200, 300, 3))
    pixels[5:13, 5:13] = (37, 99, 235)
    written = np.asarray(screenshots.compressed(Image.fromarray(pixels)).convert("RGB"), int)
    assert (written[20:40] == 255).all()
    assert np.abs(written[5:13, 5:13] - (37, 99, 235)).mean() < 16


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -r requirements/test.txt")
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    monkeypatch.setenv("PATH", "")
    assert screenshots.main([]) == 2
    assert "needs Chromium: install" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["screenshots", "film"])
def test_the_targets_say_that_they_need_a_webui(task: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CELEB_BASIS_WEBUI"}
    command = [sys.executable, str(ROOT / "bootstrap.py"), task]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "CELEB_BASIS_WEBUI" in done.stderr
    assert re.search(rf"^TARGETS =.*\b{task}\b", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


class _Page:
    """A page that is a picture, noisy or the same, and has a pointer."""

    def __init__(self, pictures: list[bytes]) -> None:
        self.pictures = pictures

    def evaluate(self, _script: str, *_arguments: object) -> None:
        pass

    def wait_for_timeout(self, _milliseconds: float) -> None:
        pass

    def screenshot(self) -> bytes:
        return self.pictures.pop(0) if len(self.pictures) > 1 else self.pictures[0]


def _picture(color: str, folder: Path) -> bytes:
    Image.new("RGB", (64, 32), color).save(folder / "one.png")
    return (folder / "one.png").read_bytes()


def _after(looks: int) -> Callable[[], bool]:
    left = iter(range(looks))
    return lambda: next(left, None) is None


def test_a_film_shows_each_change_once_and_as_long_as_it_stood(tmp_path: Path) -> None:
    red, blue = (_picture(color, tmp_path) for color in ("red", "blue"))
    film = Film(_Page([red, red, blue, blue, red]), width=32)
    film.hold(0.5)
    film.hold(0.25)
    film.watch(_after(3), every=0, within=1)
    assert film.milliseconds == [750, 100, 100]
    film.save(tmp_path / "film.webp")
    with Image.open(tmp_path / "film.webp") as written:
        assert (written.n_frames, written.size, written.info["loop"]) == (3, (32, 16), 0)


def test_a_long_wait_is_shown_in_few_frames(tmp_path: Path) -> None:
    red, blue = (_picture(color, tmp_path) for color in ("red", "blue"))
    film = Film(_Page([red, blue] * 200 + [red]), width=32)
    film.watch(_after(400), every=0, within=3)
    assert len(film.frames) <= 60
    assert 1000 < sum(film.milliseconds) <= 3100


def test_a_film_that_is_too_large_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.webui import film as module
    from celeb_basis.errors import FileError

    assert MOST_BYTES <= 3_000_000
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    film = Film(_Page([_picture("red", tmp_path)]))
    film.hold(1)
    with pytest.raises(FileError, match="make it shorter"):
        film.save(tmp_path / "film.webp")
    assert not (tmp_path / "film.webp").exists()


@pytest.mark.slow
def test_the_pictures_and_the_film_are_taken_in_a_real_webui(tmp_path: Path) -> None:
    need_webui()
    assert screenshots.main(["--output", str(tmp_path / "images")]) == 0
    assert {path.name for path in (tmp_path / "images").iterdir()} == set(screenshots.PICTURES)
    assert screenshots.main(["--film", str(tmp_path / "film.webp")]) == 0
    with Image.open(tmp_path / "film.webp") as film:
        assert film.n_frames > 50
    assert (tmp_path / "film.webp").stat().st_size <= MOST_BYTES
