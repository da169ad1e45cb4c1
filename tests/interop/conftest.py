"""A world that is made once."""

from __future__ import annotations

import pytest
from support.interop_worlds import world_by_chance

from benchmarks.interop.people import World


@pytest.fixture(scope="session")
def chance(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two people by chance on the miniature."""
    return world_by_chance(tmp_path_factory.mktemp("chance"))
