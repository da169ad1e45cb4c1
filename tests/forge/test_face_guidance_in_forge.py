"""Face guidance in a real Forge: over its API, and on its page. Run with ``CELEB_BASIS_FORGE`` set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support import guidance_checks as checks
from support.forge import need_forge
from support.forge_server import serving_forge
from support.webui_server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    forge, data = need_forge(), tmp_path_factory.mktemp("data")
    checks.make_guided_people(data / "celeb-basis" / "people")
    with serving_forge(forge, data, miniature_folder, page=True) as running:
        checks.draw(running)  # the checkpoint is loaded by the first image
        yield running


class TestFaceGuidance(checks.FaceGuidanceChecks):
    """In Forge, whose requests with hires fix have to name modules."""

    hires: ClassVar[dict[str, Any]] = {"hr_additional_modules": ["Use same choices"]}
