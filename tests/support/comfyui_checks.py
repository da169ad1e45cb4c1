"""Run inside ComfyUI: every check of the host on one checkpoint; prints what failed as JSON, an empty text for none.

``python -m support.comfyui_checks --base DIR --checkpoint NAME CHECK...``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from support import comfyui_checks_learning, comfyui_checks_switched
from support.comfyui_inside import start
from support.comfyui_loaded import Loaded
from support.reporting import failures

CHECKS: dict[str, Callable[[Loaded], None]] = {
    name[6:]: function
    for module in (comfyui_checks_learning, comfyui_checks_switched)
    for name, function in vars(module).items()
    if name.startswith("check_")
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("checks", nargs="+")
    options = parser.parse_args()
    start(options.base)
    one = Loaded(options.base, options.checkpoint)
    print(json.dumps(failures({name: CHECKS[name] for name in options.checks}, one)), flush=True)


if __name__ == "__main__":
    main()
