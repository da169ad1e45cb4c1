"""The whole repository among the extensions of a real SD.Next: it starts without a fault, and the tab is on its page.

Run with ``CELEB_BASIS_SDNEXT`` set.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.sdnext import furnished, need_sdnext
from support.webui_server import Server, free_port, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    sdnext, data = need_sdnext(), furnished(tmp_path_factory.mktemp("data"))
    port = free_port()
    command = [str(sdnext.python), "launch.py", "--skip-all", "--skip-git", "--no-hashing", "--port", str(port)]
    command += ["--data-dir", str(data), "--models-dir", str(data / "models"), "--log", str(data / "sdnext.log")]
    with running(command, sdnext.folder, sdnext.environment(data), data, port) as started:
        yield started


def test_the_extension_starts_without_a_fault(server: Server) -> None:
    log = server.log.read_text()
    assert "celeb-basis" in log, "it is among the extensions"
    assert not [line for line in log.splitlines() if "celeb" in line.casefold() and "ERROR" in line]
    assert "could not be loaded" not in log
    assert server.ours("GET", "/people") == {"people": []}


def test_the_tab_is_on_the_page(server: Server) -> None:
    ids = server.page_ids()
    assert {"celeb_basis_tabs", "celeb_basis_tab_learn", "celeb_basis_tab_people"} <= ids
    assert not [one for one in ids if "celeb_basis_faces_people" in one], "there is no ADetailer"
