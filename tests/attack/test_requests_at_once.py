"""Many large requests at once: one photo is decoded at a time, others are answered beside it, bodies share a limit."""

from __future__ import annotations

import threading
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.api_client import need_test_client

from celeb_basis.errors import PhotoError
from celeb_basis.webui.api import PREFIX
from celeb_basis.webui.api.bodies import BodyError, Held

fastapi = pytest.importorskip("fastapi")
testclient = need_test_client()


def test_one_photo_at_a_time_and_lists_between_them(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from celeb_basis.webui.api.routes import mount

    lock = threading.Lock()
    begun, go = threading.Event(), threading.Event()
    counted: list[bool] = []

    def find_faces(_photo: bytes, _name: str = "") -> Any:
        counted.append(lock.acquire(blocking=False))
        begun.set()
        assert go.wait(60)
        lock.release()
        raise PhotoError("It is no picture.")

    monkeypatch.setattr(service.faces, "find_faces", find_faces)
    app = fastapi.FastAPI()
    mount(app, service, None, Namespace())
    with testclient.TestClient(app) as client, ThreadPoolExecutor(50) as pool:  # one event loop, as a server has
        asked = [
            pool.submit(client.post, f"{PREFIX}/faces/form", files={"photo": ("a.png", b"x")})
            if number % 2
            else pool.submit(client.post, f"{PREFIX}/faces", json={"data": "AAAA"})
            for number in range(48)
        ]
        assert begun.wait(60)
        # More requests than the server has threads wait for their turn, and hold none of them.
        assert pool.submit(client.get, f"{PREFIX}/people").result(60).status_code == 200
        go.set()
        assert {one.result(60).status_code for one in asked} == {400}
    assert len(counted) == 48
    assert all(counted)


def test_bodies_share_a_limit_and_give_it_back() -> None:
    held = Held(100)
    with held.count() as first:
        first(60)
        with held.count() as second:
            second(30)
            with pytest.raises(BodyError, match="try again") as refused:
                second(30)
        assert refused.value.status == 429
        with held.count() as third:
            third(40)
    with held.count() as again:
        again(100)
