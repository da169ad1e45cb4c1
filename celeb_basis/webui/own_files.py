"""The host's page serves files of its own folder by their paths; what belongs to people is not among them.

Gradio can be given paths to block, but compares them as text: another case, a short name or a link would lead around them,
and the data folder can be changed in the settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

_FILE = re.compile(r"(?:^|/)file[=/](.*)", re.DOTALL)
"""Gradio's routes for files: ``/file=PATH``, and ``/file/PATH`` of older pages."""

_REFUSAL = "Files of people are not served: use the page, or the API's /people/NAME/export."


class DenyOwnFiles(Route):
    """A route that takes, before the host's own do, requests for files inside some folders, and refuses them.

    Args:
        folders: Answers the folders as they are now.
    """

    def __init__(self, folders: Callable[[], Iterable[Path]]) -> None:
        super().__init__("/file={path:path}", _refuse, methods=["GET"], include_in_schema=False)
        self._folders = folders

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for a file of ours."""
        found = _FILE.search(scope["path"]) if scope["type"] == "http" else None
        if found is None or not is_inside(found[1], self._folders()):
            return Match.NONE, {}
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, whatever the method."""
        await _refuse()(scope, receive, send)


def _refuse(_request: Any = None) -> JSONResponse:
    return JSONResponse({"detail": _REFUSAL}, 403)


def deny_own_files(app: Any, folders: Callable[[], Iterable[Path]]) -> None:
    """Have the host's application ``app`` serve no file inside of ``folders``."""
    app.router.routes.insert(0, DenyOwnFiles(folders))


def is_inside(text: str, folders: Iterable[Path]) -> bool:
    """Whether the path ``text``, as a request has it, leads into one of ``folders`` by whatever way.

    Both what the path says and where its links lead count.
    """
    try:
        places = {Path(os.path.abspath(text)), Path(os.path.realpath(text))}
    except (OSError, ValueError):  # a null character, too long: no file
        return False
    ours = [folder for folder in folders if folder.is_dir()]
    return any(_same(folder, parent) for place in places for parent in (place, *place.parents) for folder in ours)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False
