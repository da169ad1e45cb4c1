"""The whole journey over HTTP in a real WebUI with a small checkpoint; skipped where there is none."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.sample_photos import sample_photos
from support.webui import need_webui
from support.webui_server import Server, serving

from celeb_basis.identities.identity import identity_from_bytes

AUTH = "ada:lovelace"
SETTINGS = {"steps": 6, "views": 3, "batch_size": 1, "components": 16, "size": 64, "early_stop": False}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    webui = need_webui("sd1", "sd2v")
    with serving(webui, tmp_path_factory.mktemp("data"), miniature_folder, auth=AUTH) as running:
        yield running


@pytest.fixture(scope="module")
def photo() -> str:
    """A real photo of six people, as base64."""
    return base64.b64encode(sample_photos()["six"].read_bytes()).decode()


def learn(server: Server, photo: str, name: str, expect: int = 202, face: int = 0, **settings: Any) -> Any:
    body = {
        "people": [{"name": name, "photos": [{"data": photo, "name": "six.jpg", "face": face}]}],
        "settings": SETTINGS | settings,
        "consent": True,
    }
    return server.ours("POST", "/learn", body, expect=expect)


def drawn(server: Server, prompt: str) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    body = {"prompt": prompt, "seed": 1, "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler"}
    status, answer = server.call("POST", "/sdapi/v1/txt2img", body)
    assert status == 200, answer
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))), json.loads(answer["info"])


def stream(server: Server, job_id: str, after: int = -1) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events, as a browser asks for them (it takes compressed answers)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    token = base64.b64encode(AUTH.encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Accept-Encoding": "gzip, deflate", "Accept": "text/event-stream"}
    connection.request("GET", f"/celeb-basis/v1/jobs/{job_id}/events?after={after}", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    kind = ""
    while line := answer.readline().decode():
        if line.startswith("event: "):
            kind = line[7:].strip()
        elif line.startswith("data: "):
            yield kind, json.loads(line[6:])
    connection.close()


def test_the_whole_journey(server: Server, photo: str) -> None:
    found = server.ours("POST", "/faces", {"data": f"data:image/jpeg;base64,{photo}", "name": "six.jpg"})
    assert len(found["faces"]) == 6
    assert found["faces"][0]["index"] == 0

    plain, _ = drawn(server, "a photo of <ada> smiling")
    job = learn(server, photo, "ada", face=2, steps=60)
    server.job_when(job["id"], lambda one: one["progress"]["step"] >= 5 and one["progress"]["stage"] == "Learning")
    server.ours("POST", f"/jobs/{job['id']}/interrupt")
    stopped = server.job_ended(job["id"])
    assert stopped["state"] == "interrupted"
    assert stopped["resumable"]
    step = stopped["progress"]["step"]
    assert 5 <= step < 60
    assert server.ours("GET", "/people")["people"] == []

    server.ours("POST", f"/jobs/{job['id']}/resume", expect=202)
    events = list(stream(server, job["id"], stopped["events"][-1]["index"]))
    steps = [event["step"] for kind, event in events if kind == "StepDone"]
    assert steps == list(range(step + 1, 61)), "resuming goes on with the next step"
    assert events[-1] == ("End", {"state": "done", "error": ""})
    done = server.ours("GET", f"/jobs/{job['id']}")
    assert done["result"]["people"][0]["word"] == "<ada>"
    assert done["result"]["steps"] == 60
    assert len(done["result"]["people"][0]["nearest"]) == 5
    assert not list((server.data / "celeb-basis" / "uploads").iterdir()), "photos are not kept"
    assert not list((server.data / "celeb-basis" / "unfinished").iterdir())

    (ada,) = server.ours("GET", "/people")["people"]
    assert (ada["name"], ada["available"], ada["reason"], ada["family"]) == ("ada", True, "", "sd1")
    with_her, told = drawn(server, "a photo of <ada> smiling")
    assert (with_her != plain).any()
    assert ada["hash"][:6] in told["infotexts"][0], "the picture says who made it"

    server.ours("POST", "/people/ada/rename", {"name": "Ada Lovelace"})
    renamed, _ = drawn(server, "a photo of <Ada Lovelace> smiling")
    assert (renamed == with_her).all(), "the same person under another name"
    told = server.ours("POST", "/people/Ada%20Lovelace/notes", {"notes": "by test", "consent_note": "by letter"})
    assert (told["notes"], told["consent"]) == ("by test", "by letter")

    (file,) = server.ours("GET", "/people/Ada%20Lovelace/export")["files"]
    identity = identity_from_bytes(base64.b64decode(file["data"]))
    assert (identity.metadata.notes, identity.metadata.consent) == ("by test", "by letter")
    assert identity.content_hash == ada["hash"]
    (embedding,) = server.ours("GET", "/people/Ada%20Lovelace/export?layout=webui")["files"]
    server.ours("DELETE", "/people/Ada%20Lovelace")
    assert server.ours("GET", "/people")["people"] == []
    gone, _ = drawn(server, "a photo of <ada> smiling")
    assert (gone == plain).all(), "without the person the word is plain text again"

    back = server.ours("POST", "/people/import", {"data": file["data"], "file_name": file["name"], "name": "ada"})
    assert back["people"][0]["hash"] == ada["hash"]
    again, _ = drawn(server, "a photo of <ada> smiling")
    assert (again == with_her).all()
    assert embedding["name"] == "Ada Lovelace.safetensors"


def test_blend_basis_and_evaluate(server: Server, photo: str) -> None:
    for name, face in (("first", 0), ("second", 1)):
        assert server.job_ended(learn(server, photo, name, face=face)["id"])["state"] == "done"
    mixed = server.ours(
        "POST",
        "/blend",
        {"parts": [{"name": "first", "weight": 2}, {"name": "second"}], "name": "mixed", "toward_mean": 0.1},
    )
    assert mixed["source"] == "blended"
    assert mixed["available"]
    (basis,) = server.ours("GET", "/basis?components=16")["bases"]
    assert basis["width"] == 768
    assert len(basis["explained"][0]) == 16
    body = {"name": "mixed", "prompts": 2, "steps": 1, "photos": [{"data": photo, "face": 0}], "kinds": ["plain"]}
    judged = server.job_ended(server.ours("POST", "/evaluate", body, expect=202)["id"])
    assert judged["state"] == "done", judged["error"]
    assert judged["result"]["count"] == 4  # two images of each prompt
    status, sheet = server.raw("GET", f"/celeb-basis/v1/jobs/{judged['id']}/pictures/{judged['result']['sheet']}")
    assert status == 200
    assert Image.open(io.BytesIO(sheet)).size[0] > 400


def test_two_jobs_are_queued_and_the_hosts_button_stops_one(server: Server, photo: str) -> None:
    first = learn(server, photo, "longer", steps=400)
    second = learn(server, photo, "after")
    server.job_when(first["id"], lambda one: one["progress"]["step"] >= 3 and one["progress"]["stage"] == "Learning")
    assert server.ours("GET", f"/jobs/{second['id']}")["state"] == "queued"
    status, shown = server.call("GET", "/sdapi/v1/progress?skip_current_image=true")
    assert status == 200
    assert shown["state"]["job_no"] >= 3, "the host's own progress shows the steps"
    assert server.call("POST", "/sdapi/v1/interrupt")[0] == 200
    stopped = server.job_ended(first["id"])
    assert stopped["state"] == "interrupted"
    assert "button" in stopped["error"]
    assert server.job_ended(second["id"])["state"] == "done", "the button stops one job, not the queue"
    server.ours("DELETE", f"/jobs/{first['id']}")
    server.ours("GET", f"/jobs/{first['id']}", expect=404)


def test_a_checkpoint_switch_waits_for_learning(server: Server, photo: str) -> None:
    job = learn(server, photo, "waiting", steps=120)
    server.job_when(job["id"], lambda one: one["progress"]["step"] >= 3 and one["progress"]["stage"] == "Learning")
    switch = threading.Thread(
        target=server.call, args=("POST", "/sdapi/v1/options", {"sd_model_checkpoint": "sd2v.safetensors"})
    )
    switch.start()
    try:
        ended = server.job_ended(job["id"])
        assert ended["state"] == "done", ended["error"]
    finally:
        switch.join(120)
    person = server.ours("GET", "/people/waiting")
    assert not person["available"]
    assert "sd2" in person["reason"]
    assert server.call("POST", "/sdapi/v1/options", {"sd_model_checkpoint": "sd1.safetensors"})[0] == 200
    assert server.ours("GET", "/people/waiting")["available"]


def test_previews_are_drawn_on_the_way_and_change_nothing(server: Server, photo: str) -> None:
    hashes = []
    for name, every in (("plain", 0), ("watched", 3)):
        body = {
            "people": [{"name": name, "photos": [{"data": photo}]}],
            "settings": SETTINGS,
            "consent": True,
            "preview_every": every,
        }
        job = server.job_ended(server.ours("POST", "/learn", body, expect=202)["id"])
        assert job["state"] == "done", job["error"]
        hashes.append(job["result"]["people"][0]["hash"])
        wanted = 2 if every else 0
        for number in range(wanted):
            status, content = server.raw("GET", f"/celeb-basis/v1/jobs/{job['id']}/pictures/{number}")
            assert status == 200
            assert Image.open(io.BytesIO(content)).size[0] >= 64
        server.ours("GET", f"/jobs/{job['id']}/pictures/{wanted}", expect=404)
    assert hashes[0] == hashes[1], "bit for bit"


def test_multipart(server: Server) -> None:
    content = sample_photos()["six"].read_bytes()
    fields = {"name": "by form", "settings": json.dumps(SETTINGS), "consent": "true", "face": "1"}
    body, kind = multipart(fields, "photos", "six.jpg", content)
    status, answer = server.raw("POST", "/celeb-basis/v1/learn/form", body, {"Content-Type": kind})
    assert status == 202, answer
    assert server.job_ended(json.loads(answer)["id"])["state"] == "done"
    body, kind = multipart({}, "photo", "six.jpg", content)
    status, answer = server.raw("POST", "/celeb-basis/v1/faces/form", body, {"Content-Type": kind})
    assert len(json.loads(answer)["faces"]) == 6


def multipart(fields: dict[str, str], name: str, file: str, content: bytes) -> tuple[bytes, str]:
    border = b"--celeb-basis-border"
    parts = [
        b'%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (border, key.encode(), value.encode())
        for key, value in fields.items()
    ]
    head = f'Content-Disposition: form-data; name="{name}"; filename="{file}"\r\nContent-Type: image/jpeg\r\n\r\n'
    parts.append(border + b"\r\n" + head.encode() + content + b"\r\n" + border + b"--\r\n")
    return b"".join(parts), f"multipart/form-data; boundary={border.decode()[2:]}"


def test_a_body_of_a_gigabyte_is_refused_unread(server: Server) -> None:
    before = server.resident_bytes
    for path in ("/learn", "/learn/form", "/faces", "/people/import"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.putrequest("POST", f"/celeb-basis/v1{path}")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(1 << 30))
        connection.putheader("Authorization", "Basic " + base64.b64encode(AUTH.encode()).decode())
        connection.endheaders()
        connection.send(b"{" * 4096)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["detail"].endswith("send smaller or fewer files.")
        connection.close()
    # Without a length it is counted on the way.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    pieces = (b" " * (1 << 16) for _ in range(1 << 14))
    headers = {"Authorization": "Basic " + base64.b64encode(AUTH.encode()).decode(), "Content-Type": "application/json"}
    try:
        connection.request("POST", "/celeb-basis/v1/people/ada/rename", pieces, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server hung up in the middle, as it may
    assert server.resident_bytes - before < 100 << 20
    assert server.ours("GET", "/people") is not None


def test_the_hosts_own_authentication_and_openapi(server: Server) -> None:
    for path in ("/people", "/jobs", "/settings", "/basis"):
        assert server.raw("GET", f"/celeb-basis/v1{path}", known=False)[0] == 401
    assert server.raw("POST", "/celeb-basis/v1/learn", b"{}", {"Content-Type": "application/json"}, known=False)[0] in (
        401,
        422,
    )
    described = json.loads(server.raw("GET", "/openapi.json")[1])["paths"]
    wanted = {"/people", "/people/{name}", "/people/{name}/rename", "/people/{name}/export", "/people/import", "/learn"}
    wanted |= {"/jobs/{job_id}", "/jobs/{job_id}/events", "/jobs/{job_id}/interrupt", "/jobs/{job_id}/resume"}
    wanted |= {"/blend", "/evaluate", "/basis", "/faces"}
    assert {f"/celeb-basis/v1{path}" for path in wanted} <= set(described)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/people/nobody", None, 404, "no person 'nobody'"),
        ("GET", "/jobs/000000000000", None, 404, "no job"),
        ("POST", "/learn", {"people": [], "consent": True}, 400, "nobody to learn"),
        ("POST", "/learn", {"people": [{"name": "x", "photos": []}], "consent": True}, 400, "has no photo"),
        ("POST", "/learn", {"people": [{"name": "x", "photos": [{"data": "%%%"}]}], "consent": True}, 400, "base64"),
        (
            "POST",
            "/learn",
            {"people": [{"name": "a/b", "photos": [{"data": "AAAA"}]}], "consent": True},
            400,
            "leave it out",
        ),
        ("POST", "/learn", {"people": [{"name": "x", "photos": [{"data": "AAAA"}]}]}, 400, "Consent is missing"),
        ("POST", "/learn", {"poeple": []}, 422, "people"),
        ("POST", "/faces", {"data": "AAAA", "name": "x.jpg"}, 400, "not a picture"),
        ("POST", "/blend", {"parts": [], "name": "x"}, 400, "nobody to blend"),
        ("POST", "/blend", {"parts": [{"name": "nobody"}], "name": "x"}, 404, "no person"),
        ("POST", "/people/import", {"data": "AAAA", "file_name": "x.exe"}, 400, ".safetensors"),
        ("POST", "/people/import", {"data": "AAAA", "file_name": "x.safetensors"}, 400, "take another copy of it"),
        ("GET", "/basis?components=0", None, 400, "components is 0"),
        ("POST", "/evaluate", {"name": "nobody"}, 404, "no person"),
    ],
)
def test_bad_input_gets_a_sentence(server: Server, method: str, path: str, body: Any, status: int, words: str) -> None:
    answer = server.ours(method, path, body, expect=status)
    assert isinstance(answer["detail"], str)
    assert words in answer["detail"]
    assert answer["detail"].endswith(".")


def test_settings_out_of_range_and_a_photo_without_a_face(server: Server, photo: str) -> None:
    assert "steps is 0" in learn(server, photo, "x", expect=400, steps=0)["detail"]
    assert "no setting" in learn(server, photo, "x", expect=400, stepps=3)["detail"]
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), (90, 120, 90)).save(buffer, "PNG")
    meadow = base64.b64encode(buffer.getvalue()).decode()
    assert server.ours("POST", "/faces", {"data": meadow})["problem"].startswith("No face was found")
    failed = server.job_ended(learn(server, meadow, "meadow")["id"])
    assert failed["state"] == "failed"
    assert "No face was found" in failed["error"]
