"""From a photo to faces: detection, five landmarks, a 512-number vector, a square crop (method: paper section 3)."""

from __future__ import annotations
