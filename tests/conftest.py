"""Shared pytest set-up: the ``--slow`` tier, shared fixtures, and a summary of what was skipped."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import celeb_basis  # noqa: F401  (first: it disables the telemetry of what the tests import)

# Tests' tensors are tiny: a second thread costs more than it gives, most of all beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = [
    *("support.fixtures", "support.models", "support.faces", "support.steerable", "support.webui_browser"),
    *("support.toy_service", "support.locked_runs"),
]


class _RootIsNoPackage:
    """The root's ``__init__.py`` is for ComfyUI alone. As pytest's package, it would put the folder above on ``sys.path``."""

    @staticmethod
    def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == Path(__file__).parents[1] else None


def pytest_configure(config: pytest.Config) -> None:
    # A plugin of its own, because hooks of this file are not asked about folders above it.
    config.pluginmanager.register(_RootIsNoPackage())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the slow tier")


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_auto_num_workers() -> int | None:
    """One process if a real program is to be started: two cannot run from one folder. Else one a core."""
    programs = ("WEBUI", "FORGE", "FORGE_NEO", "REFORGE", "SDNEXT", "COMFYUI", "INVOKEAI", "NEIGHBOURS")
    return 0 if any(os.environ.get(f"CELEB_BASIS_{name}") for name in programs) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow tier: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line on what was skipped and why: ``Skipped: 155 for want of CELEB_BASIS_WEBUI, 6 slow, ...``."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        variable = re.search(r"CELEB_BASIS_[A-Z_]*[A-Z]", reason)
        counts[f"without {variable[0]}" if variable else _brief(reason)] += 1
    if counts:
        parts = (f"{count} {reason}" for reason, count in counts.most_common())
        terminalreporter.write_line(f"Skipped: {', '.join(parts)}. See tests/README.md.")


def _brief(reason: str) -> str:
    return reason.removeprefix("Skipped: ").split(":")[0].split(" (")[0]
