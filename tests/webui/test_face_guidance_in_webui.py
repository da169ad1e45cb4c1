"""Face guidance in a real WebUI: over its API, and on its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import guidance_checks as checks
from support.webui import need_webui
from support.webui_server import Server, serving

from celeb_basis.miniature import NAMES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    from miniature.small_models.for_webui import put_miniature

    webui = need_webui()
    data = tmp_path_factory.mktemp("data")
    (data / "checkpoints").mkdir()
    put_miniature(data / "checkpoints")
    flags = ["--ckpt-dir", str(data / "checkpoints"), "--ckpt", str(data / "checkpoints" / "miniature.safetensors")]
    checks.make_guided_people(data / "celeb-basis" / "people")
    with serving(webui, data, miniature_folder, page=True, more=[*flags, "--celeb-basis-names", str(NAMES)]) as running:
        yield running


class TestFaceGuidance(checks.FaceGuidanceChecks):
    """In the WebUI."""
