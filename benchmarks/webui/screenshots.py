"""``python -m benchmarks.webui.screenshots``: the documentation's pictures of the page, taken in a real WebUI.

A WebUI is started with this checkout as its extension and the miniature as its checkpoint, and two people are learned from
rendered photos of people who do not exist. With ``--film`` the first minutes with the page become a short film instead.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.webui.film import Film
from celeb_basis.cli.common import hush_libraries
from celeb_basis.errors import CelebBasisError, HostError, MissingPackageError
from celeb_basis.files import atomic_path, write_json

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Look:
    """How the page is looked at: a part of the picture's name, the window in pixels, and the theme."""

    suffix: str
    width: int = 1366
    height: int = 768
    dark: bool = False


LOOKS = (
    Look(""),
    Look("-dark", dark=True),
    Look("-phone", 390, 844),
    Look("-phone-dark", 390, 844, dark=True),
)
_TALL = Look("", height=1130)
_IN_EVERY_LOOK = ("learn", "learned")
_OTHERS = ("invent", "people", "prompt", "cards", "face-guidance", "places")
PICTURES = (
    *(f"{name}{look.suffix}.png" for name in _IN_EVERY_LOOK for look in LOOKS),
    *(f"{one}.png" for one in _OTHERS),
)
"""Names of the pictures in ``docs/images``."""

_PATIENCE, _RUN_PATIENCE = 120_000, 1_800_000
"""Milliseconds for a step on the page, and for a run: a busy machine needs them."""
_GENERATION = {"steps": "20", "width": "192", "height": "192", "cfg_scale": "4", "seed": "4"}
_FEW_STEPS = 100
_CONSENT = "Nobody: the photo is rendered, and the person does not exist."
_RESULTS = "#celeb_basis_learn_poll_status"


class Camera:
    """Writes pictures of a page.

    Args:
        page: Playwright's page.
        folder: Where the pictures go.
    """

    def __init__(self, page: Any, folder: Path) -> None:
        self.page, self.folder = page, folder

    def take(self, name: str, look: Look = LOOKS[0], *, top: str = "") -> None:
        """Write a picture; ``top`` is the element at its upper edge, in place of the beginning of the page."""
        self._look(look)
        self.page.evaluate(
            "(top) => window.scrollTo(0, top ? document.querySelector(top).getBoundingClientRect().y + scrollY - 12 : 0)",
            top,
        )
        self.page.mouse.move(1, 1)
        self.page.evaluate("document.activeElement?.matches('textarea, input') || document.activeElement?.blur()")
        self.page.wait_for_timeout(700)
        image = Image.open(io.BytesIO(self.page.screenshot(animations="disabled"))).convert("RGB")
        path = self.folder / f"{name}{look.suffix}.png"
        with atomic_path(path) as temporary:
            compressed(image).save(temporary, "PNG", optimize=True)
        sys.stdout.write(f"{path}  {path.stat().st_size / 1000:.0f} kB\n")
        sys.stdout.flush()
        self._look(LOOKS[0])

    def take_in_every_look(self, name: str, *, top_on_a_phone: str = "") -> None:
        """Write a picture in each of :data:`LOOKS`."""
        for look in LOOKS:
            self.take(name, look, top=top_on_a_phone if look.width < 500 else "")

    def _look(self, look: Look) -> None:
        self.page.set_viewport_size({"width": look.width, "height": look.height})
        self.page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", look.dark)


