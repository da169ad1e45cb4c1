"""The life of the extension in a real WebUI's Extensions tab: installed by address, used, updated, and taken away.

Needs ``CELEB_BASIS_WEBUI``, git, playwright and Chromium. The tests follow one another.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.sample_photos import sample_photos
from support.served_repository import Repository, git, served
from support.webui import WebUI, need_webui
from support.webui_browser import tab
from support.webui_server import Server, serving

from celeb_basis import __version__
from celeb_basis.files import sha256_of_file

SMALL = {"steps": 6, "views": 2, "batch_size": 1, "components": 8, "size": 64, "early_stop": False}
NEWER = "99.0.0"


@dataclass
class House:
    """A WebUI with a data folder of its own, whose extensions come from the tab alone."""

    webui: WebUI
    data: Path
    repository: Repository
    browser: Any
    before: dict[str, str] = field(default_factory=dict)
    """Digests of the files that an update has to leave alone."""

    @property
    def extension(self) -> Path:
        return self.data / "extensions" / "celeb-basis"

    def start(self) -> AbstractContextManager[Server]:
        # Named servers count as open to the network, where the tab is closed unless one says so.
        more = ["--enable-insecure-extension-access"]
        return serving(self.webui, self.data, Path(), page=True, extension=False, more=more)

    def page(self, server: Server) -> Any:
        page = self.browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(server.base)
        page.wait_for_function("window.opts && Object.keys(opts).length && document.querySelector('#txt2img_prompt')")
        page.wait_for_timeout(1000)
        return page

    def digests(self) -> dict[str, str]:
        folders = (self.data / "celeb-basis", self.data / "cache" / "bases", self.data / "embeddings")
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.data)): sha256_of_file(path) for path in files}


@pytest.fixture(scope="module")
def house(browser: Any, tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[House]:
    webui = need_webui("sd1")
    data = tmp_path_factory.mktemp("data")
    settings = {"celeb_basis_face_pack": str(miniature_folder), "celeb_basis_previews": 0}
    (data / "config.json").write_text(json.dumps(settings), "utf-8")
    backups = webui.folder / "config_states"  # of the host's own, made by an update in its program's folder
    before = set(backups.glob("*"))
    with served(tmp_path_factory.mktemp("repository")) as repository:
        yield House(webui, data, repository, browser)
    for path in set(backups.glob("*pre-update*")) - before:
        if "celeb-basis" in path.read_text("utf-8"):
            path.unlink()


def extensions(page: Any, part: str) -> None:
    tab(page, "Extensions")
    page.locator("#tabs_extensions > .tab-nav > button", has_text=part).click()


def version(server: Server) -> Any:
    return server.ours("GET", "/version")["version"]


def drawn(server: Server, prompt: str) -> str:
    """The parameters of a picture."""
    body = {"prompt": prompt, "steps": 1, "width": 64, "height": 64, "seed": 1}
    status, answer = server.call("POST", "/sdapi/v1/txt2img", body)
    assert status == 200, answer
    return str(json.loads(answer["info"])["infotexts"][0])


def test_it_installs_from_its_address(house: House) -> None:
    with house.start() as server:
        page = house.page(server)
        extensions(page, "Install from URL")
        page.get_by_label("URL for extension's git repository").fill(house.repository.url)
        page.get_by_role("button", name="Install", exact=True).click()
        page.get_by_text(f"Installed into {house.extension}").wait_for()
        page.close()
        assert server.raw("GET", "/celeb-basis/v1/version")[0] == 404, "it works after a restart"
    assert (house.extension / "metadata.ini").is_file()
    assert git(house.extension, "rev-parse", "HEAD") == git(house.repository.work, "rev-parse", "HEAD")


def test_after_a_restart_it_works_and_says_its_version(house: House) -> None:
    with house.start() as server:
        page = house.page(server)
        tab(page, "Celeb Basis")
        assert page.locator("#celeb_basis_version").first.inner_text().strip() == f"Celeb Basis {__version__}"
        page.close()
        assert version(server) == __version__
        photo = base64.b64encode(sample_photos()["six"].read_bytes()).decode()
        body = {"people": [{"name": "ada", "photos": [{"data": photo}]}], "settings": SMALL, "consent": True}
        job = server.job_ended(server.ours("POST", "/learn", body, expect=202)["id"], 240)
        assert job["state"] == "done", job["error"]
        server.ours("POST", "/people/ada/embedding")
        assert "Celeb Basis: " in drawn(server, "a photo of <ada>")
    house.before = house.digests()
    assert "celeb-basis/people/ada.safetensors" in house.before
    assert "embeddings/ada.safetensors" in house.before
    assert any(name.startswith("cache/bases/") for name in house.before)


def test_it_updates_without_losing_anything(house: House) -> None:
    commit = house.repository.publish(NEWER)
    with house.start() as server:
        page = house.page(server)
        extensions(page, "Installed")
        page.get_by_role("button", name="Check for updates").click()
        row = page.locator("#extensions_installed_html tr", has_text="celeb-basis")
        row.get_by_text(re.compile("new commits|behind")).wait_for()
        assert row.locator("input[name='update_celeb-basis']").is_checked()
        page.get_by_role("button", name="Apply and quit").click()
        server.process.wait(120)
    assert git(house.extension, "rev-parse", "HEAD") == commit
    with house.start() as server:
        assert version(server) == NEWER
        assert [person["name"] for person in server.ours("GET", "/people")["people"]] == ["ada"]
        assert server.ours("GET", "/face-models")["present"], "the chosen pack is a setting, and is kept"
        assert "Celeb Basis: " in drawn(server, "a photo of <ada>")
    assert house.digests() == house.before


def test_it_goes_without_a_trace_in_the_host(house: House) -> None:
    people = house.data / "celeb-basis" / "people" / "ada.safetensors"
    shutil.rmtree(house.extension)
    with house.start() as server:
        page = house.page(server)
        assert page.locator("#tabs > .tab-nav > button", has_text="Celeb Basis").count() == 0
        page.close()
        assert server.raw("GET", "/celeb-basis/v1/version")[0] == 404
        assert "ada" in server.call("GET", "/sdapi/v1/embeddings")[1]["loaded"], "the exported embedding works on"
        assert drawn(server, "a photo of ada")
        log = server.log.read_text("utf-8")
    assert "Traceback" not in log, log[-3000:]
    assert "celeb" not in log.lower().replace(str(house.data), ""), "the host says nothing of it"
    assert people.is_file(), "people are nowhere in the extension's folder, and stay"
    assert house.digests() == house.before
    # All that is left, as docs/install.md says.
    left = {path.relative_to(house.data).parts[0] for path in house.data.rglob("*celeb*")}
    assert left == {"celeb-basis"}
    named = {path.name for path in house.data.glob("*.json") if "celeb" in path.read_text("utf-8").lower()}
    assert named <= {"config.json", "ui-config.json"}
