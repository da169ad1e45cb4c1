"""The real WebUI with its own fastapi: no request gets a 500, pages of other sites nothing, nobody's file is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.described_requests import try_every_operation
from support.webui import need_webui
from support.webui_server import Server, serving

from celeb_basis.webui.api import PREFIX

JSON = {"Content-Type": "application/json"}


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


def test_pages_of_other_sites_call_no_event_of_the_page(server: Server) -> None:
    config = json.loads(server.raw("GET", "/config")[1])
    names = {one["id"]: str(one["props"].get("elem_id") or "") for one in config["components"]}
    ours, theirs = [], []
    for number, event in enumerate(config["dependencies"]):
        parts = [*event["targets"], *event["inputs"], *event["outputs"]]
        ids = {part[0] if isinstance(part, list) else part for part in parts}
        of_ours = any(names.get(one, "").startswith("celeb_basis") for one in ids)
        if event["backend_fn"] and of_ours:
            ours.append(number)
        elif event["backend_fn"]:
            theirs.append(number)
    assert len(ours) > 30
    assert len(theirs) > 100

    def status(number: int, headers: dict[str, str]) -> int:
        event = {"fn_index": number, "data": [], "session_hash": "x", "request": {"headers": {}}}
        answer = server.raw("POST", "/run/predict", json.dumps(event).encode(), JSON | headers)
        return answer[0]

    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert {status(number, headers) for number in ours} == {403}
        assert status(theirs[0], headers) != 403
    own = {"Origin": server.base, "Sec-Fetch-Site": "same-origin"}
    assert status(ours[0], own) != 403


def test_requests_made_from_the_description(server: Server) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    described = schemathesis.openapi.from_url(f"{server.base}/openapi.json").include(path_regex=f"^{PREFIX}/")
    tried = try_every_operation(described, 8)
    assert len(tried) >= 30
    for path in ("people", "jobs", "runs"):
        status, content = server.raw("GET", f"{PREFIX}/{path}")
        assert status == 200
        assert json.loads(content)
