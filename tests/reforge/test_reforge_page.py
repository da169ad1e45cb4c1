"""The whole repository among the extensions of a real reForge: it starts without a fault, and the tab is on its page.

Run with ``CELEB_BASIS_REFORGE`` set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.reforge import furnished, need_reforge
from support.webui_server import Server, free_port, running

_FLAGS = [
    *("--skip-prepare-environment", "--skip-python-version-check", "--skip-torch-cuda-test", "--skip-install"),
    *("--skip-version-check", "--always-cpu", "--no-half", "--no-half-vae", "--no-hashing", "--no-download-sd-model"),
    *("--do-not-download-clip", "--disable-console-progressbars", "--api"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    reforge, data = need_reforge(), furnished(tmp_path_factory.mktemp("data"))
    port = free_port()
    command = [str(reforge.python), "launch.py", *_FLAGS, "--port", str(port), "--server-name", "127.0.0.1"]
    command += ["--data-dir", str(data), "--celeb-basis-faces", str(miniature_folder)]
    with running(command, reforge.folder, reforge.environment(data), data, port) as started:
        yield started


def test_the_extension_starts_without_a_fault(server: Server) -> None:
    log = server.log.read_text()
    assert "Error loading script" not in log
    assert "Error executing callback" not in log
    assert "could not be loaded" not in log
    assert server.ours("GET", "/people") == {"people": []}


def test_the_tab_is_on_the_page(server: Server) -> None:
    ids = server.page_ids()
    assert {"celeb_basis_tabs", "celeb_basis_tab_learn", "celeb_basis_tab_people"} <= ids
    assert not [one for one in ids if "celeb_basis_faces_people" in one], "there is no ADetailer"
