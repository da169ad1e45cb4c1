"""Face guidance in a real WebUI: over its API, and on its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import guidance_checks as checks
from support.webui import need_webui
from support.webui_server import Server, serving_miniature


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    webui, data = need_webui(), tmp_path_factory.mktemp("data")
    checks.make_guided_people(data / "celeb-basis" / "people")
    with serving_miniature(webui, data, miniature_folder) as running:
        yield running


class TestFaceGuidance(checks.FaceGuidanceChecks):
    """In the WebUI."""
