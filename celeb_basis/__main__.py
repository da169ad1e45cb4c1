"""``python -m celeb_basis``: the command line."""

from __future__ import annotations

from celeb_basis.cli.main import console

if __name__ == "__main__":
    console()
