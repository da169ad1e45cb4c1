"""Run inside a WebUI: every check of the adapter on one checkpoint; prints what failed as JSON, an empty text for none.

``python -m support.webui_checks --data DIR --checkpoint sd1 CHECK...``
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import webui_checks_encoding, webui_checks_learning, webui_checks_switched
from support.reporting import failures

Check = Callable[[Any], None]


def checks_of(module: Any) -> dict[str, Check]:
    """The functions of a module whose names begin with ``check_``."""
    return {name[6:]: function for name, function in vars(module).items() if name.startswith("check_")}


PLAIN = checks_of(webui_checks_encoding) | checks_of(webui_checks_learning)
"""For a plain host with any checkpoint that can be learned through."""
SWITCHED = checks_of(webui_checks_switched)
"""For a host that has something on, or is asked for what it cannot do; on the SD1-shaped checkpoint."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--flags", default="")
    parser.add_argument("checks", nargs="+")
    options = parser.parse_args()
    os.environ["COMMANDLINE_ARGS"] = options.flags
    from support.webui_inside import start

    start(options.checkpoint, options.data)
    known = {**PLAIN, **SWITCHED}
    print(json.dumps(failures({name: known[name] for name in options.checks}, options.data)))


if __name__ == "__main__":
    main()
