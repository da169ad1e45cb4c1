"""The host's route for files serves nobody's files, whatever way a path takes to them; everything else it serves as before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.api_client import need_test_client

from celeb_basis.webui.host_server import deny_own_files
from celeb_basis.webui.options import Paths

fastapi = pytest.importorskip("fastapi")
testclient = need_test_client()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "celeb-basis/people/ada.safetensors",
        "celeb-basis/people/.tmp-1/x",
        "celeb-basis/unfinished/run/state.pt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"ada")
    (tmp_path / "celeb-basis" / "uploads").mkdir()
    (tmp_path / "celeb-basis" / "uploads" / "photo.png").write_bytes(b"ada")
    (tmp_path / "style.css").write_bytes(b"css")
    (tmp_path / "celeb-basis" / "names.txt").write_bytes(b"names")
    (tmp_path / "linked").symlink_to(tmp_path / "celeb-basis" / "people", target_is_directory=True)
    (tmp_path / "one.png").symlink_to(tmp_path / "celeb-basis" / "uploads" / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def client(root: Path) -> Any:
    app = fastapi.FastAPI()

    def file(path: str) -> Any:
        """As gradio does, without its checks."""
        return fastapi.responses.FileResponse(os.path.abspath(path))

    for route in ("/file={path:path}", "/file/{path:path}"):
        app.get(route)(file)
        app.head(route)(file)
    deny_own_files(app, lambda: Paths(root / "celeb-basis").private)
    return testclient.TestClient(app)


@pytest.mark.parametrize(
    "path",
    [
        "celeb-basis/people/ada.safetensors",
        "celeb-basis/people/.tmp-1/x",
        "celeb-basis/unfinished/run/state.pt",
        "celeb-basis/uploads/photo.png",
        "celeb-basis/people",
        "celeb-basis/people/nobody.safetensors",
        "./celeb-basis//people/ada.safetensors",
        "celeb-basis/%2e%2e/celeb-basis/people/ada.safetensors",
        "celeb-basis%2Fpeople%2Fada.safetensors",
        "celeb-basis/people/%2e%2e/people/ada.safetensors",
        "linked/ada.safetensors",
        "one.png",
    ],
)
def test_files_of_people_are_refused(client: Any, root: Path, path: str) -> None:
    for prefix in ("/file=", "/file=" + str(root) + "/", "/file/"):
        for method in ("GET", "HEAD"):
            assert client.request(method, prefix + path).status_code == 403, prefix
    assert b"ada" not in client.get("/file=" + path).content.replace(b"ada.safetensors", b"")


def test_other_files_are_served_as_before(client: Any, root: Path) -> None:
    for path in (
        "style.css",
        "celeb-basis/names.txt",
        f"{root}/style.css",
        "celeb-basis/people/%2e%2e/%2e%2e/style.css",
    ):
        assert client.get(f"/file={path}").status_code == 200
    for path in ("%00", "x" * 5000, "", "/"):
        assert client.head(f"/profile={path}").status_code == 404


def test_a_data_folder_that_is_the_hosts_own_keeps_the_rest_served(root: Path, client: Any) -> None:
    from celeb_basis.webui.host_server import is_inside

    (root / "people").mkdir()
    assert not is_inside("style.css", Paths(root).private)
    assert is_inside("people/x", Paths(root).private)
    for text in ("\x00", "x" * 5000, "", "/", "people\x00/x"):
        assert not is_inside(text, Paths(root).private)
    assert client.get("/file=style.css").content == b"css"
