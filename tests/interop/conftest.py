"""A testbed that is created once."""

from __future__ import annotations

import pytest
from support.interop_testbeds import random_testbed

from benchmarks.interop.testbed import InteropTestbed


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> InteropTestbed:
    """Two random identities on the miniature."""
    return random_testbed(tmp_path_factory.mktemp("testbed"))
