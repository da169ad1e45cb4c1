"""What runs in the other tools' own Pythons. Nothing here needs more of this project than this folder and torch."""

from __future__ import annotations
