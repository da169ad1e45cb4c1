"""A real Forge as a server with this checkout as its extension, the miniature loaded on demand."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from support import forge_cpu
from support.forge import ROOT, Forge, with_miniature
from support.webui_server import Server, free_port, running

from celeb_basis.miniature import NAMES

SETTINGS = {"steps": 8, "views": 2, "batch_size": 1}
"""A short run."""
WEIGHTS = ROOT / "tests" / "support" / "forge_weights"
"""The extension that answers digests of all weights."""

_FLAGS = [
    *("--skip-prepare-environment", "--skip-python-version-check", "--skip-torch-cuda-test", "--skip-install"),
    *("--skip-version-check", "--always-cpu", "--disable-console-progressbars", "--api"),
]


@contextlib.contextmanager
def serving_forge(
    forge: Forge, data: Path, faces: Path, *, page: bool = False, more: Sequence[str] = ()
) -> Iterator[Server]:
    """A server with a data folder of its own; ended when it is left."""
    with_miniature(data)
    (data / "extensions" / "celeb-basis").symlink_to(ROOT, target_is_directory=True)
    (data / "extensions" / WEIGHTS.name).symlink_to(WEIGHTS, target_is_directory=True)
    port = free_port()
    launcher = str(Path(forge_cpu.__file__))
    command = [str(forge.python), launcher, "launch.py", *_FLAGS, "--port", str(port), "--server-name", "127.0.0.1"]
    # With a data folder elsewhere, gradio would not serve Forge's own scripts.
    command += ["--data-dir", str(data), "--gradio-allowed-path", str(forge.folder)]
    command += ["--celeb-basis-faces", str(faces), "--celeb-basis-names", str(NAMES)]
    command += [*([] if page else ["--nowebui"]), *more]
    with running(command, forge.folder, forge.environment(data), data, port) as server:
        yield server


def begin(server: Server, photo: Path, name: str = "ada", *, replace: bool = False, **settings: Any) -> str:
    """Start to learn ``name`` from a photo; the job's id."""
    content = base64.b64encode(photo.read_bytes()).decode()
    asked = {
        "people": [{"name": name, "photos": [{"name": photo.name, "data": content}]}],
        "settings": SETTINGS | settings,
        "consent": True,
        "replace": replace,
    }
    started: str = server.ours("POST", "/learn", asked, expect=202)["id"]
    return started


def learn(server: Server, photo: Path, *, replace: bool = False) -> Any:
    """``ada``, learned from a photo; the job as it ended."""
    return server.job_ended(begin(server, photo, replace=replace))


def draw(server: Server, prompt: str, **changes: Any) -> tuple[bytes, str]:
    """A picture's pixels and its parameters."""
    asked = {"prompt": prompt, "steps": 3, "width": 64, "height": 64, "cfg_scale": 3, "seed": 1, "sampler_name": "DDIM"}
    status, answer = server.call("POST", "/sdapi/v1/txt2img", asked | changes)
    assert status == 200, answer
    with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))) as picture:
        pixels = picture.convert("RGB").tobytes()
    return pixels, str(json.loads(answer["info"])["infotexts"][0])


def weights(server: Server) -> dict[str, str]:
    """A digest of every part of the loaded checkpoint."""
    status, answer = server.call("GET", "/test/weights")
    assert status == 200
    assert sorted(answer) == ["text encoders", "unet", "vae"]
    return dict(answer)
