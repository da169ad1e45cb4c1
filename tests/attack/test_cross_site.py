"""Pages of other sites change nothing over the API, whatever they send; the WebUI's own pages and programs may."""

from __future__ import annotations

import asyncio
import base64
import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.api_client import need_test_client

from celeb_basis.identities.expand import new_identity
from celeb_basis.webui.api import PREFIX
from celeb_basis.webui.api.access import Access

fastapi = pytest.importorskip("fastapi")
testclient = need_test_client()

OWN = "http://127.0.0.1:7860"
FOREIGN = (
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    {"Origin": "https://evil.example"},  # a browser without Sec-Fetch-Site
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},  # a sandboxed frame, a local file
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},  # a form
    {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-site"},  # another program of this machine
    {"Origin": "http://localhost:7860", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://127.0.0.1:7860.evil.example", "Sec-Fetch-Site": "cross-site"},
    {
        "Origin": "http://evil.example",
        "Sec-Fetch-Site": "same-origin",
        "Host": "evil.example",
    },  # a name that points here
    {"Host": "evil.example:7860"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example", "X-Forwarded-Host": "localhost"},
)
OURS: tuple[dict[str, str], ...] = (
    {},  # curl
    {"Origin": OWN, "Sec-Fetch-Site": "same-origin"},
    {"Origin": OWN},
    {"Sec-Fetch-Site": "none"},  # typed into the address bar
    {"Host": "localhost:7860", "Origin": "http://localhost:7860", "Sec-Fetch-Site": "same-origin"},
    {"Host": "[::1]:7860", "Origin": "http://[::1]:7860", "Sec-Fetch-Site": "same-origin"},
    {"Host": "192.168.1.20:7860", "Origin": "http://192.168.1.20:7860"},
    {"Host": "workstation", "Origin": "http://workstation"},
    {"Host": "workstation.local:7860", "Origin": "http://workstation.local:7860"},
    {"Host": "1a2b3c.gradio.live", "Origin": "https://1a2b3c.gradio.live", "Sec-Fetch-Site": "same-origin"},
    {"Host": "abc.ngrok-free.app", "Origin": "https://abc.ngrok-free.app", "Sec-Fetch-Site": "same-origin"},
    # A proxy on this machine that says in a header which address it was asked for.
    {"Host": "127.0.0.1:7860", "X-Forwarded-Host": "sd.example.org", "Origin": "https://sd.example.org"},
)


@pytest.fixture
def client(service: Any) -> Iterator[Any]:
    with _client(service, Namespace()) as made:
        yield made


def _client(service: Any, flags: Namespace, api_auth: str | None = None) -> Any:
    from celeb_basis.webui.api.routes import mount

    app = fastapi.FastAPI()
    mount(app, service, api_auth, flags)
    return testclient.TestClient(app, base_url=OWN)


@pytest.fixture
def ada(service: Any) -> bytes:
    """The bytes of the file of a person in the library."""
    with service.model.read() as model:
        bases = service.model.bases(model, 8)
        given = [basis.name_coefficients[0] for basis in bases]
        made = new_identity("ada", given, bases, model.info, face_model="toy", source="learned")
        service.workspace.library.add(made)
    (file,) = service.workspace.paths.people.glob("*.safetensors")
    return Path(file).read_bytes()


def _state(service: Any) -> list[tuple[str, bytes]]:
    root = service.workspace.paths.people
    return sorted(
        (str(path), path.read_bytes()) for path in root.rglob("*") if path.is_file() and ".tmp" not in path.name
    )


def _routes(client: Any) -> list[tuple[str, str]]:
    paths = client.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_no_route_answers_a_page_of_another_site(
    client: Any, service: Any, ada: bytes, headers: dict[str, str]
) -> None:
    before, jobs = _state(service), len(service.jobs())
    for method, path in _routes(client):
        url = path.replace("{name}", "ada").replace("{job_id}", "1").replace("{number}", "0")
        followed = headers.get("Sec-Fetch-Dest") == "document" and method == "GET"
        for body in _bodies(ada):
            if method == "GET" and body:
                continue
            answer = client.request(method, url, **body | {"headers": headers | body.get("headers", {})})
            if followed and not path.endswith("/basis"):
                continue  # a link may show one of our answers to the user
            assert answer.status_code == 403, (method, url, body)
            assert answer.json()["detail"].endswith(".")
    assert _state(service) == before
    assert len(service.jobs()) == jobs


def _bodies(ada: bytes) -> list[dict[str, Any]]:
    """What a page can send without asking first, and what it has to ask for."""
    text = json.dumps({"name": "eve", "notes": "mine", "consent_note": "yes", "accept_licence": True, "replace": True})
    return [
        {},
        {"data": {"name": "eve", "replace": "true"}},
        {"files": {"file": ("ada.safetensors", ada)}, "data": {"name": "ada", "replace": "true"}},
        {"content": text, "headers": {"Content-Type": "text/plain"}},
        {"content": text, "headers": {"Content-Type": "application/json"}},
        {"content": text},
    ]


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("headers", OURS, ids=str)
def test_the_webuis_own_pages_and_programs_are_answered(client: Any, service: Any, headers: dict[str, str]) -> None:
    assert client.get(f"{PREFIX}/people", headers=headers).status_code == 200
    answer = client.post(f"{PREFIX}/people/ada/notes", json={"notes": "seen"}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert service.people.entry("ada").identity.metadata.notes == "seen"


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "text/json-like", "json"]
)
def test_json_needs_its_type(client: Any, service: Any, content_type: str | None) -> None:
    before = _state(service)
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = client.post(f"{PREFIX}/people/ada/notes", content=b'{"notes": "mine"}', headers=headers)
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]
    assert _state(service) == before
    for right in (
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/merge-patch+json",
    ):
        answer = client.post(f"{PREFIX}/people/ada/notes", content=b'{"notes": "x"}', headers={"Content-Type": right})
        assert answer.status_code == 200, right


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    "flags",
    [
        Namespace(cors_allow_origins="https://friend.example, https://other.example/"),
        Namespace(cors_allow_origins_regex=r"https://.*\.example"),
        Namespace(cors_allow_origins="*"),
        Namespace(cors_origins="https://friend.example"),  # SD.Next's name
    ],
    ids=str,
)
def test_sites_that_the_host_allows_are_answered(service: Any, flags: Namespace) -> None:
    client = _client(service, flags)
    headers = {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}
    assert client.post(f"{PREFIX}/people/ada/notes", json={"notes": "x"}, headers=headers).status_code == 200
    if flags != Namespace(cors_allow_origins="*"):
        for origin in ("https://evil.invalid", "https://friend.example.evil.invalid", "http://friend.example:1"):
            answer = client.post(
                f"{PREFIX}/people/ada/notes", json={"notes": "x"}, headers=headers | {"Origin": origin}
            )
            assert answer.status_code == 403, origin


