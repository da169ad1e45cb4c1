"""A real WebUI's page in headless Chromium: opening it, and a user's steps.

Needs the package ``playwright`` (``requirements/test.txt``) and a Chromium: the program that ``CHROMIUM`` names, or
``chromium`` or ``google-chrome`` on the path, or playwright's own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sample_photos import sample_photos
from support.webui_server import Server

from celeb_basis.webui.options import LIKENESS

SETTINGS = {"steps": "12", "components": "16", "views": "3", "size": "64"}
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NO_CHROMIUM = (
    "needs Chromium: install chromium or google-chrome, name it in CHROMIUM, or run "
    "'python -m playwright install chromium'"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, closed after each module: playwright runs once per process, and no other event loop beside it."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -r requirements/test.txt")
    with api.sync_playwright() as playwright:
        found = find_chromium(playwright)
        if found is None:
            pytest.skip(NO_CHROMIUM)
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


def find_chromium(playwright: Any) -> str | None:
    """Path of the Chromium that the environment names, that is installed, or that playwright brought; ``None`` without one."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _PROGRAMS)), None)
    found = found or playwright.chromium.executable_path
    return found if Path(found).is_file() else None


def without_likeness(data: Path, **options: Any) -> None:
    """Settings of a WebUI that measures no likeness at the end of a run: that takes a dozen images."""
    (data / "config.json").write_text(json.dumps({LIKENESS: False, **options}), "utf-8")


def opened(browser: Any, server: Server, width: int = 1400, height: int = 1000) -> Any:
    """A new page with the tab open. Errors of scripts, and dialogs, are collected in ``page.errors``."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("dialog", lambda dialog: (page.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.set_default_timeout(120_000)
    page.goto(server.base)
    page.wait_for_function(
        "typeof opts !== 'undefined' && Object.keys(opts).length && document.querySelector('#txt2img_prompt textarea')"
    )
    page.wait_for_timeout(1000)
    tab(page, "Celeb Basis")
    return page


def tab(page: Any, label: str | re.Pattern[str]) -> None:
    page.locator("#tabs > .tab-nav > button", has_text=label).click()


def part(page: Any, label: str) -> None:
    page.locator("#celeb_basis_tabs > .tab-nav > button", has_text=label).click()


def note(page: Any, where: str) -> Any:
    return page.locator(f"#celeb_basis_{where}_note .celeb-basis-note").first


def status(page: Any, where: str = "learn") -> Any:
    return page.locator(f"[data-poll=celeb_basis_{where}_poll]")


def steps_done(page: Any) -> int:
    """The steps that the page shows of a run of 4000."""
    found = re.search(r"(\d+) of 4000", status(page).inner_text())
    assert found, status(page).inner_text()
    return int(found[1])


def fill(page: Any, elem_id: str, text: str) -> None:
    page.locator(f"#{elem_id} textarea, #{elem_id} input").first.fill(text)


def begin(page: Any, name: str, **settings: str) -> None:
    """Upload the photo of six people, enter a name and press Learn."""
    page.locator("#celeb_basis_photos input[type=file]").set_input_files(str(sample_photos()["six"]))
    page.locator(".celeb-basis-photo").wait_for()
    fill(page, "celeb_basis_name", name)
    if not page.locator("#celeb_basis_set_steps input").is_visible():
        page.locator("#celeb_basis_advanced .label-wrap").click()
    for key, value in (SETTINGS | settings).items():
        fill(page, f"celeb_basis_set_{key}", value)
    page.locator("#celeb_basis_set_early_stop input").uncheck()
    page.locator("#celeb_basis_consent input").check()
    page.locator("#celeb_basis_start").click()


def learn(page: Any, name: str) -> None:
    """Like :func:`begin`, and wait for the end of the run."""
    begin(page, name)
    # The first run builds the basis and loads the face networks.
    status(page).get_by_text("Done", exact=True).wait_for(timeout=240_000)


def cards(page: Any, *names: str) -> None:
    """Wait until the host's cards are those of ``names``: the page requests them again whenever people have changed."""
    page.wait_for_function(
        """(names) => ["txt2img", "img2img"].every((tab) => {
            const cards = document.querySelectorAll(`#${tab}_celeb_basis_cards_html .card`);
            return JSON.stringify(Array.from(cards, (card) => card.dataset.name).sort()) === JSON.stringify(names);
        })""",
        arg=sorted(names),
    )


def choose(page: Any, elem_id: str, *labels: str) -> None:
    """Choose options of a dropdown."""
    field = page.locator(f"#{elem_id} input").first
    for label in labels:
        field.click()
        page.locator(f"#{elem_id} ul.options li", has_text=re.compile(rf"^\W*{re.escape(label)}\W*$")).first.click()


def generate(page: Any, prompt: str, side: str = "64") -> Any:
    """Generate one image with one step on the txt2img tab; returns the element with its parameters."""
    page.locator("#txt2img_prompt textarea").fill(prompt)
    for name, value in (("steps", "1"), ("width", side), ("height", side)):
        page.locator(f"#txt2img_{name} input[type=number]").fill(value)
        page.locator(f"#txt2img_{name} input[type=number]").blur()
    page.locator("#txt2img_generate").click()
    shown = page.locator("#html_info_txt2img", has_text=re.compile("Steps: 1")).first
    shown.wait_for()
    page.wait_for_timeout(500)
    # WebUI 1.10.1 with gradio 3.41.2 raises it at every generation, also without any extension.
    page.errors[:] = [error for error in page.errors if "reading 'props'" not in error]
    return shown
