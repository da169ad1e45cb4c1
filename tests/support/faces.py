"""Real face networks and real photos for tests; photos are downloaded once and shared by all runs of a checkout."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.sample_photos import sample_photos

from celeb_basis.errors import CelebBasisError
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import Pixels
from celeb_basis.faces.packs import MINIATURE, SHIPPED_PACKS
from miniature.face_pack.registries import extract, pypi_archive

ASSETS = Path(__file__).resolve().parents[2] / ".assets"
"""Shared by all runs, ignored by git."""

ONE_PERSON = ("obama.jpg", "obama2.jpg", "obama3.jpg")
OTHER_PERSON = "biden.jpg"


@pytest.fixture(scope="session")
def miniature_folder() -> Path:
    """Folder of the pack ``miniature``: ``$CELEB_BASIS_MINIATURE``, or else the shipped one."""
    return Path(os.environ.get("CELEB_BASIS_MINIATURE") or SHIPPED_PACKS / MINIATURE)


@pytest.fixture(scope="session")
def miniature_faces(miniature_folder: Path) -> InsightFaceNetwork:
    """The real, small detector and recogniser."""
    return InsightFaceNetwork(miniature_folder, name="miniature")


@pytest.fixture(scope="session")
def six_faces() -> Pixels:
    """A real photo of six people."""
    return pixels_of(sample_photos()["six"])


@pytest.fixture(scope="session")
def person_photos() -> dict[str, Path]:
    """Photos by file name: three of one person and one of another. Skips where they cannot be had."""
    folder = ASSETS / "photos"
    names = (*ONE_PERSON, OTHER_PERSON)
    if not all((folder / name).is_file() for name in names):
        try:
            _download_photos(folder, names)
        except CelebBasisError as error:
            pytest.skip(f"no photos of one person: {error}")
    return {name: folder / name for name in names}


def pixels_of(path: Path) -> Pixels:
    """A plain photo's pixels, read without the code under test."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _download_photos(folder: Path, names: tuple[str, ...]) -> None:
    release = "face_recognition-1.3.0"
    with tempfile.TemporaryDirectory() as workshop:
        downloads, photos = Path(workshop) / "downloads", Path(workshop) / "photos"
        downloads.mkdir()
        photos.mkdir()
        archive = pypi_archive("face_recognition==1.3.0", downloads, source=True)
        extract(archive, {f"{release}/tests/test_images/{name}": photos / name for name in names})
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(photos / name, folder / f".{name}.{os.getpid()}")
            os.replace(folder / f".{name}.{os.getpid()}", folder / name)
