"""The extension's flags, which the host reads before anything else of it."""

from __future__ import annotations

import argparse
import os

# Before another extension imports onnxruntime, which reads it only then; the other variables are in celeb_basis/__init__.py.
for _name in ("ORT_DISABLE_TELEMETRY", "NO_ALBUMENTATIONS_UPDATE"):
    os.environ[_name] = os.environ.get(_name) or "1"


def preload(parser: argparse.ArgumentParser) -> None:
    """Add the flags to the host's own."""
    parser.add_argument(
        "--celeb-basis-dir",
        default=None,
        metavar="FOLDER",
        help="data folder of Celeb Basis: people and unfinished runs (default: celeb-basis in the data folder)",
    )
    parser.add_argument(
        "--celeb-basis-faces",
        default=None,
        metavar="PACK",
        help="face model pack of Celeb Basis: buffalo_l, antelopev2, or a folder that holds one (default: buffalo_l)",
    )
    parser.add_argument(
        "--celeb-basis-names",
        default=None,
        metavar="FILE",
        help="list of celebrities' names for Celeb Basis, one a line (default: the shipped list)",
    )
