"""A real ComfyUI as a server with this checkout as its custom nodes, spoken to over its HTTP API and its websocket."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.comfyui import ROOT, ComfyUI, flags
from support.webui_server import free_port, stop

WORKFLOWS = ROOT / "comfyui" / "workflows"

Workflow = dict[str, dict[str, Any]]


@dataclass
class Ended:
    """How a workflow ended."""

    status: str
    """``"success"`` or ``"error"``."""
    messages: dict[str, Any]
    """The last message of each kind."""
    outputs: dict[str, Any]

    @property
    def error(self) -> str:
        """What ComfyUI shows where a node failed."""
        return str(self.messages["execution_error"]["exception_message"]).strip()


@dataclass
class Server:
    """A ComfyUI that answers."""

    port: int
    process: subprocess.Popen[bytes]
    base: Path
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                content = answer.read()
                return answer.status, json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            content = error.read()
            return error.code, json.loads(content) if content else None

    def queue(self, workflow: Workflow, client: str = "") -> str:
        """The id of a workflow that was queued."""
        status, answer = self.call("POST", "/prompt", {"prompt": workflow, "client_id": client})
        assert status == 200, answer
        return str(answer["prompt_id"])

    def refused(self, workflow: Workflow) -> str:
        """Why a workflow is not even queued: the first sentence about one of its nodes."""
        status, answer = self.call("POST", "/prompt", {"prompt": workflow})
        assert status == 400, answer
        errors = [error for node in answer["node_errors"].values() for error in node["errors"]]
        return str(errors[0]["details"])

    def ended(self, prompt: str, seconds: float = 240) -> Ended:
        """A workflow as it is when it has ended."""
        end = time.monotonic() + seconds
        while not (found := self.call("GET", f"/history/{prompt}")[1]):
            assert self.process.poll() is None, self.log.read_text("utf-8")[-4000:]
            assert time.monotonic() < end, self.log.read_text("utf-8")[-4000:]
            time.sleep(0.1)
        status = found[prompt]["status"]
        return Ended(status["status_str"], dict(status["messages"]), found[prompt]["outputs"])

    def run(self, workflow: Workflow) -> Ended:
        """Queue a workflow, and wait for its end."""
        return self.ended(self.queue(workflow))

    def succeed(self, workflow: Workflow) -> dict[str, Any]:
        """The outputs of a workflow, which must not fail."""
        ended = self.run(workflow)
        assert ended.status == "success", ended.messages.get("execution_error", ended.messages)
        return ended.outputs

    @contextlib.contextmanager
    def listening(self, client: str) -> Iterator[Iterator[Mapping[str, Any]]]:
        """The messages that the page of ``client`` would get: JSON ones, and ``{"type": "text", ...}`` for text on nodes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
            key = base64.b64encode(os.urandom(16)).decode()
            connection.sendall(
                f"GET /ws?clientId={client} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            with connection.makefile("rb") as stream:
                while stream.readline().strip():
                    pass
                yield _messages(stream)


def _messages(stream: Any) -> Iterator[Mapping[str, Any]]:
    while head := stream.read(2):
        length = head[1] & 127
        if length > 125:
            length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
        content = stream.read(length)
        if head[0] & 15 == 1:
            yield json.loads(content)
        elif head[0] & 15 == 2 and struct.unpack(">I", content[:4])[0] == 3:  # text, with the node's id before it
            size = struct.unpack(">I", content[4:8])[0]
            yield {"type": "text", "node": content[8 : 8 + size].decode(), "text": content[8 + size :].decode()}


@contextlib.contextmanager
def serving_comfyui(comfyui: ComfyUI, base: Path, *, more: Sequence[str] = ()) -> Iterator[Server]:
    """A server with a base folder of its own; ended when it is left."""
    link = base / "custom_nodes" / "celeb-basis"
    if not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    port, log = free_port(), base / "server.log"
    command = [str(comfyui.python), "main.py", *flags(port, base, more)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=comfyui.folder,
            env=comfyui.environment(base),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    server = Server(port, process, base, log)
    try:
        _wait_until_up(server)
        yield server
    finally:
        stop(process)


def _wait_until_up(server: Server) -> None:
    end = time.monotonic() + 180
    while True:
        assert server.process.poll() is None, f"ComfyUI ended:\n{server.log.read_text('utf-8')[-4000:]}"
        assert time.monotonic() < end, f"ComfyUI did not start:\n{server.log.read_text('utf-8')[-4000:]}"
        with contextlib.suppress(OSError):
            if server.call("GET", "/system_stats")[0] == 200:
                return
        time.sleep(0.2)


def shipped(name: str, checkpoint: str = "miniature") -> Workflow:
    """A workflow that ships, on a small checkpoint: as it is but for sizes and numbers of steps."""
    workflow: Workflow = json.loads((WORKFLOWS / f"{name}.api.json").read_text("utf-8"))
    changes: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": f"{checkpoint}.safetensors"},
        "CelebBasisLearnPerson": {"faces": "miniature", "steps": 4, "size": 64},
        "EmptyLatentImage": {"width": 64, "height": 64},
        "KSampler": {"steps": 2, "cfg": 3.0},
    }
    for node in workflow.values():
        node["inputs"] |= changes.get(node["class_type"], {})
    return workflow


def node_of(workflow: Workflow, kind: str) -> dict[str, Any]:
    """The inputs of the first node of a kind."""
    inputs: dict[str, Any] = next(node["inputs"] for node in workflow.values() if node["class_type"] == kind)
    return inputs
