"""What the extension asks of the adapter for the program that it runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from celeb_basis.webui.program import Program
    from celeb_basis.webui.tokens.fitting import Checkpoint
    from celeb_basis.webui.tokens.registry import Registry, Unavailable, Word


class Tokens(Protocol):
    """``<name>`` in the program's prompts, as it is installed there."""

    registry: Registry

    @property
    def checkpoint(self) -> Callable[[], Checkpoint | None]:
        """What tells the checkpoint that is loaded, without loading one."""

    def mentioned(self, *prompts: str) -> tuple[Word | Unavailable, ...]:
        """Everybody named in ``prompts``, as they are on the loaded checkpoint."""

    def uninstall(self) -> None:
        """Put the program back as it was; a second time, nothing."""


class Adapter(Protocol):
    """One program. Making an adapter imports nothing of it; every method imports what it needs."""

    name: str
    """What people call the program."""

    def program(self) -> Program:
        """The program around the model; :meth:`Program.host` gives the model itself."""

    def install_tokens(self, registry: Registry) -> Tokens:
        """Have ``<name>`` read in prompts; a second time, the tokens there are look into the folder of ``registry``.

        Raises: :class:`HostError` in a version that lacks what is needed.
        """

    def installed_tokens(self) -> Tokens | None:
        """The tokens that are installed, or ``None``."""
