"""The license of the face models is shown and agreed to before their download, on the command line and over the API."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.api_client import need_test_client
from support.sample_photos import sample_photos

from celeb_basis.faces import packs
from celeb_basis.webui.options import Options
from celeb_basis.webui.service import Service

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
testclient = need_test_client()

PHOTO = sample_photos()["six"].read_bytes()
PREFIX = "/celeb-basis/v1"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """``buffalo_l`` is not here and is offered on 127.0.0.1; the paths that were asked for there."""
    site, paths = tmp_path / "site", []
    site.mkdir()

    class Noting(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            paths.append(self.path)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, name in enumerate(packs.SOURCES["buffalo_l"].files):
            archive.writestr(name, np.random.default_rng(number).bytes(120_000))
    (site / "buffalo_l.zip").write_bytes(buffer.getvalue())
    source = replace(packs.SOURCES["buffalo_l"], archive_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    monkeypatch.setattr(packs, "SOURCES", {**packs.SOURCES, "buffalo_l": source})
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("CELEB_BASIS_FACES", raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Noting, directory=str(site)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setattr(packs, "RELEASES", f"http://127.0.0.1:{server.server_port}")
    yield paths
    server.shutdown()
    server.server_close()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def words(parts: Any) -> list[object]:
    return ["learn", parts.photo, "--name", "ada", "--model", parts.model, "--names", parts.names]


def test_nobody_to_be_asked(celeb: Callable[..., Any], parts: Any, asked: list[str]) -> None:
    answer = celeb(*words(parts))
    assert answer.code == 2
    assert "non-commercial research" in answer.err
    assert "--accept-licence" in answer.err.split("error: ")[1]
    assert asked == []


@pytest.mark.parametrize(("said", "downloads"), [("n\n", False), ("\n", False), ("", False), ("y\n", True)])
def test_the_terminal_is_asked(
    celeb: Callable[..., Any], parts: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch, said: str, downloads: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(said))
    answer = celeb(*words(parts))
    assert answer.err.index("Their license: ") < answer.err.index("Do you agree")
    assert bool(asked) == downloads
    # The made-up models are no networks: behind the download, loading them fails.
    assert answer.code == 2


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_agreeing_beforehand(
    celeb: Callable[..., Any], parts: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "environment":
        monkeypatch.setenv("CELEB_BASIS_ACCEPT_LICENCE", "buffalo_l")
    answer = celeb(*words(parts), *(["--accept-licence"] if way == "flag" else []))
    assert "non-commercial research" in answer.err, "it is shown nevertheless"
    assert asked


@pytest.fixture
def fresh(service: Service, asked: list[str]) -> Service:
    """The service with ``buffalo_l`` chosen, which is not here."""
    assert asked == []
    service.workspace.options = lambda: Options(face_pack="buffalo_l")
    service.faces._loaded = None
    return service


@pytest.fixture
def client(fresh: Service) -> Any:
    from celeb_basis.webui.api.routes import mount

    app = fastapi.FastAPI()
    mount(app, fresh)
    return testclient.TestClient(app)


def test_every_route_that_needs_them_refuses_with_a_sentence(client: Any, fresh: Service, asked: list[str]) -> None:
    photo = base64.b64encode(PHOTO).decode()
    person = {"people": [{"name": "ada", "photos": [{"data": photo}]}], "consent": True}
    file = {"photo": ("six.jpg", PHOTO)}
    form = {"data": {"name": "ada", "consent": "true"}, "files": {"photos": ("six.jpg", PHOTO)}}
    answers = [
        client.post(f"{PREFIX}/faces", json={"data": photo}),
        client.post(f"{PREFIX}/faces/form", files=file),
        client.post(f"{PREFIX}/learn", json=person),
        client.post(f"{PREFIX}/learn/form", **form),
        client.post(f"{PREFIX}/evaluate", json={"name": "ada"}),
        client.post(f"{PREFIX}/face-models", json={}),
    ]
    assert [answer.status_code for answer in answers] == [403] * len(answers)
    for answer in answers:
        assert "non-commercial research" in answer.json()["detail"]
        assert "accept_licence" in answer.json()["detail"]
    assert client.get(f"{PREFIX}/face-models").json()["to_agree"]
    assert asked == []
    assert fresh.jobs() == []


def test_with_the_agreement_they_are_downloaded(client: Any, fresh: Service, asked: list[str]) -> None:
    answer = client.post(f"{PREFIX}/face-models", json={"accept_licence": True})
    assert answer.status_code == 202
    assert fresh.job(answer.json()["id"]).wait(60)
    assert asked
    status = client.get(f"{PREFIX}/face-models").json()
    assert (status["present"], status["to_agree"]) == (True, False)
    assert "non-commercial" in status["licence"]
