"""The celeb basis: per-position mean and principal components of celebrities' token embeddings (paper section 3.2)."""

from __future__ import annotations