def compressed(image: Image.Image) -> Image.Image:
    """The picture in 256 colors, at less than half of the bytes.

    The colors are chosen by coverage: chosen by how often they occur, they miss a page's few accents. The dithering keeps
    photos and buttons free of bands.
    """
    palette = image.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what the command line asks for; returns 2 if a program for it is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webui.screenshots", description=__doc__)
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=IMAGES, help="folder of the pictures")
    parser.add_argument("--film", metavar="FILE", type=Path, help="write this film (.webp) and no pictures")
    parser.add_argument("--steps", type=int, help="steps of a run, in place of the preset's: a quick look")
    options = parser.parse_args(arguments)
    hush_libraries()
    sys.path.insert(0, str(ROOT / "tests"))  # the tests' support starts the WebUI and drives its page
    try:
        with tempfile.TemporaryDirectory() as folder, _browser() as browser, _served(Path(folder)) as server:
            photos = _photos(Path(folder))
            if options.film:
                page = _opened(browser, server)
                size = film_of_the_first_person(page, photos["ada"], options.steps).save(options.film)
                sys.stdout.write(f"{options.film}  {size / 1000:.0f} kB\n")
            else:
                options.output.mkdir(parents=True, exist_ok=True)
                take_pictures(Camera(_opened(browser, server), options.output), server, photos, options.steps)
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    """Headless Chromium.

    Raises:
        MissingPackageError: playwright or Chromium is missing, or a font with the emoji of the WebUI's buttons.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingPackageError("playwright is not installed: run pip install -r requirements/test.txt.") from error
    from support.webui_browser import NO_CHROMIUM, find_chromium

    if shutil.which("fc-list"):
        fonts = subprocess.run(["fc-list", ":charset=1f5d1"], capture_output=True, text=True, check=False)
        if fonts.returncode == 0 and not fonts.stdout.strip():
            raise MissingPackageError(
                "No font has the emoji of the WebUI's buttons, which would be empty boxes: install one, such as the package "
                "fonts-noto-color-emoji."
            )
    with sync_playwright() as playwright:
        found = find_chromium(playwright)
        if found is None:
            raise MissingPackageError(f"The page {NO_CHROMIUM}.")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[Any]:
    """The WebUI with the miniature and its names.

    Raises:
        HostError: The environment names no WebUI, or its Python is not there.
    """
    from support.webui import find_webui
    from support.webui_server import serving_miniature

    from celeb_basis.faces.packs import MINIATURE, find_pack

    webui = find_webui()
    if webui is None:
        raise HostError("Set CELEB_BASIS_WEBUI to the folder of a WebUI, and CELEB_BASIS_WEBUI_PYTHON to its Python.")
    if not webui.python.is_file():
        raise HostError(f"{webui.python} is not there: set CELEB_BASIS_WEBUI_PYTHON to the WebUI's Python.")
    data = folder / "data"
    data.mkdir()
    # The miniature's images are small; enlarged to the width of the column, nothing else would be in view.
    write_json(data / "config.json", {"gallery_height": "300px"})
    with serving_miniature(webui, data, find_pack(MINIATURE).folder) as server:
        yield server


def _photos(folder: Path) -> dict[str, Path]:
    """Photos of the two people whom the documentation shows, by name."""
    from miniature.people3d.scheme import PEOPLE, photo

    paths = {name: folder / f"{name}.png" for name in PEOPLE}
    for name, path in paths.items():
        photo(name, 640).save(path)
    return paths


def _opened(browser: Any, server: Any) -> Any:
    """A page with the tab open, and the settings of an image in txt2img."""
    from support.webui_browser import opened, tab

    page = opened(browser, server, LOOKS[0].width, LOOKS[0].height)
    page.set_default_timeout(_PATIENCE)
    tab(page, re.compile("^\\s*txt2img"))
    for setting, value in _GENERATION.items():
        page.fill(f"#txt2img_{setting} input[type=number]", value)
        page.locator(f"#txt2img_{setting} input[type=number]").blur()
    tab(page, "Celeb Basis")
    page.locator("#celeb_basis_memory .quiet").first.wait_for()
    return page


def take_pictures(camera: Camera, server: Any, photos: dict[str, Path], steps: int | None = None) -> None:
    """Learn two people, invent nine, generate, and write :data:`PICTURES`.

    Args:
        camera: Looks at a page with the tab open.
        server: The WebUI.
        photos: A photo of each of the two people, by name.
        steps: Steps of a run, in place of the preset's.
    """
    from support.webui_browser import cards

    page = camera.page
    _learn_ada(camera, photos["ada"], steps)
    _learn(server, "ben", photos["ben"], steps or _FEW_STEPS)
    cards(page, "ada", "ben")  # the page sees the end of a run of the API while it shows Learn
    _invent(camera)
    _prompt(camera)
    _guide(camera)
    _place(camera)
    page.close()


def _learn_ada(camera: Camera, photo: Path, steps: int | None) -> None:
    from support.webui_browser import fill, status

    page = camera.page
    _upload(page, photo)
    fill(page, "celeb_basis_name", "ada")
    page.locator("#celeb_basis_name_note .good").wait_for()
    page.locator("#celeb_basis_consent input").check()
    camera.take_in_every_look("learn")
    _set_steps(page, steps)
    page.locator("#celeb_basis_start").click()
    status(page).get_by_text("Done", exact=True).wait_for(timeout=_RUN_PATIENCE)
    page.locator(".celeb-basis-likeness").wait_for()
    camera.take_in_every_look("learned", top_on_a_phone=_RESULTS)


def _upload(page: Any, photo: Path) -> None:
    page.locator("#celeb_basis_photos input[type=file]").set_input_files(str(photo))
    page.locator(".celeb-basis-photo").wait_for()


def _set_steps(page: Any, steps: int | None) -> None:
    from support.webui_browser import fill

    if steps is None:
        return
    accordion = page.locator("#celeb_basis_advanced > .label-wrap")
    accordion.click()
    fill(page, "celeb_basis_set_steps", str(steps))
    page.locator("#celeb_basis_set_steps input").first.blur()
    accordion.click()


def _learn(server: Any, name: str, photo: Path, steps: int) -> None:
    """Learn a person over the API, in few steps: they are seen on a card and in one image."""
    data = base64.b64encode(photo.read_bytes()).decode()
    people = [{"name": name, "photos": [{"data": data}]}]
    body = {
        "people": people,
        "settings": {"steps": steps},
        "consent": True,
        "consent_note": _CONSENT,
        "likeness": False,
    }
    job = server.job_ended(server.ours("POST", "/learn", body, expect=202)["id"], _RUN_PATIENCE / 1000)
    if job["state"] != "done":
        raise HostError(f"<{name}> was not learned: {job['error']}")


def _invent(camera: Camera) -> None:
    from support.webui_browser import part

    page = camera.page
    part(page, "Invent")
    more = page.locator("#celeb_basis_invent_more .label-wrap")
    more.click()
    page.get_by_label("Seed of the people (-1: random)").fill("7")
    more.click()
    page.locator("#celeb_basis_invent_start").click()
    page.locator("#celeb_basis_invent_poll_status .state.done").wait_for(timeout=_RUN_PATIENCE)
    page.locator(".celeb-basis-sheet .marks").nth(8).wait_for()
    page.locator(".celeb-basis-sheet .face").nth(3).click()
    page.locator("#celeb_basis_invent_save").wait_for()
    camera.take("invent", _TALL)
    part(page, "People")
    page.locator(".celeb-basis-cards .card", has_text="<ada>").click()
    page.locator("#celeb_basis_person h3", has_text="<ada>").first.wait_for()
    camera.take("people")


def _prompt(camera: Camera) -> None:
    """The names that complete a prompt, and the people's cards."""
    from support.webui_browser import cards, tab

    page = camera.page
    tab(page, re.compile("^\\s*txt2img"))
    prompt = page.locator("#txt2img_prompt textarea")
    prompt.press_sequentially("a photo of <", delay=40)
    page.locator(".celeb-basis-completion li", has_text="<ben>").wait_for()
    camera.take("prompt")
    prompt.press("Escape")
    cards(page, "ada", "ben")
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Celeb Basis").click()
    prompt.fill("a photo of ")
    page.locator("#txt2img_celeb_basis_cards_html .card", has_text="ada").first.click()
    _wait_for_tokens(page, 5)
    camera.take("cards", Look("", height=900))
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Generation").click()


