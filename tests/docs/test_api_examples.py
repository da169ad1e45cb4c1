"""Every curl command of docs/api.md, sent to the API as curl would send it."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeb_basis.faces.samples import sample_photos
from celeb_basis.webui.service import Service

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
testclient = pytest.importorskip("fastapi.testclient", exc_type=(ImportError, RuntimeError))

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text("utf-8")
SMALL = {"steps": 4, "views": 2, "batch_size": 1, "components": 8}


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("curl ")]


def parsed(command: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-N", action="store_true")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="data")
    parser.add_argument("-F", dest="form", action="append", default=[])
    parser.add_argument("-o", dest="output")
    parser.add_argument("url")
    return parser.parse_args(shlex.split(command)[1:])


class Shell:
    """Sends commands as curl does, and remembers the last job."""

    def __init__(self, client: Any, files: dict[str, bytes]) -> None:
        self.client, self.files, self.job, self.steps = client, files, "", 4

    def run(self, command: str) -> Any:
        asked = parsed(command.replace("$URL", "/celeb-basis/v1").replace("$JOB", self.job))
        files, fields = [], {}
        for name, value in (part.split("=", 1) for part in asked.form):
            if value.startswith("@"):
                files.append((name, (value[1:], self.files[value[1:]])))
            else:
                fields[name] = value
        if "learn/form" in asked.url:
            fields["settings"] = json.dumps(SMALL | {"steps": self.steps})  # the toy model has no room for more
        method = asked.method or ("POST" if asked.data or asked.form else "GET")
        headers = dict(header.split(": ", 1) for header in asked.headers)
        data = {"content": asked.data} if asked.data else {"data": fields or None, "files": files or None}
        answer = self.client.request(method, asked.url, headers=headers, **data)
        if answer.headers["content-type"].startswith("application/json") and "kind" in (told := answer.json()):
            self.job = told["id"]
        return answer


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
    return happened()


def test_every_example_works(service: Service) -> None:
    from celeb_basis.webui.api.mount import mount

    app = fastapi.FastAPI()
    mount(app, service, "")
    photo = sample_photos()["six"].read_bytes()
    shell = Shell(testclient.TestClient(app), {"ada.jpg": photo})
    found = commands()
    assert len(found) >= 20
    for command in found:
        if "bea.safetensors" in command:
            shell.files["bea.safetensors"] = service.export("adele")[0][1]
        if "/interrupt" in command:
            # The run of the examples has ended: this one is long enough to be interrupted.
            shell.steps = 100_000
            shell.run(next(one for one in found if "/learn/form" in one).replace("name=ada", "name=carl"))
            assert wait_for(lambda: service.job(shell.job).progress().step > 0)
        if "/jobs/" in command and "DELETE" in command:
            service.interrupt(shell.job)
            assert service.job(shell.job).wait(60)
        answer = shell.run(command)
        assert answer.status_code < 300, f"{command}: {answer.text}"
        if any(route in command for route in ("/interrupt", "/learn/form", "/blend/preview")):
            assert service.job(shell.job).wait(60)
    assert [entry.name for entry in service.people()] == ["adele", "bea"]


def test_every_route_is_in_the_document(service: Service) -> None:
    from celeb_basis.webui.api.mount import mount

    app = fastapi.FastAPI()
    mount(app, service, "")
    paths = [path for path in app.openapi()["paths"] if path.startswith("/celeb-basis/v1/")]
    groups = {path.removeprefix("/celeb-basis/v1/").split("/")[0] for path in paths}
    assert groups >= {"people", "learn", "blend", "evaluate", "basis", "jobs"}
    assert all(f"/{group}" in TEXT for group in groups), groups
