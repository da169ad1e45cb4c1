"""The routes in a plain fastapi application around the toy service, for whichever fastapi and pydantic are installed."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.api_client import need_test_client
from support.sample_photos import sample_photos

from celeb_basis.webui.service import Service

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")  # which every WebUI has, with gradio
testclient = need_test_client()

PREFIX = "/celeb-basis/v1"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def app(service: Service) -> Any:
    from celeb_basis.webui.api.routes import mount

    made = fastapi.FastAPI()
    mount(made, service, "ada:secret,bob:other:with:colons")
    mount(made, service, "ada:secret")  # a second time: nothing
    return made


@pytest.fixture
def client(app: Any) -> Any:
    return testclient.TestClient(app, headers={"Authorization": "Basic " + base64.b64encode(b"ada:secret").decode()})


def test_learning_over_the_routes(client: Any) -> None:
    photo = base64.b64encode(sample_photos()["six"].read_bytes()).decode()
    settings = {"steps": 4, "views": 2, "batch_size": 1, "components": 8, "early_stop": False, "settled": 0.5}
    body = {"people": [{"name": "ada", "photos": [{"data": photo}]}], "settings": settings, "consent": True}
    answer = client.post(f"{PREFIX}/learn", json=body)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    with client.stream("GET", f"{PREFIX}/jobs/{job_id}/events") as stream:
        kinds = [line[7:] for line in stream.iter_lines() if line.startswith("event: ")]
    assert kinds.count("StepDone") == 4
    assert kinds[-1] == "End"
    assert client.get(f"{PREFIX}/people/ada").json()["settings"]["settled"] == 0.5
    picture = client.get(f"{PREFIX}/people/ada/thumbnail")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")


def test_memory_is_told_before_the_start(client: Any, program: Any) -> None:
    route = f"{PREFIX}/learn/estimate"
    told = client.post(route, json={"preset": "quick", "settings": {"checkpointing": True}}).json()
    assert told["checkpointing"]
    assert told["needed"] == told["checkpointed"]
    assert "gradient checkpointing" in told["text"]
    assert not client.post(route, json={}).json()["checkpointing"]
    assert client.post(route, json={"settings": {"precision": "fp64"}}).status_code == 400
    program.model = None
    answer = client.post(route, json={})
    assert answer.status_code >= 400
    assert "checkpoint" in answer.json()["detail"]


def test_a_mixture_is_drawn_before_it_is_saved(client: Any, service: Service) -> None:
    from celeb_basis.identities.expand import new_identity

    with service.model.read() as model:
        bases = service.model.bases(model, 8)
        for index, name in enumerate(("ada", "bob")):
            given = [basis.name_coefficients[index] for basis in bases]
            service.workspace.library.add(
                new_identity(name, given, bases, model.info, face_model="toy", source="learned")
            )

    def ended(answer: Any) -> Any:
        assert answer.status_code == 202, answer.text
        assert service.job(answer.json()["id"]).wait(60)
        return client.get(f"{PREFIX}/jobs/{answer.json()['id']}").json()

    parts = [{"name": "ada", "weight": 1.0}, {"name": "bob", "weight": 2.0}]
    body = {"parts": parts, "prompt": "{} at sea", "count": 2, "steps": 2}
    job = ended(client.post(f"{PREFIX}/blend/preview", json=body))
    assert (job["state"], job["kind"], job["result"]["pictures"]) == ("done", "preview", 2)
    for number in (0, 1):
        picture = client.get(f"{PREFIX}/jobs/{job['id']}/pictures/{number}")
        assert picture.content.startswith(b"\x89PNG")
    assert [one["name"] for one in client.get(f"{PREFIX}/people").json()["people"]] == ["ada", "bob"]
    for wrong, status in (({"prompt": "at sea"}, 400), ({"count": 9}, 400), ({"parts": [{"name": "x"}]}, 404)):
        assert client.post(f"{PREFIX}/blend/preview", json=body | wrong).status_code == status
    job = ended(client.post(f"{PREFIX}/blend/start", json={"parts": parts, "name": "mix"}))
    assert job["result"]["person"]["word"] == "<mix>"
    assert client.get(f"{PREFIX}/people/mix").json()["source"] == "blended"
    star = bases[0].names[3]
    steering = [{"celebrity": star, "strength": 0.4}]
    ended(client.post(f"{PREFIX}/blend/start", json={"parts": parts, "name": "steered", "steering": steering}))
    assert client.get(f"{PREFIX}/people/steered").json()["settings"]["celebrities"] == [[star, 0.4]]
    for unfit, status in (
        ([{"celebrity": star}], 422),
        ([{"celebrity": star, "strength": 2}], 400),
        ([{"strength": 0.2}], 400),
        ([{"celebrity": star, "group": "women", "strength": 0.2}], 400),
        ([{"group": "robots", "strength": 0.2}], 400),
        ([{"celebrity": "Nobody Atall", "strength": 0.2}], 400),
    ):
        answer = client.post(f"{PREFIX}/blend", json={"parts": parts, "name": "wrong", "steering": unfit})
        assert answer.status_code == status, answer.text
    job = ended(client.post(f"{PREFIX}/basis", json={"components": 8}))
    assert job["result"] == {"components": 8, "encoders": [one["encoder"] for one in _bases(client)]}


def _bases(client: Any) -> Any:
    return client.get(f"{PREFIX}/basis?components=8").json()["bases"]


def test_bodies_are_checked(client: Any) -> None:
    for body, words in (({}, "people"), ({"people": [], "extra": 1}, "extra"), ({"people": "ada"}, "people")):
        answer = client.post(f"{PREFIX}/learn", json=body)
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(words)
    assert client.post(f"{PREFIX}/learn", content=b"{").status_code == 422
    assert client.post(f"{PREFIX}/learn", content=b"{", headers=JSON).status_code == 422
    answer = client.post(f"{PREFIX}/people/ada/rename", content=b" " * (2 << 20))
    assert answer.status_code == 413
    assert "larger than 1 MB" in answer.json()["detail"]


def test_a_body_without_a_length_is_counted(client: Any) -> None:
    taken = 0

    def pieces() -> Any:
        nonlocal taken
        for _ in range(64):
            taken += 1
            yield b" " * (1 << 16)

    answer = client.post(f"{PREFIX}/people/ada/rename", content=pieces())
    assert answer.status_code == 413


def test_names_and_passwords(app: Any) -> None:
    def status(credentials: bytes | None) -> int:
        headers = {} if credentials is None else {"Authorization": "Basic " + base64.b64encode(credentials).decode()}
        code: int = testclient.TestClient(app).get(f"{PREFIX}/people", headers=headers).status_code
        return code

    assert [status(one) for one in (b"ada:secret", b"bob:other:with:colons")] == [200, 200]
    assert [status(one) for one in (None, b"ada:wrong", b"eve:secret", b"ada:", "ada:sécret".encode())] == [401] * 5


def test_every_route_is_described_once(client: Any) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert all(path.startswith(PREFIX) for path in paths)
    assert len(paths) >= 20
    for methods in paths.values():
        for route in methods.values():
            assert route["summary"]
            assert route["security"] == [{"HTTPBasic": []}]
