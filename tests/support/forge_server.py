"""A real Forge as a server with this checkout as its extension, the miniature loaded on demand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.forge import ROOT, Forge, with_miniature
from support.webui_server import Server, free_port, running

from celeb_basis.miniature import NAMES

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
    port = free_port()
    command = [str(forge.python), "launch.py", *_FLAGS, "--port", str(port), "--server-name", "127.0.0.1"]
    # With a data folder elsewhere, gradio would not serve Forge's own scripts.
    command += ["--data-dir", str(data), "--gradio-allowed-path", str(forge.folder)]
    command += ["--celeb-basis-faces", str(faces), "--celeb-basis-names", str(NAMES)]
    command += [*([] if page else ["--nowebui"]), *more]
    with running(command, forge.folder, forge.environment(data), data, port) as server:
        yield server
