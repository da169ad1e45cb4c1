"""Face model packs that other tools have put on the disk."""

from __future__ import annotations

import errno
import os
import types
from pathlib import Path
from typing import Any

import pytest

from celeb_basis.errors import FacePackError, FileError
from celeb_basis.faces import packs
from celeb_basis.faces.packs import SOURCES, find_pack


def put(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    for file in SOURCES[name].files:
        (folder / file).write_bytes(b"\0" * 200_000)
    return folder


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.delenv("CELEB_BASIS_FACES", raising=False)


@pytest.mark.parametrize("name", ["antelopev2", "buffalo_l"])
@pytest.mark.parametrize("inside", ["{}", "{0}/{0}", "models/{}", "models/{0}/{0}"])
@pytest.mark.usefixtures("empty_home")
def test_packs_in_every_layout_are_found(
    tmp_path: Path, name: str, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = put(tmp_path / "insightface" / inside.format(name), name)
    assert find_pack(name, others=(tmp_path / "nothing", tmp_path / "insightface")).folder == there
    assert packs.licence_to_agree_to(name, others=(tmp_path / "insightface",)) is None, "it has been downloaded before"
    assert packs.obtain_pack(name, others=(tmp_path / "insightface",)).folder == there
    monkeypatch.setenv("CELEB_BASIS_FACES", str(tmp_path / "insightface"))
    assert find_pack(name).folder == there


@pytest.mark.usefixtures("empty_home")
def test_the_variable_may_name_the_pack_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = put(tmp_path / "elsewhere" / "antelopev2", "antelopev2")
    monkeypatch.setenv("CELEB_BASIS_FACES", str(there))
    assert find_pack("antelopev2").folder == there


def test_a_nested_pack_by_its_folder(tmp_path: Path) -> None:
    there = put(tmp_path / "antelopev2" / "antelopev2", "antelopev2")
    assert find_pack(tmp_path / "antelopev2").folder == there


@pytest.mark.usefixtures("empty_home")
def test_a_pack_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~/.insightface`` of another user, as in a container that ran as root before."""
    there = put(tmp_path / "insightface" / "models" / "buffalo_l", "buffalo_l")
    real = Path.stat

    def stat_(path: Path, **options: Any) -> os.stat_result:
        if there in (path, *path.parents):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat_)
    with pytest.raises(FacePackError, match="is not on this machine"):
        find_pack("buffalo_l", others=(tmp_path / "insightface",))
    with pytest.raises(FileError, match="permission is denied"):
        find_pack(there)


@pytest.mark.usefixtures("empty_home")
def test_other_files_of_these_folders_are_no_packs(tmp_path: Path) -> None:
    (tmp_path / "insightface").mkdir()
    (tmp_path / "insightface" / "inswapper_128.onnx").write_bytes(b"\0" * 200_000)
    put(tmp_path / "insightface" / "buffalo_l", "buffalo_l").joinpath("det_10g.onnx").unlink()
    whole = put(tmp_path / "insightface" / "models" / "buffalo_l", "buffalo_l")
    assert find_pack("buffalo_l", others=(tmp_path / "insightface",)).folder == whole


@pytest.mark.parametrize(
    "place", ["webui/models/insightface", "webui/models/insightface/models", "ComfyUI/models/insightface"]
)
@pytest.mark.usefixtures("empty_home")
def test_the_webui_finds_what_other_programs_have(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from celeb_basis.webui import face_models

    there = put(tmp_path / place / "antelopev2", "antelopev2")
    host = types.SimpleNamespace(models_path=str(tmp_path / "webui" / "models"), data_path=str(tmp_path / "webui"))
    monkeypatch.setattr(face_models, "host_module", lambda name: host if name == "paths" else None)
    models = face_models.FaceModels(lambda: "antelopev2")
    assert models.status() | {"present": True, "problem": "", "to_agree": False} == models.status()
    models.check_license()
    assert find_pack("antelopev2", others=face_models.other_programs_folders()).folder == there
