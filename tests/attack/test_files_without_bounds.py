"""Files that a user may have been given, besides identities, embeddings and pictures: no pipe blocks, each size is bounded."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celeb_basis.cli.arguments import size_step
from celeb_basis.errors import CelebBasisError, FacePackError, HostError, NamesError, PhotoError
from celeb_basis.faces.packs import MANIFEST, SHIPPED_PACKS, find_pack, unpack
from celeb_basis.hosts.diffusers.checkpoint import load_host
from celeb_basis.hosts.diffusers.configs import read_config
from celeb_basis.miniature import MODEL
from celeb_basis.names.lists import read_names
from celeb_basis.training import ray_executor


def _import(path: Path) -> None:
    from celeb_basis.cli.progress import Console
    from celeb_basis.cli.transfer import run_import

    run_import(
        argparse.Namespace(file=path, library=path.parent, name=None, replace=False), Console(False, False, False)
    )


def _resolution(path: Path) -> int:
    from celeb_basis.hosts.a1111.model import A1111Checkpoint

    kind: Any = {"is_sdxl": False, "is_sd1": True, "is_sd2": False, "is_sd3": False, "is_ssd": False}
    return A1111Checkpoint(SimpleNamespace(**kind, parameterization="eps", used_config=str(path))).resolution


READERS: dict[str, Callable[[Path], Any]] = {
    "a list of names": read_names,
    "a file to import": _import,
    "a checkpoint's config": read_config,
    "a face pack's manifest": lambda path: find_pack(path.parent),
    "a photo sent to a worker": ray_executor._read,
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("what", READERS)
def test_a_pipe_is_refused_in_words(what: str, tmp_path: Path) -> None:
    path = tmp_path / (MANIFEST if "manifest" in what else "pipe.txt")
    for model in (SHIPPED_PACKS / "miniature").glob("*.onnx"):
        (tmp_path / model.name).symlink_to(model)
    os.mkfifo(path)
    with pytest.raises(CelebBasisError, match=r"cannot be read|named pipe") as caught:
        READERS[what](path)
    assert str(caught.value).endswith(".")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_beside_a_checkpoint_counts_as_no_file(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    os.mkfifo(tmp_path / "vae" / "config.json")
    os.mkfifo(tmp_path / "model.yaml")
    assert size_step(tmp_path) == 8
    assert _resolution(tmp_path / "model.yaml") == 512


@pytest.mark.parametrize("content", [b"[" * 200_000, b'"' + b"x" * 40_000_000 + b'"', b"[]", b"3", b'{"files": [1]}'])
def test_a_manifest_that_is_too_large_too_deep_or_no_table(content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(SHIPPED_PACKS / "miniature", folder)
    (folder / MANIFEST).write_bytes(content)
    if content == b"[]":  # an empty table
        assert find_pack(folder).folder == folder
        return
    with pytest.raises(FacePackError, match="get the pack again"):
        find_pack(folder)


def test_a_zip_that_unpacks_to_more_than_any_pack(tmp_path: Path) -> None:
    archive = tmp_path / "pack.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("model.onnx", b"x" * 1000)
    data = archive.read_bytes()
    assert data.count((1000).to_bytes(4, "little")) == 4  # packed and unpacked, before the content and in the directory
    archive.write_bytes(data.replace((1000).to_bytes(4, "little"), (0xFFFFFFF0).to_bytes(4, "little")))
    with zipfile.ZipFile(archive, "a") as zipped:
        zipped.writestr("other.onnx", b"y" * 1000)
    with pytest.raises(FacePackError, match="too large for a pack"):
        unpack(archive, tmp_path / "pack")
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.parametrize(
    "content", [b"[" * 60_000, b"a: x\n" * 20_000, b"a: &a {}\nb: {<<: *a}\n" * 9, b"\xff\xfe\xff"]
)
def test_a_config_is_bounded(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_bytes(content)
    with pytest.raises(HostError, match="repair it or take it away"):
        read_config(path)
    assert _resolution(path) == 512


def test_the_configs_of_a_diffusers_folder_are_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for part in ("unet", "vae", "text_encoder"):
        for weights in (MODEL / part).glob("*.safetensors"):
            (folder / part / weights.name).symlink_to(weights)
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps({"x": "x" * (30 << 20)}))
    with pytest.raises(HostError, match="which no such file has"):
        load_host(folder, device="cpu")
    config.write_text("[" * 200_000)
    assert size_step(folder) == 8
    with pytest.raises(HostError, match="copy the checkpoint again"):
        load_host(folder, device="cpu")
    if hasattr(os, "mkfifo"):
        config.unlink()
        os.mkfifo(config)
        with pytest.raises(CelebBasisError, match="named pipe"):
            load_host(folder, device="cpu")


def test_a_photo_for_a_worker_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ada.jpg").write_bytes(b"abc")
    assert ray_executor._read(tmp_path / "ada.jpg") == b"abc"
    monkeypatch.setattr(ray_executor, "_MAX_PHOTO", 2)
    with pytest.raises(PhotoError, match=r"ada\.jpg is larger"):
        ray_executor._read(tmp_path / "ada.jpg")


def test_a_device_is_no_list_of_names() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("needs /dev/zero")
    with pytest.raises(NamesError, match="a device"):
        read_names(Path("/dev/zero"))