def test_names_that_the_host_was_given_are_its_own() -> None:
    for flags in (
        Namespace(server_name="sd.example.org"),
        Namespace(cors_allow_origins="https://sd.example.org"),
        Namespace(ngrok_options={"domain": "sd.example.org"}),
        Namespace(tls_certfile="cert.pem"),
    ):
        assert Access.of(None, flags).refusal("GET", {"host": "sd.example.org:7860"}) is None
    assert (
        Access.of(None, Namespace(cors_allow_origins_regex="(")).refusal("GET", {"host": "sd.example.org"}) is not None
    )


def status_of(app: Any, path: str, headers: dict[str, str]) -> int:
    """The status of a POST whose body must not be read."""
    started: list[int] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.append(message["status"])

    raw = [(key.lower().encode(), value.encode("latin-1")) for key, value in headers.items()]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": raw,
    }
    scope |= {"asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": ""}
    scope |= {"server": ("127.0.0.1", 7860)}
    asyncio.run(app(scope, receive, send))
    return started[0]


@pytest.mark.parametrize("api_auth", ["ada:secret", "no colon", "ada:se:cret , bob:x"])
def test_credentials_type_and_length_come_before_the_body(service: Any, api_auth: str) -> None:
    app = _client(service, Namespace(), api_auth).app
    json_type = {"Content-Type": "application/json", "Content-Length": str(380 << 20), "Host": "127.0.0.1:7860"}
    for path in ("/learn", "/faces", "/people/import", "/blend", "/learn/form", "/people/import/form"):
        for header in ("", "Basic", "Bearer x", "Basic " + "A" * 5000, "basic \u00e4", *map(_basic, ("ada:no", ":"))):
            assert status_of(app, PREFIX + path, json_type | {"Authorization": header}) == 401
    open_to_all = _client(service, Namespace()).app
    for path in ("/faces", "/people/import", "/blend", "/people/ada/notes", "/learn/estimate"):
        assert status_of(open_to_all, PREFIX + path, json_type) == 413
        assert status_of(open_to_all, PREFIX + path, {"Content-Type": "text/plain", "Content-Length": "50"}) == 422
    assert status_of(open_to_all, f"{PREFIX}/learn/form", json_type | {"Content-Length": "50"}) == 422
    assert status_of(open_to_all, f"{PREFIX}/learn", json_type | {"Origin": "https://evil.example"}) == 403


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_the_right_credentials_are_let_in(service: Any) -> None:
    client = _client(service, Namespace(), "ada:se:cret , bob:x")
    for name, password in (("ada", "se:cret"), ("bob", "x")):
        assert client.get(f"{PREFIX}/people", auth=(name, password)).status_code == 200
    for name, password in (("ada", "se"), ("ada", ""), ("bob", "se:cret"), ("", "")):
        answer = client.get(f"{PREFIX}/people", auth=(name, password))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")


# Gradio's own routes, over which a page calls its events


