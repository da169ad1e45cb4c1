"""The miniature Stable Diffusion: its training, small random models for tests, and the face pack of the demo."""

from __future__ import annotations
