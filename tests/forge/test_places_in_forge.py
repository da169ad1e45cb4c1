"""Places of people in a real Forge: over its API, and on its page. Run with ``CELEB_BASIS_FORGE`` set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import places_checks as checks
from support.forge import need_forge
from support.forge_server import serving_forge
from support.neighbours import make_people
from support.webui_server import Server

from celeb_basis.cli.demo import STRANGERS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    forge, data = need_forge(), tmp_path_factory.mktemp("data")
    make_people(data / "celeb-basis" / "people")
    with serving_forge(forge, data, miniature_folder, page=True) as running:
        checks.draw(running)  # the checkpoint is loaded by the first image
        yield running


def test_each_side_is_its_persons(server: Server) -> None:
    checks.check_each_side_is_its_persons(server)


def test_without_places_images_are_the_same_bit_for_bit(server: Server) -> None:
    checks.check_nothing_changes_without(server)


def test_places_end_at_the_chosen_step(server: Server) -> None:
    checks.check_until(server)


def test_every_sampler(server: Server) -> None:
    assert len(checks.check_every_sampler(server)) >= 19


def test_hires_fix(server: Server) -> None:
    checks.check_hires(server, hr_additional_modules=["Use same choices"])


def test_img2img(server: Server) -> None:
    checks.check_img2img(server, STRANGERS[0].read_bytes())


def test_batches(server: Server) -> None:
    checks.check_batches(server)


def test_composed_edited_and_long_prompts(server: Server) -> None:
    checks.check_composed_and_edited(server)


def test_bad_input_is_said(server: Server) -> None:
    checks.check_bad_input_is_said(server)


def test_on_the_page(server: Server, browser: Any) -> None:
    checks.check_page(browser, server)
