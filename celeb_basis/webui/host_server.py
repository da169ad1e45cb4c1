"""The web server that the host runs: asked to end, for Reload UI or at a signal, it ends within seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

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
