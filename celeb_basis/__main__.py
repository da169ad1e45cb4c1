"""Run the command line with ``python -m celeb_basis``."""

from __future__ import annotations

from celeb_basis.cli.main import console

if __name__ == "__main__":
    console()
