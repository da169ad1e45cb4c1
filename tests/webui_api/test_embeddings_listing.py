"""People in the answer of the host's ``GET /sdapi/v1/embeddings``, whichever form the host gives it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.people import person

from celeb_basis.identities.library import IdentityStatus
from celeb_basis.webui.host_server import list_people_among_embeddings

fastapi = pytest.importorskip("fastapi", reason="needs fastapi: pip install -r requirements/test.txt")
testclient = pytest.importorskip("fastapi.testclient", reason="needs httpx: pip install -r requirements/test.txt")

THEIRS = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": 768, "vectors": 1}


def everyone() -> list[IdentityStatus]:
    """One who can be drawn, one who cannot be on this checkpoint, and a broken file."""
    ada, eve = person("ada"), person("eve")
    return [
        IdentityStatus("ada", Path("ada.safetensors"), ada),
        replace(IdentityStatus("eve", Path("eve.safetensors"), eve), reason="It was learned on another family."),
        IdentityStatus("bob", Path("bob.safetensors"), problem="damaged", reason="damaged"),
    ]


def application(answer: Any) -> Any:
    app = fastapi.FastAPI()
    app.add_api_route("/sdapi/v1/embeddings", answer, methods=["GET"])
    return app


def asked(app: Any) -> Any:
    found = testclient.TestClient(app).get("/sdapi/v1/embeddings")
    assert found.status_code == 200
    return found.json()


def test_people_stand_beside_the_hosts_own_embeddings() -> None:
    app = application(lambda: {"loaded": {"worst": dict(THEIRS)}, "skipped": {}})
    list_people_among_embeddings(app, everyone)
    found = asked(app)
    assert sorted(found["loaded"]) == ["<ada>", "worst"]
    assert found["loaded"]["worst"] == THEIRS
    assert sorted(found["skipped"]) == ["<eve>"]
    ada = person("ada")
    assert found["loaded"]["<ada>"] == {
        "step": ada.metadata.steps,
        "sd_checkpoint": ada.metadata.base_sha256[:10],
        "sd_checkpoint_name": ada.metadata.learned_on or ada.metadata.base_model,
        "shape": sum(one.shape[-1] for one in ada.vectors),
        "vectors": ada.positions,
    }


def test_a_host_that_answers_with_lists_of_names_gets_names() -> None:
    app = application(lambda: {"loaded": ["worst"], "skipped": []})
    list_people_among_embeddings(app, everyone)
    assert asked(app) == {"loaded": ["worst", "<ada>"], "skipped": ["<eve>"]}


def test_after_a_reload_of_the_page_nobody_is_listed_twice() -> None:
    app = application(lambda: {"loaded": ["worst"], "skipped": []})
    for _ in range(2):
        list_people_among_embeddings(app, everyone)
    assert asked(app)["loaded"] == ["worst", "<ada>"]


def test_the_hosts_answer_comes_whatever_fails_here(caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> list[IdentityStatus]:
        raise ZeroDivisionError

    app = application(lambda: {"loaded": {}, "skipped": {}})
    list_people_among_embeddings(app, failing)
    assert asked(app) == {"loaded": {}, "skipped": {}}
    assert "People cannot be listed" in caplog.text
    unknown = application(lambda: {"embeddings": []})
    list_people_among_embeddings(unknown, everyone)
    assert asked(unknown) == {"embeddings": []}


def test_hosts_without_the_route_or_with_an_asynchronous_one_stay_as_they_are() -> None:
    async def later() -> dict[str, Any]:
        return {"loaded": {}, "skipped": {}}

    list_people_among_embeddings(fastapi.FastAPI(), everyone)
    app = application(later)
    list_people_among_embeddings(app, everyone)
    assert asked(app) == {"loaded": {}, "skipped": {}}
