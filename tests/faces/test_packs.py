"""Finding, downloading, unpacking and checking packs, with made-up model files and a local web server."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celeb_basis.errors import CelebBasisError, DownloadError, FacePackError, LicenseError
from celeb_basis.faces import packs
from celeb_basis.faces.packs import MANIFEST, SHIPPED_PACKS, SOURCES, find_pack, obtain_pack, unpack

DETECTOR = np.random.default_rng(1).bytes(120_000)
RECOGNIZER = np.random.default_rng(2).bytes(150_000)


@pytest.fixture(autouse=True)
def nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("CELEB_BASIS_FACES", raising=False)


def put_pack(folder: Path, name: str = "buffalo_l") -> Path:
    folder.mkdir(parents=True)
    for file, data in zip(SOURCES[name].files, (DETECTOR, RECOGNIZER), strict=True):
        (folder / file).write_bytes(data)
    return folder


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_where_packs_are_looked_for(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    insightfaces = put_pack(tmp_path / "home" / ".insightface" / "models" / "buffalo_l")
    assert find_pack("buffalo_l").folder == insightfaces
    ours = put_pack(private_cache / "faces" / "models" / "buffalo_l")
    assert find_pack("buffalo_l").folder == ours
    chosen = put_pack(tmp_path / "chosen" / "buffalo_l")
    monkeypatch.setenv("CELEB_BASIS_FACES", str(tmp_path / "chosen"))
    assert find_pack("buffalo_l").folder == chosen
    given = put_pack(tmp_path / "given" / "buffalo_l")
    assert find_pack("buffalo_l", tmp_path / "given").folder == given
    assert "non-commercial" in find_pack("buffalo_l").licence


def test_the_shipped_pack_is_found_last(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = SHIPPED_PACKS / "miniature"
    assert packs.pack_folders()[-1] == packs.pack_folders(tmp_path)[-1] == SHIPPED_PACKS
    assert find_pack("miniature").folder == obtain_pack("miniature").folder == shipped
    assert find_pack("miniature", tmp_path).folder == shipped
    find_pack("miniature").verify()
    cached = private_cache / "faces" / "models" / "miniature"
    shutil.copytree(shipped, cached)
    assert find_pack("miniature").folder == cached
    (cached / "detector.onnx").unlink()
    assert find_pack("miniature").folder == shipped
    monkeypatch.setattr(packs, "SHIPPED_PACKS", tmp_path / "nothing")
    shutil.rmtree(cached)
    with pytest.raises(FacePackError, match="install celeb-basis again"):
        obtain_pack("miniature")


def test_a_complete_pack_is_preferred_to_an_incomplete_one(tmp_path: Path, private_cache: Path) -> None:
    put_pack(private_cache / "faces" / "models" / "buffalo_l").joinpath("w600k_r50.onnx").unlink()
    with pytest.raises(FacePackError, match=r"lacks w600k_r50\.onnx"):
        find_pack("buffalo_l")
    whole = put_pack(tmp_path / "home" / ".insightface" / "models" / "buffalo_l")
    assert find_pack("buffalo_l").folder == whole


def test_a_folder_instead_of_a_name(tmp_path: Path) -> None:
    folder = put_pack(tmp_path / "my models")
    assert find_pack(folder).folder == folder
    assert find_pack(str(folder)).folder == folder
    with pytest.raises(FacePackError, match="There is no folder"):
        find_pack(tmp_path / "elsewhere")
    (folder / "w600k_r50.onnx").unlink()
    with pytest.raises(FacePackError, match=r"does not contain the \.onnx files of a detector"):
        find_pack(folder)


@pytest.mark.parametrize("name", ["buffalo_l", "antelopev2"])
def test_a_missing_pack_names_address_files_and_folder(name: str, private_cache: Path) -> None:
    with pytest.raises(FacePackError) as caught:
        find_pack(name)
    text = str(caught.value)
    assert f"https://github.com/deepinsight/insightface/releases/download/v0.7/{name}.zip" in text
    assert all(file in text for file in SOURCES[name].files)
    assert str(private_cache / "faces" / "models" / name) in text


def test_the_error_for_unknown_names_lists_the_choices() -> None:
    for name in ("bufalo", "", ".."):
        with pytest.raises(FacePackError, match="buffalo_l, antelopev2, miniature"):
            find_pack(name)
    with pytest.raises(FacePackError, match="no face model pack 'bufalo'"):
        obtain_pack("bufalo")


def test_a_pointer_file_is_not_taken_for_a_model(tmp_path: Path) -> None:
    folder = put_pack(tmp_path / "buffalo_l")
    (folder / "det_10g.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(FacePackError, match="is incomplete"):
        find_pack(folder)


# insightface's zips: one has its files at the top, the other in a folder; neither path may lead anywhere.
LAYOUTS = {
    "flat": "",
    "nested": "antelopev2/",
    "climbing": "../../../",
    "absolute": "/tmp/",
}


@pytest.mark.parametrize("prefix", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_unpacking_any_layout(tmp_path: Path, prefix: str) -> None:
    archive = tmp_path / "zips" / "deep" / "pack.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(
        zipped(
            {f"{prefix}a.onnx": DETECTOR, f"{prefix}b.onnx": RECOGNIZER, f"{prefix}read.me": b"x", "c\\d.onnx": b"y"}
        )
    )
    target = tmp_path / "deep" / "down" / "here" / "pack"
    unpack(archive, target)
    assert sorted(path.name for path in target.iterdir()) == ["a.onnx", "b.onnx", MANIFEST]
    assert sorted(path.name for path in tmp_path.rglob("*.onnx")) == ["a.onnx", "b.onnx"]
    assert [path.name for path in target.parent.iterdir()] == ["pack"]
    recorded = json.loads((target / MANIFEST).read_text())["files"]["a.onnx"]
    assert recorded == {"bytes": len(DETECTOR), "sha256": hashlib.sha256(DETECTOR).hexdigest()}


@pytest.mark.parametrize("data", [b"no zip", zipped({"a.onnx": DETECTOR})[:-5000], zipped({"read.me": b""})])
def test_bad_zips_leave_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pack.zip").write_bytes(data)
    with pytest.raises(FacePackError, match=r"pack\.zip"):
        unpack(tmp_path / "pack.zip", tmp_path / "models" / "pack")
    assert [path for path in tmp_path.rglob("*") if path.name != "pack.zip" and path.is_file()] == []


def test_unpacking_keeps_what_else_is_in_the_folder(tmp_path: Path) -> None:
    folder = put_pack(tmp_path / "models" / "buffalo_l")
    (folder / "2d106det.onnx").write_bytes(b"the user's own")
    (tmp_path / "pack.zip").write_bytes(zipped({"det_10g.onnx": RECOGNIZER, "w600k_r50.onnx": DETECTOR}))
    unpack(tmp_path / "pack.zip", folder, files=SOURCES["buffalo_l"].files)
    assert (folder / "2d106det.onnx").read_bytes() == b"the user's own"
    assert (folder / "det_10g.onnx").read_bytes() == RECOGNIZER


def test_later_damage_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "pack.zip").write_bytes(zipped({"a.onnx": DETECTOR, "b.onnx": RECOGNIZER}))
    target = tmp_path / "pack"
    unpack(tmp_path / "pack.zip", target)
    find_pack(target).verify()
    (target / "a.onnx").write_bytes(DETECTOR[:-1] + b"!")
    with pytest.raises(FacePackError, match=r"a\.onnx has changed"):
        find_pack(target).verify()
    (target / "a.onnx").write_bytes(DETECTOR[:-1])
    with pytest.raises(FacePackError, match="is incomplete"):
        find_pack(target)
    (target / MANIFEST).write_text("[not json")
    with pytest.raises(FacePackError, match="cannot be read"):
        find_pack(target)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served on 127.0.0.1 instead of insightface's releases."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setattr(packs, "RELEASES", f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    server.server_close()


def serve_antelope(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zipped(
        {
            "antelopev2/scrfd_10g_bnkps.onnx": DETECTOR,
            "antelopev2/glintr100.onnx": RECOGNIZER,
            "antelopev2/1k3d68.onnx": b"not needed",
        }
    )
    (site / "antelopev2.zip").write_bytes(data)
    source = replace(SOURCES["antelopev2"], archive_sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(packs, "SOURCES", {**SOURCES, "antelopev2": source})


def test_a_pack_is_downloaded_on_first_use_only(
    site: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_antelope(site, monkeypatch)
    seen: list[tuple[int, int | None]] = []
    pack = obtain_pack("antelopev2", progress=lambda done, total: seen.append((done, total)), agreed=True)
    assert pack.folder == private_cache / "faces" / "models" / "antelopev2"
    assert sorted(path.name for path in pack.folder.iterdir()) == [MANIFEST, "glintr100.onnx", "scrfd_10g_bnkps.onnx"]
    assert [path.name for path in pack.folder.parent.iterdir()] == ["antelopev2"], "the zip is gone"
    assert seen[-1][0] == seen[-1][1]
    pack.verify()
    (site / "antelopev2.zip").unlink()
    assert obtain_pack("antelopev2") == pack == find_pack("antelopev2")


def test_nothing_is_downloaded_before_the_license_is_accepted(
    site: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_antelope(site, monkeypatch)
    with pytest.raises(LicenseError) as caught:
        obtain_pack("antelopev2")
    for part in ("antelopev2", "non-commercial research", "https://github.com/deepinsight/insightface", "361 MB"):
        assert part in str(caught.value)
    assert not private_cache.joinpath("faces").exists()
    monkeypatch.setenv("CELEB_BASIS_ACCEPT_LICENCE", "buffalo_l")
    with pytest.raises(LicenseError):
        obtain_pack("antelopev2")
    monkeypatch.setenv("CELEB_BASIS_ACCEPT_LICENCE", "buffalo_l, antelopev2")
    pack = obtain_pack("antelopev2")
    recorded = json.loads((pack.folder / MANIFEST).read_text())
    assert "non-commercial" in recorded["licence"]
    assert recorded["licence_agreed"]
    monkeypatch.delenv("CELEB_BASIS_ACCEPT_LICENCE")
    assert obtain_pack("antelopev2") == pack, "what is here asks no new question"


def test_a_modified_zip_is_refused(site: Path, private_cache: Path) -> None:
    (site / "buffalo_l.zip").write_bytes(zipped({"det_10g.onnx": DETECTOR, "w600k_r50.onnx": RECOGNIZER}))
    with pytest.raises(DownloadError, match="SHA-256 differs"):
        obtain_pack("buffalo_l", agreed=True)
    assert not list(private_cache.rglob("*.onnx"))


def test_offline_one_message_says_which_files_go_where(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "RELEASES", "http://127.0.0.1:9")
    with pytest.raises(DownloadError) as caught:
        obtain_pack("buffalo_l", agreed=True)
    text = str(caught.value)
    for part in ("could not be reached", "/buffalo_l.zip", "det_10g.onnx and w600k_r50.onnx"):
        assert part in text
    assert str(private_cache / "faces" / "models" / "buffalo_l") in text


def test_a_zip_of_the_users_own(site: Path, tmp_path: Path) -> None:
    data = zipped({"det.onnx": DETECTOR, "rec.onnx": RECOGNIZER})
    (site / "mine.zip").write_bytes(data)
    with pytest.raises(CelebBasisError, match="SHA-256 differs"):
        obtain_pack("mine", root=tmp_path / "own", url=f"{packs.RELEASES}/mine.zip", sha256="1" * 64)
    pack = obtain_pack(
        "mine", root=tmp_path / "own", url=f"{packs.RELEASES}/mine.zip", sha256=hashlib.sha256(data).hexdigest()
    )
    assert pack.folder == tmp_path / "own" / "mine"
    assert find_pack("mine", tmp_path / "own") == pack
