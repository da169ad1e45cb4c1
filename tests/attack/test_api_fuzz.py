"""Whatever a request holds, the API answers it with a sentence and no status from 500 on, and its lists still work after it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest
from support.api_client import need_test_client
from support.described_requests import try_every_operation

from celeb_basis.webui.api import PREFIX

fastapi = pytest.importorskip("fastapi")
testclient = need_test_client()

JSON = {"Content-Type": "application/json"}
HALF = "\\ud800"
TEXTS = (
    *("", " ", "\x00", "a\x00b", "..", "../..", "a/b", "a\\b", "CON", "<b>", "%s", "{}", "\x1b[2J", "\u202e", "\ufffd"),
    *(
        "\U0001f600",
        "e\u0301" * 200,
        "x" * 5000,
        "-1",
        "1e9",
        "9" * 5000,
        "\u00b2",
        "nan",
        "inf",
        "true",
        "null",
        "\r\n",
    ),
)
PATHS = (
    *(
        "%00",
        "..",
        "%2e%2e",
        "..%2f..%2fetc",
        "%2F",
        "a%2Fb",
        "%ff",
        "%ED%A0%80",
        "%",
        "%zz",
        "%0a",
        "a%20b",
        "%5C",
        "~",
    ),
    *("<b>", "x" * 5000, ";", "%F0%9F%98%80", "%E2%80%AE", "CON", "nul.safetensors", "-1", "9" * 5000),
    *("1.5", "%C2%B2", "nan", "-" + "9" * 30),
)
BROKEN_JSON = (
    b"",
    b" ",
    b"{",
    b"null",
    b"1",
    b'"text"',
    b"[]",
    b"[[]]",
    b"\xff\xfe{}",
    b'{"name": "\xe9"}',
    '{"name": "ada"}'.encode("utf-16"),
    b"\xef\xbb\xbf{}",
    b"[" * 200_000,
    b'{"a":' * 50_000,
    b'{"name": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"seed": ' + b"9" * 5000 + b"}",
    b'{"seed": -' + b"9" * 350 + b"}",
    b'{"guidance": 1e999, "toward_mean": 1e999}',
    b'{"guidance": NaN, "toward_mean": NaN}',
    b'{"toward_mean": Infinity, "settings": {"lr": -Infinity}}',
    b'{"a": 1.' + b"1" * 100_000 + b"}",
    b'{"settings": {"steps": 1e400}}',
    b'{"' + HALF.encode() + b'": 1}',
    b'{"name": "a", "name": "b"}',
    b"{" + b",".join(b'"k%d": 1' % one for one in range(30_000)) + b"}",
    b'{"parts": [' + b",".join([b'{"name": "a"}'] * 15_000) + b"]}",
    b"\x00" * 100,
    b'{"name": "\x00"}',
)
FORM = "multipart/form-data; boundary=XX"
END = b"--XX--\r\n"


def _part(disposition: bytes, content: bytes = b"x", more: bytes = b"") -> bytes:
    return b"--XX\r\nContent-Disposition: " + disposition + b"\r\n" + more + b"\r\n" + content + b"\r\n"


BROKEN_FORMS = (
    ("multipart/form-data", END),
    ("multipart/form-data; boundary=", END),
    ("multipart/form-data; boundary=" + "x" * 5000, END),
    ("multipart/form-data; boundary=\u00e4", END),
    ("multipart/form-data; charset=utf-16; boundary=XX", _part(b'form-data; name="name"') + END),
    ("multipart/form-data; charset=nonsense; boundary=XX", _part(b'form-data; name="name"') + END),
    ("multipart/mixed; boundary=XX", END),
    ("application/x-www-form-urlencoded", b"name=ada&" * 5000),
    ("application/x-www-form-urlencoded", b"name=%ff%00&photo=1"),
    ("application/json", b'{"name": "ada"}'),
    ("", b"name=ada"),
    (FORM, b""),
    (FORM, b"nothing of the kind"),
    (FORM, b"--XX"),
    (FORM, END),
    (FORM, b"--XX\r\n\r\nno headers\r\n" + END),
    (FORM, b"--XX\r\nno colon\r\n\r\nx\r\n" + END),
    (FORM, b"--XX\r\n" + b"A: b\r\n" * 5000 + b"\r\nx\r\n" + END),
    (FORM, b"--XX\r\nContent-Disposition: " + b"x" * 100_000),
    (FORM, _part(b"form-data") + END),
    (FORM, _part(b"attachment; name=x") + END),
    (FORM, _part(b'form-data; name="name"')),  # it does not end
    (FORM, _part(b'form-data; name="name"', b"\xff\xfe") + END),
    (FORM, _part(b'form-data; name="\xff"') + END),
    (FORM, _part(b'form-data; name="name', b"x") + END),
    (FORM, _part(b'form-data; name="photo"; filename="\xff\xed\xa0\x80\x00"') + END),
    (FORM, _part(b"form-data; name=\"photo\"; filename*=UTF-8''%ED%A0%80%00") + END),
    (FORM, _part(b'form-data; name="photo"; filename=""', b"") + END),
    (FORM, _part(b'form-data; name="photo"', b"a text") + END),
    (FORM, _part(b'form-data; name="name"; filename="a.txt"') + END),
    (FORM, _part(b'form-data; name="settings"', HALF.encode()) + _part(b'form-data; name="name"', b"ada") + END),
    (FORM, _part(b'form-data; name="a"') * 3000 + END),
    (FORM, _part(b'form-data; name="photos"; filename="a.png"') * 3000 + END),
    (FORM, _part(b'form-data; name="notes"', b"x" * (2 << 20)) + END),
    (
        FORM,
        _part(b'form-data; name="photo"; filename="a.png"', b"x", b"Content-Type: \xff\r\nContent-Length: -1\r\n")
        + END,
    ),
    (FORM, _part(b'form-data; name="photo"; filename="a.png"', b"x", b"Content-Transfer-Encoding: base64\r\n") + END),
)
HEADERS: tuple[dict[str, Any], ...] = (
    {"Content-Length": "-1"},
    {"Content-Length": "x"},
    {"Content-Length": "\u00b2".encode()},
    {"Content-Length": "9" * 5000},
    {"Content-Encoding": "gzip"},
    {"Transfer-Encoding": "chunked, chunked"},
    {"Expect": "100-continue"},
    {"Accept": "\u00e4".encode("latin-1")},
    {"Authorization": b"Basic \xff"},
    {"Host": "["},
    {"Host": "[::1"},
    {"Host": "a:b:c"},
    {"Host": b"\xff"},
    {"Host": ":99999999"},
    {"Origin": "http://["},
    {"Origin": b"http://\xff"},
    {"Origin": "http://a:b:c"},
    {"Sec-Fetch-Site": b"\xff"},
    {"X-Forwarded-Host": b"\xff,,["},
    {"Last-Event-ID": "9" * 5000},
    {"Last-Event-ID": "-1"},
    {"Last-Event-ID": "\u00b2".encode("latin-1")},
    {"Cookie": b"\xff=\x01"},
    {"Content-Type": b"application/json; charset=\xff"},
    {"Content-Type": "application/json; charset=utf-16"},
)


@pytest.fixture
def client(service: Any) -> Any:
    from celeb_basis.webui.api.routes import mount

    app = fastapi.FastAPI()
    mount(app, service, None, Namespace())
    return testclient.TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False)


@pytest.fixture(autouse=True)
def lists_work_afterwards(client: Any) -> Iterator[None]:
    yield
    for path in ("people", "jobs", "runs", "settings"):
        answer = client.get(f"{PREFIX}/{path}")
        assert answer.status_code == 200, answer.text
        assert answer.json()


def operations(client: Any) -> list[tuple[str, str, str]]:
    """Method, path and type of body of each operation."""
    found = []
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, described in methods.items():
            content = described.get("requestBody", {}).get("content", {})
            found.append((method.upper(), path, next(iter(content), "")))
    assert len(found) >= 30
    return found


def filled(path: str, value: str = "ada") -> str:
    return path.replace("{name}", value).replace("{job_id}", value).replace("{number}", value)


def check(answer: Any, *sent: Any) -> None:
    assert answer.status_code < 500, (answer.status_code, answer.text, *sent)
    if 400 <= answer.status_code < 500 and answer.request.method != "HEAD":
        detail = answer.json()["detail"]
        assert isinstance(detail, str), (detail, *sent)
        assert "Celeb Basis itself" not in detail
        assert len(detail) < 2000, (detail, *sent)


def test_broken_json(client: Any) -> None:
    for method, path, kind in operations(client):
        if kind != "application/json":
            continue
        for body in BROKEN_JSON:
            check(client.request(method, filled(path), content=body, headers=JSON), path, body[:80])


def test_broken_forms(client: Any) -> None:
    for method, path, kind in operations(client):
        if not kind.startswith("multipart"):
            continue
        for content_type, body in BROKEN_FORMS:
            headers = {"Content-Type": content_type.encode("latin-1")} if content_type else {}
            answer = client.request(method, path, content=body, headers=headers)
            check(answer, path, content_type, body[:80])
            assert answer.status_code >= 400, (path, content_type, body[:80])


def test_headers_and_methods(client: Any) -> None:
    for method, path, _ in operations(client):
        for headers in HEADERS:
            check(client.request(method, filled(path), headers=headers), path, headers)
        for other in ("PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO"):
            check(client.request(other, filled(path), content=b"x", headers=JSON), path, other)


def test_names_and_numbers_in_paths(client: Any) -> None:
    for method, path, _ in operations(client):
        for value in PATHS if "{" in path else ():
            check(client.request(method, filled(path, value)), path, value[:40])
            check(client.request(method, filled(path, value), content=b"{}", headers=JSON), path, value[:40])


def test_queries(client: Any) -> None:
    for path in (
        "names/check",
        "people/ada",
        "people/ada/export",
        "people/ada/traces",
        "jobs/1",
        "jobs/1/events",
        "basis",
    ):
        for key in ("name", "replace", "layout", "mixtures", "after", "components"):
            for text in TEXTS:
                check(client.get(f"{PREFIX}/{path}", params={key: text}), path, key, text[:40])
        for query in (
            "name=%ED%A0%80",
            "name=%ff",
            "name=%00",
            "%",
            "&&&",
            "name=a&" * 2000,
            "=" * 2000,
            "after=1&after=x",
        ):
            check(client.get(f"{PREFIX}/{path}?{query}"), path, query[:40])


def test_texts_in_bodies(client: Any) -> None:
    """Each text of each body, and halves of characters in their place."""
    photo = {"data": "AAAA", "name": "a.png"}
    bodies: dict[str, dict[str, Any]] = {
        "faces": {"data": "AAAA", "name": "a.png"},
        "learn": {"people": [{"name": "ada", "photos": [photo]}], "notes": "n", "consent_note": "c", "preset": "quick"},
        "learn/estimate": {"preset": "quick", "settings": {"precision": "fp32"}},
        "evaluate": {"name": "ada", "photos": [photo], "kinds": ["age"]},
        "people/import": {"data": "AAAA", "file_name": "a.pt", "name": "ada", "authors_basis": "AAAA"},
        "people/ada/rename": {"name": "bob"},
        "people/ada/notes": {"notes": "n", "consent_note": "c"},
        "blend": {
            "name": "mix",
            "parts": [{"name": "ada", "weight": 1}],
            "toward_celebrity": "x",
            "celebrity_amount": 0.5,
        },
        "blend/start": {"name": "mix", "parts": [{"name": "ada"}]},
        "blend/preview": {"prompt": "a photo of {}", "parts": [{"name": "ada"}]},
    }
    others = (f'"{HALF}"', f'"a{HALF}b"', '"\\udfff"', "null", "[]", "{}", "1", "true", "1e308")
    for path, body in bodies.items():
        sent = json.dumps(body)
        strings = set(_strings(body))
        assert strings
        for string in strings:
            for text in (*map(json.dumps, TEXTS), *others):
                changed = sent.replace(json.dumps(string), text, 1)
                answer = client.post(f"{PREFIX}/{path}", content=changed.encode(), headers=JSON)
                check(answer, path, changed[:200])
                if HALF in text or "\\udfff" in text:
                    assert answer.status_code == 422
                    assert "half of a character" in answer.json()["detail"]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, str):
        yield value


def test_numbers_in_bodies(client: Any) -> None:
    parts = [{"name": "ada", "weight": 1.0}]
    for number in (
        "-1",
        "0",
        "1e308",
        "-1e308",
        "1e-320",
        "9" * 100,
        "1.5",
        "true",
        '"x"',
        "null",
        "[]",
        "1e999",
        "NaN",
    ):
        for key in ("toward_mean", "celebrity_amount", "count", "seed", "steps", "guidance"):
            body = json.dumps({"parts": parts, key: "NUMBER"}).replace('"NUMBER"', number)
            check(client.post(f"{PREFIX}/blend/preview", content=body, headers=JSON), body)
        body = json.dumps({"name": "x", "parts": [{"name": "ada", "weight": "NUMBER"}]}).replace('"NUMBER"', number)
        check(client.post(f"{PREFIX}/blend", content=body, headers=JSON), body)
        check(client.post(f"{PREFIX}/basis", content=f'{{"components": {number}}}', headers=JSON), number)
        check(client.get(f"{PREFIX}/basis", params={"components": number}), number)
        for key in ("steps", "views", "batch_size", "components", "lr", "unknown"):
            body = f'{{"settings": {{"{key}": {number}}}}}'
            check(client.post(f"{PREFIX}/learn/estimate", content=body, headers=JSON), body)


def test_large_bodies_are_refused_by_their_length_and_while_they_arrive(client: Any) -> None:
    for method, path, kind in operations(client):
        if not kind:
            continue
        taken = 0

        def pieces() -> Iterator[bytes]:
            nonlocal taken
            for _ in range(64):
                taken += 1
                yield b"x" * (1 << 20)

        headers = {"Content-Type": "multipart/form-data; boundary=XX" if kind.startswith("multi") else kind}
        length = {"Content-Length": str(500 << 20)}
        answer = client.request(method, filled(path), content=b"{}", headers=headers | length)
        assert answer.status_code == 413, path
        if path.endswith(("rename", "notes", "blend", "basis", "estimate", "face-models")):
            assert client.request(method, filled(path), content=pieces(), headers=headers).status_code == 413, path


def test_requests_made_from_the_description(client: Any) -> None:
    """Requests that fit the OpenAPI document and requests that do not quite, for each of its operations."""
    schemathesis = pytest.importorskip("schemathesis")
    tried = try_every_operation(schemathesis.openapi.from_asgi("/openapi.json", client.app), 15)
    assert len(tried) == len(operations(client)), sorted(tried)
