"""Shared pytest set-up: the ``--slow`` tier, the tests' own helpers, and a cache folder that is nobody's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Tests' tensors are tiny: a second thread costs more than it gives, most of all beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["support.fixtures", "support.models", "support.faces", "support.steerable", "support.webui_browser"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the slow tier")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow tier: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