def _wait_for_tokens(page: Any, count: int) -> None:
    """Wait for the counter at the prompt, which the host makes after the last key."""
    page.wait_for_function(f"document.querySelector('#txt2img_token_counter').innerText.includes('{count}/75')")


def _guide(camera: Camera) -> None:
    page = camera.page
    page.fill("#txt2img_prompt textarea", "a photo of <ada>")
    strength = page.locator("#celeb_basis_face_guidance_txt2img input[type=number]")
    strength.fill("0.5")
    strength.blur()
    _wait_for_tokens(page, 5)
    camera.take("face-guidance", Look("", height=900))
    strength.fill("0")
    strength.blur()


def _place(camera: Camera) -> None:
    page = camera.page
    page.fill("#txt2img_prompt textarea", "a photo of <ada> and <ben>")
    control = page.locator("#celeb_basis_places_txt2img")
    control.locator(".label-wrap").click()
    control.get_by_text("Side by side").click()
    page.locator("#txt2img_generate").click()
    page.locator("#html_info_txt2img", has_text="Places").first.wait_for()
    camera.take("places", _TALL)


def film_of_the_first_person(page: Any, photo: Path, steps: int | None = None) -> Film:
    """Drop a photo, name the person, learn, write the name into a prompt and generate."""
    from support.webui_browser import status

    _set_steps(page, steps)
    film = Film(page)
    film.hold(1.2)
    film.drop(photo, page.locator("#celeb_basis_photos"), lambda: _upload(page, photo))
    film.hold(0.8)
    film.type(page.locator("#celeb_basis_name textarea, #celeb_basis_name input").first, "ada")
    page.locator("#celeb_basis_name_note .good").wait_for()
    film.click(page.locator("#celeb_basis_consent input"))
    film.click(page.locator("#celeb_basis_start"))
    film.watch(status(page).get_by_text("Done", exact=True).is_visible)
    page.locator(".celeb-basis-likeness").wait_for()
    film.hold(2.5)
    film.click(page.get_by_role("button", name="Send <ada> to txt2img").first)
    film.hold(0.5)
    prompt = page.locator("#txt2img_prompt textarea")
    film.type(prompt, " on a beach")
    film.click(page.locator("#txt2img_generate"))
    film.watch(page.locator("#html_info_txt2img", has_text="<ada>").first.is_visible, every=0.3, within=1.5)
    page.wait_for_timeout(500)
    film.hold(3.5)
    return film


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
