"""Placeholder tokens that are installed in the running program for as long as a test needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celeb_basis.hosts.a1111.tokens import A1111Tokens, uninstall
from celeb_basis.prompts.registry import Registry


@contextmanager
def installed_for(folder: Path, kind: type[A1111Tokens] = A1111Tokens, **options: Any) -> Iterator[A1111Tokens]:
    """The identities of ``folder`` in the host's prompts inside the context; ``options`` are those of :class:`Registry`."""
    uninstall(kind)
    tokens = kind(Registry(folder, **options))
    tokens.install()
    try:
        yield tokens
    finally:
        tokens.uninstall()
