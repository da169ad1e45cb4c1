"""Licence, consent and deletion on the tab of a real WebUI, as a visitor meets them. The tests follow one another.

Needs ``CELEB_BASIS_WEBUI``, playwright and Chromium.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.remains import remains
from support.sample_photos import sample_photos
from support.webui import need_webui
from support.webui_browser import begin, choose, generate, note, opened, part, status, tab, without_likeness
from support.webui_server import Server, serving

from celeb_basis.identities.library import Library
from celeb_basis.provenance import GENERATED, KEY

NAME = "zyxwvada"
PHOTO = sample_photos()["six"]


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where gradio keeps what is dropped on its pages."""
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="module")
def server(browser: Any, uploads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A WebUI whose face models ``buffalo_l`` are not there, and cannot be downloaded."""
    assert browser
    data = tmp_path_factory.mktemp("data")
    without_likeness(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(data / "home"))
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1,localhost")
        patch.setattr(urllib.request, "_opener", None)  # made at the first request, with its proxies, and kept
        patch.delenv("CELEB_BASIS_FACES", raising=False)
        with serving(need_webui("sd1"), data, Path("buffalo_l"), page=True) as running:
            yield running


@pytest.fixture(scope="module")
def page(browser: Any, server: Server) -> Any:
    opened_page = opened(browser, server)
    opened_page.set_default_timeout(180_000)  # beside other work, a first photo may take a while
    return opened_page


def drop_photo(page: Any) -> None:
    page.wait_for_timeout(1500)  # gradio 3 forgets an upload when an answer that is still on its way comes first
    page.locator("#celeb_basis_photos input[type=file]").set_input_files(str(PHOTO))


def test_the_licence_is_shown_and_nothing_is_downloaded_before_it_is_agreed_to(page: Any, server: Server) -> None:
    told = page.locator("#celeb_basis_faces_note .celeb-basis-note").first
    told.wait_for()
    for words in ("buffalo_l (289 MB)", "non-commercial research purposes only", "github.com/deepinsight/insightface"):
        assert words in told.inner_text()
    assert page.locator("#celeb_basis_agree").is_visible()
    drop_photo(page)
    note(page, "photo").get_by_text("license must be accepted").wait_for()
    assert server.ours("GET", "/face-models")["to_agree"]
    assert server.ours("GET", "/jobs")["jobs"] == []


def test_agreeing_begins_the_download(page: Any, server: Server) -> None:
    page.locator("#celeb_basis_agree").click()
    status(page).get_by_text("could not be reached").wait_for()  # there is no network here
    (job,) = server.ours("GET", "/jobs")["jobs"]
    assert (job["kind"], job["state"]) == ("faces", "failed")
    assert not server.ours("GET", "/face-models")["to_agree"], "nobody is asked twice"


def test_models_that_lie_there_ask_nothing(page: Any, server: Server, miniature_folder: Path) -> None:
    folder = server.data / "cache" / "faces" / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    for name, target in (("detector", "det_10g"), ("recognition", "w600k_r50")):
        (folder / f"{target}.onnx").symlink_to(miniature_folder / f"{name}.onnx")
    part(page, "People")
    part(page, "Learn")
    page.locator("#celeb_basis_agree").wait_for(state="hidden")
    page.locator("#celeb_basis_faces_note .celeb-basis-note").first.wait_for(state="detached")


def test_an_uploaded_photo_does_not_stay_in_the_temporary_folder(page: Any, uploads: Path) -> None:
    drop_photo(page)
    page.locator(".celeb-basis-photo").wait_for()
    assert remains([uploads], PHOTO.name, PHOTO.read_bytes()) == []
    page.get_by_role("button", name="Remove this photo").click()
    page.locator(".celeb-basis-photo").wait_for(state="detached")


def test_consent_is_asked_for_noted_and_shown(page: Any, server: Server) -> None:
    page.locator("#celeb_basis_tab_learn .label-wrap", has_text="Notes").click()
    page.get_by_label("Consent details").locator("visible=true").fill(f"{NAME} wrote to us")
    begin(page, NAME)
    status(page).get_by_text("Done", exact=True).wait_for(timeout=240_000)
    assert not page.locator("#celeb_basis_consent input").is_checked(), "asked for anew for the next people"
    part(page, "People")
    page.locator(".celeb-basis-cards .card").first.click()
    page.locator("#celeb_basis_person .celeb-basis-facts", has_text=f"{NAME} wrote to us").first.wait_for()
    assert server.ours("GET", f"/people/{NAME}")["consent"] == f"{NAME} wrote to us"


def test_a_picture_of_the_host_says_that_it_is_generated(page: Any, server: Server) -> None:
    from PIL import Image

    tab(page, "txt2img")
    generate(page, f"a photo of <{NAME}>")
    (file,) = (server.data / "outputs" / "txt2img-images").rglob("*.png")
    with Image.open(file) as image:
        texts = image.text
    assert f"AI-generated picture of <{NAME}>," in texts[KEY]
    assert GENERATED in texts["XML:com.adobe.xmp"]
    file.unlink()  # the WebUI's own: not what deleting a person deletes


def test_one_button_deletes_everything(page: Any, server: Server, uploads: Path) -> None:
    library = Library(server.data / "celeb-basis" / "people")
    identity = library.load(NAME)
    assert identity.metadata.thumbnail is not None
    contents = PHOTO.read_bytes(), identity.metadata.thumbnail, identity.vectors[0].tobytes()
    tab(page, "Celeb Basis")
    part(page, "Evaluate")
    choose(page, "celeb_basis_evaluate_person", NAME)
    page.locator("#celeb_basis_evaluate_photos input[type=file]").set_input_files(str(PHOTO))
    page.locator("#celeb_basis_evaluate_start").click()
    note(page, "evaluate").get_by_text("has started").wait_for()
    page.locator("#celeb_basis_evaluate_stop").click()  # a whole evaluation takes minutes
    status(page, "evaluate").get_by_text("Interrupted", exact=True).wait_for()
    part(page, "People")
    page.locator(".celeb-basis-cards .card").first.click()
    page.get_by_role("button", name="Copy to the embeddings folder").click()
    note(page, "people").get_by_text("Saved to").wait_for()
    folders = [server.data / "celeb-basis", server.data / "embeddings", server.data / "cache", uploads]
    assert len(remains(folders, NAME, *contents)) >= 3
    page.locator("#celeb_basis_delete").click()
    told = page.locator("#celeb_basis_delete_told .celeb-basis-note").first
    told.wait_for()
    assert f"the identity of {NAME}" in told.inner_text()
    assert "1 embedding" in told.inner_text()
    assert NAME in library.names(), "asked first"
    page.locator("#celeb_basis_delete_yes").click()
    note(page, "people").get_by_text("is deleted").wait_for()
    assert remains(folders, NAME, *contents) == []
    assert server.ours("GET", "/people")["people"] == []
    assert all(NAME not in job["people"] for job in server.ours("GET", "/jobs")["jobs"])
    assert not page.errors
