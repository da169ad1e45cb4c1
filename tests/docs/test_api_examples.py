"""Every curl command of docs/api.md, sent to the API as curl would send it."""

from __future__ import annotations

import argparse
import base64
import json
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.api_client import need_test_client
from support.sample_photos import sample_photos

from celeb_basis.webui.service import Service

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
testclient = need_test_client()

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text("utf-8")
SMALL = {"steps": 4, "views": 2, "batch_size": 1, "components": 8}


def commands() -> list[str]:
    """The lines of all examples that do something, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(("curl ", "printf "))]


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
    asked = parser.parse_args(shlex.split(command)[1:])
    asked.method = asked.method or ("POST" if asked.data or asked.form else "GET")
    return asked


class Shell:
    """Sends commands as curl does, writes files as printf does, and remembers the last job."""

    def __init__(self, client: Any, files: dict[str, bytes]) -> None:
        self.client, self.files, self.job, self.steps = client, files, "", 4

    def write(self, command: str) -> None:
        """``printf 'TEXT %s TEXT' "$(base64 -w0 FILE)" > FILE``"""
        found = re.fullmatch(r"""printf '(.*)' "\$\(base64 -w0 (\S+)\)" > (\S+)""", command)
        assert found is not None, command
        data = base64.b64encode(self.files[found[2]]).decode()
        self.files[found[3]] = found[1].replace("%s", data).encode()

    def run(self, command: str) -> Any:
        asked = parsed(command.replace("$URL", "/celeb-basis/v1").replace("$JOB", self.job))
        files, fields = [], {}
        for name, value in (part.split("=", 1) for part in asked.form):
            if value.startswith("@"):
                files.append((name, (value[1:], self.files[value[1:]])))
            else:
                fields[name] = value
        content = self.files[asked.data[1:]] if (asked.data or "").startswith("@") else asked.data
        if "learn/form" in asked.url:
            fields["settings"] = json.dumps(SMALL | {"steps": self.steps})  # the toy model has no room for more
        if asked.url.endswith("/learn"):
            body = json.loads(content)
            content = json.dumps(body | {"settings": SMALL | body["settings"]})
        headers = dict(header.split(": ", 1) for header in asked.headers)
        data = {"content": content} if content else {"data": fields or None, "files": files or None}
        answer = self.client.request(asked.method, asked.url, headers=headers, **data)
        if answer.headers["content-type"].startswith("application/json") and "kind" in (answered := answer.json()):
            self.job = answered["id"]
        return answer


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
    return happened()


@pytest.fixture
def app(service: Service) -> Any:
    from celeb_basis.webui.api.routes import mount

    made = fastapi.FastAPI()
    mount(made, service, "")
    return made


def test_every_example_works(app: Any, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(service.workspace.options(), previews=1)
    monkeypatch.setattr(service.workspace, "options", lambda: options)
    photo = sample_photos()["six"].read_bytes()
    shell = Shell(testclient.TestClient(app), {"ada.jpg": photo})
    found = commands()
    assert len(found) >= 30
    for command in found:
        if "bea.safetensors" in command and "bea.safetensors" not in shell.files:
            shell.files["bea.safetensors"] = service.import_export.export("adele")[0][1]
        if command.startswith("printf"):
            shell.write(command)
            continue
        if "/interrupt" in command or ("/runs/" in command and "/resume" in command):
            # The run of the examples has ended: this one is long enough to be interrupted.
            shell.steps = 100_000
            shell.run(next(one for one in found if "/learn/form" in one).replace("name=ada", "name=carl"))
            assert wait_for(lambda: service.job(shell.job).progress().step > 0)
        if "/runs/" in command or ("/jobs/" in command and "DELETE" in command):
            service.interrupt(shell.job)
            assert service.job(shell.job).wait(60)
        answer = shell.run(command)
        assert answer.status_code < 300, f"{command}: {answer.text}"
        if (answer.status_code == 202 and "/resume" not in command) or "/interrupt" in command:
            assert service.job(shell.job).wait(60)
            assert service.job(shell.job).state != "failed", f"{command}: {service.job(shell.job).error}"
        if "preview.png" in command:
            assert answer.content.startswith(b"\x89PNG")
    assert [entry.name for entry in service.people.entries()] == ["adele", "bea", "bob", "mira"], (
        "the mixtures went together"
    )


def routes(app: Any) -> dict[tuple[str, str], re.Pattern[str]]:
    """What matches a path of each route, by method and path."""
    answered = app.openapi()["paths"]
    return {
        (method.upper(), path): re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
        for path, methods in answered.items()
        for method in methods
    }


def test_every_route_has_an_example(app: Any) -> None:
    asked = [parsed(command) for command in commands() if command.startswith("curl ")]
    sent = {(one.method, one.url.partition("?")[0].replace("$URL", "/celeb-basis/v1")) for one in asked}
    known = routes(app)
    assert len(known) >= 34
    reached = {_best(known, method, path) for method, path in sent}
    assert reached == set(known), "each example has its route, and each route its example"


def _best(known: dict[tuple[str, str], re.Pattern[str]], method: str, path: str) -> tuple[str, str] | None:
    fitting = [route for route, pattern in known.items() if route[0] == method and pattern.fullmatch(path)]
    return min(fitting, key=lambda route: route[1].count("{"), default=None)


def test_every_route_is_in_the_table(app: Any) -> None:
    # The host's own routes stand there, too.
    listed = set(re.findall(r"`(GET|POST|DELETE) (/(?!sdapi)[^`]+)`", TEXT))
    names = {"name": "NAME", "job_id": "ID", "number": "N"}
    wanted = {
        (method, re.sub(r"\{(\w+)\}", lambda found: names[found[1]], path.removeprefix("/celeb-basis/v1")))
        for method, path in routes(app)
    }
    assert listed == wanted
