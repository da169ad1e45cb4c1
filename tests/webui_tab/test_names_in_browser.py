"""Names that are markup, in every place where a user can put one: nothing of them runs, and the page stays whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.people import person
from support.sample_photos import sample_photos
from support.webui import need_webui
from support.webui_browser import begin, cards, choose, fill, note, opened, part, status, tab, without_likeness
from support.webui_server import Server, serving

from celeb_basis.identities.identity import identity_to_bytes
from celeb_basis.names.lists import shipped_names

RUNS = "window.pwned=(window.pwned||0)+1"
EVIL = f'"><img src=x onerror="{RUNS}">'
# A file name cannot hold a slash.
EVIL_FILE = f"'\"><img src=x onerror={RUNS}><svg onload={RUNS}>"


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    """A WebUI with a malicious library and a malicious list of names."""
    assert browser
    data = tmp_path_factory.mktemp("data")
    people = data / "celeb-basis" / "people"
    people.mkdir(parents=True)
    (people / f"{EVIL_FILE}.safetensors").write_bytes(b"nonsense")
    (people / "ada & 'eve'.safetensors").write_bytes(
        identity_to_bytes(person("ada & 'eve'", notes=EVIL, consent=EVIL, face_model=EVIL))
    )
    (data / "names.txt").write_text("\n".join([*shipped_names().names[:200], *(f"{EVIL} {i}" for i in range(200))]))
    without_likeness(data)
    flags = ["--celeb-basis-names", str(data / "names.txt")]
    with serving(need_webui("sd1"), data, miniature_folder, page=True, more=flags) as running:
        yield running


def nothing_ran(page: Any) -> None:
    page.wait_for_timeout(500)
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src='x'], svg[onload]").count() == 0
    assert page.errors == []
    assert page.locator("#celeb_basis_tabs").count() == 1


def test_markup_is_text_everywhere(browser: Any, server: Server, tmp_path: Path) -> None:
    page = opened(browser, server)
    photo = tmp_path / f"{EVIL_FILE}.jpg"
    shutil.copy(sample_photos()["six"], photo)
    broken = tmp_path / f"{EVIL_FILE}.png"
    broken.write_bytes(b"no picture")
    page.locator("#celeb_basis_photos input[type=file]").set_input_files([str(photo), str(photo), str(broken)])
    page.locator("#celeb_basis_thumbs img").nth(1).wait_for()
    note(page, "photo").get_by_text("onerror").wait_for()
    fill(page, "celeb_basis_name", EVIL)
    page.locator("#celeb_basis_name_note .error").first.wait_for()
    page.locator("#celeb_basis_add_person").click()
    page.get_by_role("radio", name="onerror").wait_for()
    nothing_ran(page)
    page.close()

    page = opened(browser, server)
    begin(page, "bob")
    status(page).get_by_text("Done", exact=True).wait_for(timeout=240_000)
    cards(page, "ada & 'eve'", "bob")
    nothing_ran(page)

    part(page, "People")
    page.locator(".celeb-basis-cards .card", has_text="onerror").click()
    page.locator("#celeb_basis_person .error").first.wait_for()
    page.locator(".celeb-basis-cards .card", has_text="ada & 'eve'").click()
    page.locator("#celeb_basis_person", has_text="onerror").first.wait_for()
    nothing_ran(page)
    fill(page, "celeb_basis_new_name", EVIL)
    page.locator("#celeb_basis_rename").click()
    note(page, "people").wait_for()
    page.locator("#celeb_basis_import .label-wrap").click()
    for suffix in (".safetensors", ".txt"):
        wrong = tmp_path / f"{EVIL_FILE}{suffix}"
        wrong.write_bytes(b"nonsense")
        page.locator("#celeb_basis_import_files input[type=file]").set_input_files(str(wrong))
        page.wait_for_timeout(1000)
        page.locator("#celeb_basis_import_go").click()
        note(page, "import").wait_for()
        page.wait_for_timeout(1000)
    nothing_ran(page)

    part(page, "Blend")
    choose(page, "celeb_basis_blend_people", "ada & 'eve'")
    fill(page, "celeb_basis_blend_name", EVIL)
    page.locator("#celeb_basis_blend_save").click()
    note(page, "blend").wait_for()
    nothing_ran(page)

    part(page, "Basis")
    fill(page, "celeb_basis_components", "64")
    page.locator("#celeb_basis_basis_show").click()
    dropped = page.locator("#celeb_basis_basis_poll_pictures details").first
    dropped.wait_for()
    dropped.locator("summary").click()
    assert "onerror" in dropped.inner_text()
    page.locator("#celeb_basis_names_list .label-wrap").click()
    names = tmp_path / f"{EVIL_FILE}.txt"
    names.write_bytes(b"\xff\xff\x00")
    page.locator("#celeb_basis_names_file input[type=file]").set_input_files(str(names))
    note(page, "basis").get_by_text("onerror").wait_for()
    nothing_ran(page)

    tab(page, "txt2img")
    prompt = page.locator("#txt2img_prompt textarea")
    prompt.fill("")
    prompt.press_sequentially("<", delay=30)
    page.locator(".celeb-basis-completion li", has_text="<ada & 'eve'>").wait_for()
    assert page.locator(".celeb-basis-completion li", has_text="onerror").count() == 0, "prompts cannot hold it"
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Celeb Basis").click()
    page.locator("#txt2img_celeb_basis_cards .card").first.wait_for()
    nothing_ran(page)
    page.close()
