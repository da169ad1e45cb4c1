"""Speed and memory as figures with limits: ``python -m benchmarks``. Nearly all figures are ratios within one run."""

from __future__ import annotations
