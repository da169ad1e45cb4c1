"""A real WebUI as a server with this checkout as its extension, spoken to over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.webui import ROOT, WebUI

_FLAGS = [
    *("--skip-prepare-environment", "--skip-python-version-check", "--skip-torch-cuda-test", "--skip-install"),
    *("--no-half", "--use-cpu", "all", "--no-download-sd-model", "--do-not-download-clip", "--no-hashing"),
    *("--disable-console-progressbars", "--api"),
]


@dataclass
class Server:
    """A WebUI that answers."""

    port: int
    process: subprocess.Popen[bytes]
    data: Path
    log: Path
    auth: str = ""
    seconds: float = field(default=0.0)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        known: bool = True,
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        request = urllib.request.Request(self.base + path, data, headers or {}, method=method)
        if self.auth and known:
            request.add_header("Authorization", "Basic " + base64.b64encode(self.auth.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        status, content = self.raw(method, path, data, {"Content-Type": "application/json"})
        return status, json.loads(content) if content else None

    def ours(self, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
        """The answer of one of the extension's routes, which must have the status ``expect``."""
        status, answer = self.call(method, f"/celeb-basis/v1{path}", body)
        assert status == expect, f"{method} {path}: {status} {answer}"
        return answer

    def job_ended(self, job_id: str, seconds: float = 180) -> Any:
        """A job as it is when it has ended."""
        return self.job_when(job_id, lambda job: job["state"] in ("done", "failed", "interrupted"), seconds)

    def job_when(self, job_id: str, ready: Any, seconds: float = 180) -> Any:
        """A job as it is when ``ready`` says so of it."""
        end = time.monotonic() + seconds
        while not ready(job := self.ours("GET", f"/jobs/{job_id}?after=-1")):
            assert time.monotonic() < end, f"{job}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        return job

    def page_ids(self) -> set[str]:
        """The ids of all components on the page, as gradio sends them to a browser."""
        status, answer = self.call("GET", "/config")
        assert status == 200, answer
        return {str(one["props"].get("elem_id")) for one in answer["components"]}

    @property
    def resident_bytes(self) -> int:
        """Memory that the server holds."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def serving(
    webui: WebUI,
    data: Path,
    faces: Path,
    *,
    checkpoint: str = "sd1",
    page: bool = False,
    auth: str = "",
    extension: bool = True,
    more: Sequence[str] = (),
) -> Iterator[Server]:
    """A server with a data folder of its own; ended when it is left."""
    (data / "extensions").mkdir(parents=True, exist_ok=True)
    link = data / "extensions" / "celeb-basis"
    if extension and not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    port = free_port()
    command = [str(webui.python), "launch.py", *_FLAGS, "--port", str(port), "--server-name", "127.0.0.1"]
    command += ["--ckpt", str(webui.checkpoint(checkpoint)), "--ckpt-dir", str(webui.checkpoint(checkpoint).parent)]
    command += [
        "--data-dir",
        str(data),
        *([] if page else ["--nowebui"]),
        *(["--api-auth", auth] if auth else []),
        *more,
    ]
    if extension:
        command += ["--celeb-basis-faces", str(faces)]
    with running(command, webui.folder, webui.environment(data), data, port, auth) as server:
        yield server


@contextlib.contextmanager
def serving_miniature(webui: WebUI, data: Path, faces: Path) -> Iterator[Server]:
    """A server with its page, whose checkpoint is the miniature and whose celebrities are those that it knows."""
    from celeb_basis.miniature import NAMES
    from miniature.small_models.for_webui import put_miniature

    checkpoints = data / "checkpoints"
    checkpoints.mkdir(parents=True)
    put_miniature(checkpoints)
    flags = ["--ckpt-dir", str(checkpoints), "--ckpt", str(checkpoints / "miniature.safetensors")]
    with serving(webui, data, faces, page=True, more=[*flags, "--celeb-basis-names", str(NAMES)]) as server:
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[str], folder: Path, environment: dict[str, str], data: Path, port: int, auth: str = ""
) -> Iterator[Server]:
    """What ``command`` starts in ``folder``, as soon as it answers; ended when it is left."""
    log = data / "server.log"
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    server = Server(port, process, data, log, auth)
    try:
        _wait_until_up(server)
        server.seconds = time.monotonic() - started
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program, by force if it takes longer than ten seconds."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    if process.poll() is None:
        process.kill()
        process.wait()


def _wait_until_up(server: Server) -> None:
    end = time.monotonic() + 240
    while True:
        assert server.process.poll() is None, f"the WebUI ended:\n{server.log.read_text()[-4000:]}"
        assert time.monotonic() < end, f"the WebUI did not start:\n{server.log.read_text()[-4000:]}"
        # Asked earlier, the host with a page fails: it adds middleware, which an application that has answered refuses.
        if "Startup time" in server.log.read_text():
            with contextlib.suppress(OSError):
                if server.raw("GET", "/openapi.json")[0] == 200:
                    return
        time.sleep(0.2)
