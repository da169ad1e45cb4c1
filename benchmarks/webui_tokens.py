"""Ten thousand people as words of a WebUI's prompts: how long until they are there, and what they cost a prompt.

Measured only where ``CELEB_BASIS_WEBUI`` names a WebUI, with its own Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, exit_code
from benchmarks.webui.running import answer_of
from benchmarks.workbench import Workbench

WORDS = "webui-tokens"
SLOW = False

_PEOPLE = 10_000


def measure(bench: Workbench, checkpoint: Path | None = None) -> Iterator[Figure]:
    """Both figures; none where there is no WebUI. ``checkpoint`` is an SD1; else the WebUI's own small one, ``sd1``."""
    if not os.environ.get("CELEB_BASIS_WEBUI"):
        return
    people = 500 if bench.tiny else _PEOPLE
    seen = _inside(people, checkpoint)
    yield Figure(
        f"{people:,} identities as words of the WebUI's prompts: from nothing to the first prompt with a name in it",
        seen["ready_s"],
        1.0,
        "s",
        f"in the host's own database {seen['stock_ready_s']:.2f} s",
    )
    yield Figure(
        f"added to a prompt of {seen['tokens']} tokens with a name in it by {people:,} identities in the WebUI",
        seen["prompt_ms"] - seen["bare_ms"],
        0.3,
        "ms",
        f"{seen['prompt_ms']:.3f} ms, a plain word in the name's place and no tokens installed {seen['bare_ms']:.3f} ms, "
        f"with three names {seen['crowd_ms']:.3f} ms, with none {seen['nameless_ms']:.3f} ms, with all of them in the "
        f"host's own database {seen['stock_ms']:.3f} ms",
    )


def _inside(people: int, checkpoint: Path | None) -> Any:
    folder = Path(os.environ["CELEB_BASIS_WEBUI"]).expanduser()
    checkpoint = (checkpoint or folder / "models" / "Stable-diffusion" / "sd1.safetensors").absolute()
    return answer_of("benchmarks.webui_tokens_inside", "--checkpoint", str(checkpoint), "--count", str(people))


if __name__ == "__main__":
    found = []
    for figure in measure(Workbench()):
        sys.stdout.write(f"{figure.line()}\n")
        sys.stderr.write(f"  ({figure.detail})\n")
        found.append(figure)
    if not found:
        sys.exit("set CELEB_BASIS_WEBUI to the folder of a WebUI, and CELEB_BASIS_WEBUI_PYTHON to its Python")
    sys.exit(exit_code(found))
