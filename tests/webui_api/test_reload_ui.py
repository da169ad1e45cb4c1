"""Reload UI in a real WebUI with its page: everything is there once, and a run goes on; skipped where there is no WebUI."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from support.sample_photos import sample_photos
from support.webui import need_webui
from support.webui_server import Server, serving

_RELOADS = """
from modules import script_callbacks, shared

def add(_demo, app):
    app.add_api_route("/test/reload", lambda: shared.state.request_restart(), methods=["POST"])

script_callbacks.on_app_started(add)
"""


def page_of(server: Server) -> dict[str, Any]:
    status, content = server.raw("GET", "/config")
    assert status == 200
    page: dict[str, Any] = json.loads(content)
    return page


def check_page(server: Server) -> list[str]:
    """Labels and ids of all tabs of the page."""
    tabs = [one["props"] for one in page_of(server)["components"] if one["type"] == "tabitem"]
    ids = [str(tab.get("id")) for tab in tabs]
    labels = [str(tab.get("label")) for tab in tabs]
    assert ids.count("celeb_basis") == 1, "a tab of its own"
    assert ids.count("celeb_basis_train") == 1, "an entry in Train"
    assert {"Learn", "People", "Blend", "Evaluate", "Basis"} <= set(labels)
    paths = json.loads(server.raw("GET", "/openapi.json")[1])["paths"]
    assert "/celeb-basis/v1/learn" in paths
    return [*labels, *ids, *sorted(paths)]


def test_reload_ui_keeps_a_run_and_doubles_nothing(tmp_path: Path, miniature_folder: Path) -> None:
    webui = need_webui("sd1")
    _with_reloads(tmp_path)
    with serving(webui, tmp_path, miniature_folder, page=True) as server:
        first = check_page(server)
        job = _long_run(server)
        before = server.job_when(job["id"], lambda one: one["progress"]["stage"] == "Learning")["progress"]["step"]
        assert server.raw("POST", "/test/reload")[0] == 200
        _wait_for_second_start(server)
        assert check_page(server) == first, "everything once"
        # The host's reload asks for an interruption of whatever runs: the run stops, and is kept.
        job = server.job_ended(job["id"])
        assert (job["state"], job["resumable"]) == ("interrupted", True)
        assert job["progress"]["step"] >= before
        server.ours("POST", f"/jobs/{job['id']}/resume", expect=202)
        server.job_when(job["id"], lambda one: one["progress"]["step"] > job["progress"]["step"])
        server.ours("POST", f"/jobs/{job['id']}/interrupt")
        assert server.job_ended(job["id"])["state"] == "interrupted"
        log = server.log.read_text()
        assert "Celeb Basis:" not in log
        assert "could not be loaded" not in log


def _wait_for_second_start(server: Server) -> None:
    end = time.monotonic() + 120
    while server.log.read_text().count("Startup time") < 2:
        assert time.monotonic() < end, server.log.read_text()[-3000:]
        time.sleep(0.2)
    with contextlib.suppress(OSError):
        if server.raw("GET", "/openapi.json")[0] == 200:
            return
    pytest.fail("the WebUI does not answer after Reload UI")


@pytest.mark.parametrize("page", [True, False], ids=["reload", "signal without a page"])
def test_an_open_stream_does_not_hold_the_server(page: bool, tmp_path: Path, miniature_folder: Path) -> None:
    webui = need_webui("sd1")
    _with_reloads(tmp_path)
    with serving(webui, tmp_path, miniature_folder, page=page) as server:
        job = _long_run(server)
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(_all_events(server, job["id"])), daemon=True)
        reader.start()
        server.job_when(job["id"], lambda one: one["progress"]["step"] > 0)
        if page:
            _leave_the_queue_early(server)
            assert server.raw("POST", "/test/reload")[0] == 200
            _wait_for_second_start(server)
        else:
            server.process.terminate()
            server.process.wait(60)
        reader.join(60)
        assert b"event: StepDone" in received[0]
        log = server.log.read_text()
        assert not [line for line in log.splitlines() if re.search("Cancel|ASGI|Task ", line)]


def _with_reloads(data: Path) -> None:
    """Put an extension into ``data`` that asks for Reload UI over HTTP."""
    helper = data / "extensions" / "reload-for-test" / "scripts" / "reload.py"
    helper.parent.mkdir(parents=True)
    helper.write_text(_RELOADS)


def _long_run(server: Server) -> Any:
    photo = base64.b64encode(sample_photos()["six"].read_bytes()).decode()
    settings = {"steps": 5000, "views": 3, "batch_size": 1, "components": 16, "size": 64, "early_stop": False}
    body = {"people": [{"name": "ada", "photos": [{"data": photo}]}], "settings": settings, "consent": True}
    return server.ours("POST", "/learn", body, expect=202)


def _all_events(server: Server, job_id: str) -> bytes:
    content = b""
    address = f"{server.base}/celeb-basis/v1/jobs/{job_id}/events"
    with (
        contextlib.suppress(OSError, http.client.HTTPException),
        urllib.request.urlopen(address, timeout=300) as stream,
    ):
        while piece := stream.read1():
            content += piece
    return content


def _leave_the_queue_early(server: Server) -> None:
    """What a page does that is closed right after it was opened: gradio 3 never ends the task that waits for it."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        request = (
            "GET /queue/join HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13",
        )  # fmt: skip
        connection.sendall(("\r\n".join(request) + "\r\n\r\n").encode())
        _read_until(connection, b"send_hash")
        text = json.dumps({"session_hash": "early", "fn_index": 0}).encode()
        connection.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        _read_until(connection, b"send_data")


def _read_until(connection: socket.socket, wanted: bytes) -> None:
    content = b""
    while wanted not in content:
        piece = connection.recv(4096)
        assert piece, content
        content += piece
