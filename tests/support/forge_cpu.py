"""Runs a Forge's ``launch.py`` on the CPU: ``python forge_cpu.py LAUNCH.PY ARGUMENT...`` in Forge's folder.

A fork of Forge Neo that carries ComfyUI imports it at its start, and passes it neither ``--always-cpu`` nor any argument, so
that it asks for a graphics card.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def stay_on_cpu(folder: Path) -> None:
    """Have the ComfyUI inside of a Forge's ``folder``, if there is one, compute on the CPU as well."""
    comfyui = folder / "ComfyUI-master"
    if not comfyui.is_dir():
        return
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    args.cpu = True


if __name__ == "__main__":
    del sys.argv[0]
    sys.path[0] = str(Path.cwd())
    stay_on_cpu(Path.cwd())
    runpy.run_path(sys.argv[0], run_name="__main__")
