"""The web server that the host runs: its end, files of people, its list of embeddings, and events of other sites' pages."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from celeb_basis.webui.api.access import FOREIGN_PAGE, Access

if TYPE_CHECKING:
    from celeb_basis.identities.library import IdentityStatus

_log = logging.getLogger(__name__)

_EMBEDDINGS = "/sdapi/v1/embeddings"
_LISTS_PEOPLE = "celeb_basis_lists_people"

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

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


# Events of the page, which any web page that the user has open could send to gradio's own routes. Gradio lets a request say
# which headers its handler sees, so a handler cannot tell.

_EVENTS = re.compile(r"/(?:queue/(?:join|data)|(?:run|api|call)/[^/]+)/?$")
"""Gradio's routes for events: its queue (a websocket in gradio 3), and those beside the queue."""

_MAX_EVENT = 64 << 20
"""Largest event of another site's page that is looked at, in bytes."""

_MARK = "celeb_basis_event"
_LOOKED_AT = "celeb_basis.looked_at"


def mark_event(handler: _Handler) -> _Handler:
    """Mark an event's function, as gradio gets it, as one of ours: pages of other sites cannot call it."""
    setattr(handler, _MARK, True)
    return handler


class RefuseOtherSites(Route):
    """A route that takes requests of other sites' pages for gradio's events, and refuses those for events of ours.

    All others go on to the host's own routes, and so do, unseen, the requests of the WebUI's own pages and of programs.

    Args:
        demo: The host's page.
        router: The host's router.
        access: Who may use the page.
    """

    def __init__(self, demo: Any, router: Any, access: Access) -> None:
        super().__init__("/queue/join", _refuse, methods=["POST"], include_in_schema=False)
        self._demo, self._router, self._access = demo, router, access

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is of another site's page, and for an event."""
        if scope["type"] not in ("http", "websocket") or _LOOKED_AT in scope or not _EVENTS.search(scope["path"]):
            return Match.NONE, {}
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if not self._access.is_of_another_site(headers):
            return Match.NONE, {}
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {}, _LOOKED_AT: True}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at what the request is for."""
        look = self._look_at_socket if scope["type"] == "websocket" else self._look_at_request
        await look(scope, receive, send)

    async def _look_at_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []
        size, more = 0, True
        while more and size <= _MAX_EVENT:
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
            more = messages[-1].get("more_body", False)
        if size > _MAX_EVENT or self._is_for_ours(b"".join(message.get("body", b"") for message in messages)):
            _log.warning("%s", FOREIGN_PAGE)
            await JSONResponse({"error": FOREIGN_PAGE, "detail": FOREIGN_PAGE}, 403)(scope, receive, send)
            return
        left = iter(messages)

        async def received() -> Message:
            message = next(left, None)
            return await receive() if message is None else message

        await self._router(scope, received, send)

    async def _look_at_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        closed = False

        async def received() -> Message:
            nonlocal closed
            message = await receive()
            if not closed and self._is_for_ours(message.get("text") or message.get("bytes") or b""):
                closed = True
                _log.warning("%s", FOREIGN_PAGE)
                answer = {"msg": "process_completed", "output": {"error": FOREIGN_PAGE}, "success": False}
                await send({"type": "websocket.send", "text": json.dumps(answer)})
                await send({"type": "websocket.close", "code": 1008})
            return {"type": "websocket.disconnect", "code": 1008} if closed else message

        async def sent(message: Message) -> None:
            if not closed:
                await send(message)

        try:
            await self._router(scope, received, sent)
        except Exception:  # gradio's, of a visitor who is gone
            if not closed:
                raise

    def _is_for_ours(self, content: str | bytes) -> bool:
        """Whether what was sent, as gradio would read it, is for an event of ours."""
        try:
            number = json.loads(content)["fn_index"]
            try:
                number = int(number)
            except ValueError:
                number = int(float(number))
            return hasattr(self._demo.fns[number].fn, _MARK)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError):
            return False  # gradio cannot read it either


def refuse_other_sites(demo: Any, app: Any, access: Access) -> None:
    """Have the host's application ``app`` refuse the events of our page that pages of other sites send."""
    if demo is not None:
        app.router.routes.insert(0, RefuseOtherSites(demo, app.router, access))


def list_people_among_embeddings(app: Any, entries: Callable[[], Iterable[IdentityStatus]]) -> None:
    """Have the host's ``GET /sdapi/v1/embeddings`` list people as well, for programs that complete prompts from it.

    Those that the loaded checkpoint can draw are among the loaded, all others among the skipped, by the words that prompts
    name them with. A host without such a route stays as it is.

    Args:
        app: The host's application, once its own API is mounted.
        entries: Returns everyone in the library, as they are on the loaded checkpoint.
    """
    for route in app.routes:
        dependant: Any = getattr(route, "dependant", None)
        answer = getattr(dependant, "call", None)
        if getattr(route, "path", None) != _EMBEDDINGS or answer is None or hasattr(answer, _LISTS_PEOPLE):
            continue
        if not inspect.iscoroutinefunction(answer):
            dependant.call = _with_people(answer, entries)


def _with_people(answer: Callable[..., Any], entries: Callable[[], Iterable[IdentityStatus]]) -> Callable[..., Any]:
    @functools.wraps(answer)
    def with_people(*arguments: Any, **named: Any) -> Any:
        found = answer(*arguments, **named)
        try:
            for status in entries():
                if status.identity is not None:
                    _add_person(found, status)
        except Exception:  # the host's own answer is not to fail for ours
            _log.exception("People cannot be listed among the WebUI's embeddings.")
        return found

    setattr(with_people, _LISTS_PEOPLE, True)
    return with_people


def _add_person(found: Any, status: IdentityStatus) -> None:
    """Into a dictionary by names (the WebUI, Forge, reForge) or a list of names (SD.Next), of a dictionary or a model."""
    identity, where = status.identity, "loaded" if status.available else "skipped"
    listed = found[where] if isinstance(found, dict) else getattr(found, where)
    if isinstance(listed, list):
        listed.append(status.placeholder_token)
    elif identity is not None:
        metadata = identity.metadata
        listed[status.placeholder_token] = {
            "step": metadata.steps,
            "sd_checkpoint": metadata.base_sha256[:10] or None,
            "sd_checkpoint_name": metadata.learned_on or metadata.base_model or None,
            "shape": sum(vectors.shape[-1] for vectors in identity.vectors),
            "vectors": identity.positions,
        }
