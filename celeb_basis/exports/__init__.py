"""Files of other tools: textual inversions, and coefficient files of the CelebBasis repository."""

from __future__ import annotations
