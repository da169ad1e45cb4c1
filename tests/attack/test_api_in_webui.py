"""The real WebUI with its own fastapi: no request gets a 500, pages of other sites nothing, nobody's file is served."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.webui import need_webui
from support.webui_server import Server, serving

from celeb_basis.webui.api import PREFIX


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    webui = need_webui("sd1")
    data = tmp_path_factory.mktemp("data")
    people = data / "celeb-basis" / "people"
    people.mkdir(parents=True)
    (people / "ada.safetensors").write_bytes(b"ada")
    (data / "note.txt").write_bytes(b"served")
    with serving(webui, data, miniature_folder, page=True) as running:
        yield running


def test_files_of_people_are_not_served_by_their_paths(server: Server) -> None:
    assert server.raw("GET", f"/file={server.data}/note.txt") == (200, b"served")
    status, content = server.raw("GET", f"/file={server.data}/celeb-basis/people/ada.safetensors")
    assert status == 403
    assert content != b"ada"


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    for headers in (
        {"Origin": "https://evil.example", "Content-Type": "application/json"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
    ):
        for method, path in (
            ("GET", "/people"),
            ("POST", "/learn"),
            ("DELETE", "/people/ada"),
            ("POST", "/people/ada/notes"),
        ):
            status, content = server.raw(method, PREFIX + path, b"{}" if method == "POST" else None, headers)
            assert status == 403, (headers, path, content)
    assert (server.data / "celeb-basis" / "people" / "ada.safetensors").read_bytes() == b"ada"


def test_requests_made_from_the_description(server: Server) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable

    described = schemathesis.openapi.from_url(f"{server.base}/openapi.json").include(path_regex=f"^{PREFIX}/")
    limits = settings(
        max_examples=8,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    tried: set[str] = set()

    def ask(case: Any) -> None:
        tried.add(case.operation.label)
        answer = case.call()
        assert answer.status_code < 500, (answer.status_code, answer.text, case.as_curl_command())

    for found in described.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            with contextlib.suppress(Unsatisfiable):
                limits(given(case=operation.as_strategy(generation_mode=mode))(ask))()
    assert len(tried) >= 30
    for path in ("people", "jobs", "runs"):
        status, content = server.raw("GET", f"{PREFIX}/{path}")
        assert status == 200
        assert json.loads(content)
