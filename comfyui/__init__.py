"""The custom nodes for ComfyUI. The work is done by :mod:`celeb_basis.hosts.comfyui`, beside this folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_NAME = "celeb_basis"
_FOLDER = Path(__file__).resolve().parents[1] / _NAME


def load_package() -> None:
    """Make ``celeb_basis`` of this repository importable, and nothing else of it.

    Adding the repository to ``sys.path`` would let its ``tests`` and ``scripts`` stand in for those of other nodes.

    Raises:
        ImportError: Another copy of it is loaded already, or this Python is too old.
    """
    if sys.version_info < (3, 10):  # noqa: UP036 - ComfyUI runs on older ones too
        raise ImportError("Celeb Basis needs Python 3.10 or later: start ComfyUI with a newer Python.")
    if (loaded := sys.modules.get(_NAME)) is not None:
        if Path(str(loaded.__file__)).resolve().parent != _FOLDER:
            raise ImportError(
                f"Another copy of Celeb Basis is loaded already, from {loaded.__file__}: keep one of them in custom_nodes."
            )
        return
    spec = importlib.util.spec_from_file_location(
        _NAME, _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{_FOLDER} is not there: clone the repository into custom_nodes again.")
    package = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = package
    spec.loader.exec_module(package)
