"""Learning a person's coefficients through a frozen diffusion model (method: paper sections 4 and 5)."""

from __future__ import annotations
