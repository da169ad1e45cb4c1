"""The web server that the host runs: asked to end, it ends within seconds; of people, it serves no files by their paths."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

GRACE = 3
"""Seconds that requests get to finish after the server was asked to end."""

_LOGGER = "uvicorn.error"
_CANCELED = "Cancel %s running task(s)"


def limit_shutdown(demo: Any) -> None:
    """Have the host's server cancel what is still open :data:`GRACE` seconds after it was asked to end.

    It would otherwise wait without a limit. Gradio 3 leaves a task behind for each page that is closed between joining its
    queue and the beginning of its event, so Reload UI would never come back.

    Args:
        demo: The host's page, as it gives it to extensions; ``None`` where it serves no page.
    """
    config: Any = getattr(getattr(demo, "server", None), "config", None)
    # Old servers have no such setting; a number in it was chosen by the user or another extension.
    if getattr(config, "timeout_graceful_shutdown", GRACE) is None:
        config.timeout_graceful_shutdown = GRACE
        _hide_cancellations()


def ending() -> Callable[[], bool]:
    """A function that answers whether the server of the running event loop was asked to end.

    A host calls its extensions at Reload UI only after the server has ended. So an open stream asks the server itself: it
    is the object whose method the loop's main task runs, whether a page is served or only the API.
    """
    for task in asyncio.all_tasks():
        frame = getattr(task.get_coro(), "cr_frame", None)
        server: Any = None if frame is None else frame.f_locals.get("self")
        if hasattr(server, "should_exit") and hasattr(server, "server_state"):
            return lambda: bool(server.should_exit)
    return lambda: False


def _hide_cancellations() -> None:
    """Keep out of the log what the server writes of the tasks that it cancels."""
    logger = logging.getLogger(_LOGGER)
    if _is_no_cancellation not in logger.filters:
        logger.addFilter(_is_no_cancellation)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, asyncio.CancelledError) or str(record.msg).startswith(_CANCELED))


# Files of the host's folder. Gradio can be given paths to block, but compares them as text: another case, a short name or a
# link would lead around them, and the data folder can be changed in the settings.

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
