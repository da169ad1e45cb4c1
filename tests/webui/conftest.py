"""People whose names are in a host's prompts."""

from __future__ import annotations

import pytest
from support.guided_jobs import Names


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Names:
    return Names(tmp_path_factory.mktemp("people"))