class Program:
    """A host's server as far as an event goes: gradio 3's websocket, gradio 4's queue, and the routes beside the queue."""

    def __init__(self, access: Access) -> None:
        from celeb_basis.webui.host_server import mark_event, refuse_other_sites

        self.called: list[str] = []
        functions = [lambda: self.called.append("theirs"), mark_event(lambda: self.called.append("ours"))]
        self.demo = SimpleNamespace(fns=[SimpleNamespace(fn=one) for one in functions])
        self.app = fastapi.FastAPI()
        for path in ("/queue/join", "/run/{name}", "/api/{name}", "/call/{name}", "/upload"):
            self.app.add_api_route(path, self._post, methods=["POST"])
        self.app.add_api_websocket_route("/queue/join", self._socket)
        refuse_other_sites(self.demo, self.app, access)
        self.client = testclient.TestClient(self.app, base_url=OWN)

    async def _post(self, request: fastapi.Request) -> Any:  # type: ignore[name-defined]
        self.demo.fns[int((await request.json())["fn_index"])].fn()
        return {"data": []}

    async def _socket(self, websocket: fastapi.WebSocket) -> None:  # type: ignore[name-defined]
        await websocket.accept()
        await websocket.send_json({"msg": "send_hash"})
        await websocket.receive_json()
        await websocket.send_json({"msg": "send_data"})
        self.demo.fns[int((await websocket.receive_json())["fn_index"])].fn()
        await websocket.send_json({"msg": "process_completed", "success": True})

    def post(self, number: Any, headers: dict[str, str], path: str = "/run/predict", **more: Any) -> int:
        return int(self.client.post(path, json={"fn_index": number, "data": [], **more}, headers=headers).status_code)

    def over_socket(self, hash_for: Any, data_for: Any, headers: dict[str, str]) -> Any:
        with self.client.websocket_connect("/queue/join", headers=headers) as socket:
            assert socket.receive_json() == {"msg": "send_hash"}
            socket.send_json({"session_hash": "x", "fn_index": hash_for})
            answer = socket.receive_json()
            if answer["msg"] == "send_data":
                socket.send_json({"data": [], "fn_index": data_for})
                answer = socket.receive_json()
            return answer


CROSS_SITE = [headers for headers in FOREIGN if "Host" not in headers and headers.get("Sec-Fetch-Dest") is None]
EVENTS = ("/queue/join", "/run/predict", "/run/predict/", "/api/predict", "/call/predict")


def _headers(one: dict[str, str]) -> dict[str, str]:
    return {"Host": "127.0.0.1:7860"} | one


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
@pytest.mark.parametrize("path", EVENTS)
def test_a_page_of_another_site_calls_no_event_of_ours(path: str, headers: dict[str, str]) -> None:
    program = Program(Access.of(None))
    for number in (1, "1", 1.0, "1.0", -1, True):
        forged = {"request": {"headers": {}}, "session_hash": "x"}
        assert program.post(number, _headers(headers), path, **forged) == 403, number
    assert program.called == []
    assert program.post(0, _headers(headers), path) == 200, "anybody else's events are not ours to refuse"
    assert program.called == ["theirs"]


@pytest.mark.parametrize("headers", [one for one in OURS if one.get("Host", "").count(".") != 2], ids=str)
def test_our_own_page_and_programs_call_our_events(headers: dict[str, str]) -> None:
    program = Program(Access.of(None))
    for path in EVENTS:
        assert program.post(1, _headers(headers), path) == 200
    assert program.over_socket(1, 1, _headers(headers))["success"] is True
    assert program.called == ["ours"] * 6


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
def test_nor_over_gradios_websocket(headers: dict[str, str]) -> None:
    program = Program(Access.of(None))
    for hash_for, data_for in ((1, 1), (0, 1), (1, 0), ("x", "1")):
        answer = program.over_socket(hash_for, data_for, _headers(headers))
        assert answer["success"] is False
        assert "--cors-allow-origins" in answer["output"]["error"]
    assert program.called == []
    assert program.over_socket(0, 0, _headers(headers))["success"] is True
    assert program.called == ["theirs"]


def test_a_site_that_the_host_allows_calls_events() -> None:
    program = Program(Access.of(None, Namespace(cors_allow_origins="https://friend.example")))
    headers = {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}
    assert program.post(1, _headers(headers)) == 200
    assert program.post(1, _headers(headers | {"Origin": "https://evil.example"})) == 403


def test_a_proxy_that_renames_the_host_leaves_the_page_usable() -> None:
    program = Program(Access.of(None))
    assert (
        program.post(1, {"Host": "127.0.0.1:7860", "Origin": "https://sd.example", "Sec-Fetch-Site": "same-origin"})
        == 200
    )


def test_what_is_no_event_is_not_looked_at() -> None:
    program = Program(Access.of(None))
    headers = _headers(CROSS_SITE[0])
    assert program.post(1, headers, "/upload") == 200
    for content in (
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b'{"fn_index": null}',
        b'{"fn_index": 1e400}',
        b'{"fn_index": 7}',
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011  (the program's own error: the request came through)
            program.client.post("/run/predict", content=content, headers=headers)
    utf16 = '{"fn_index": 1}'.encode("utf-16")
    assert program.client.post("/run/predict", content=utf16, headers=headers).status_code == 403
