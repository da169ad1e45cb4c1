"""A WebUI for each neighbour and one for all: started once, for all tests beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.neighbours import World, checkouts, living_beside, make_checkpoints
from support.webui import need_webui


@pytest.fixture(scope="session")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path
) -> Iterator[World]:
    """The WebUI with the neighbours that a test is beside."""
    need_webui()
    checkouts(request.param)
    models = tmp_path_factory.getbasetemp() / "neighbours-checkpoints"
    if not models.is_dir():
        models.mkdir()
        make_checkpoints(models)
    with living_beside(request.param, tmp_path_factory.mktemp("data"), models, miniature_folder) as living:
        yield living


@pytest.fixture(autouse=True)
def quiet_console(world: World) -> Iterator[None]:
    """Nobody reports an error on the console: not while starting, not during a test."""
    yield
    assert world.complaints() == []
