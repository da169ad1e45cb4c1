"""Paths that the training reads from and writes to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeb_basis.faces.insight import InsightFaceNetwork

ROOT = Path(__file__).resolve().parents[2]


def work_folder() -> Path:
    """``$CELEB_BASIS_TRAINING``, or ``.assets/training`` in the repository."""
    return Path(os.environ.get("CELEB_BASIS_TRAINING", ROOT / ".assets" / "training"))


def face_pack() -> Path:
    """Folder of the small face networks: those that ship with the package, unless ``$CELEB_BASIS_FACES`` has others."""
    from celeb_basis.faces.packs import MINIATURE, find_pack

    return find_pack(MINIATURE).folder


def face_network() -> InsightFaceNetwork:
    """Detector and recognition network of the small pack."""
    from celeb_basis.faces.insight import InsightFaceNetwork

    return InsightFaceNetwork(face_pack())
