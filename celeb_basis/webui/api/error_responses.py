"""Routes that ask who sends a request before they read its body, and answer every error with a status and a sentence."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

# fastapi's own class is one of this kind; what reads bodies raises others.
from starlette.exceptions import HTTPException

from celeb_basis.errors import (
    CelebBasisError,
    FileError,
    HostError,
    LicenseError,
    MissingPackageError,
    WrongModelError,
    error_message,
)
from celeb_basis.training.run_lock import RunningError
from celeb_basis.webui.api.access import Access
from celeb_basis.webui.api.bodies import (
    BodyError,
    Held,
    Turn,
    check_json_type,
    check_text,
    declared_length,
    form_boundary,
    parsed_form,
    parsed_json,
    read_body,
    too_large,
)
from celeb_basis.webui.schemas import BusyError, NameTakenError, NoSuchJobError, NoSuchPersonError

_log = logging.getLogger(__name__)

DEFAULT_LIMIT = 1 << 20
"""Bytes of a body without a file."""

_SMALL = 1 << 16
"""Bytes of a body that is parsed without going to another thread."""

_LONGEST = 1600
"""Characters of a sentence."""

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])

_held = Held()
_photos = Turn()


def body_limit(size: int) -> Callable[[_Endpoint], _Endpoint]:
    """Decorator that lets an endpoint take bodies of up to ``size`` bytes."""

    def mark(endpoint: _Endpoint) -> _Endpoint:
        endpoint.celeb_basis_limit = size  # type: ignore[attr-defined]
        return endpoint

    return mark


def decodes_photos(endpoint: _Endpoint) -> _Endpoint:
    """Decorator for an endpoint that decodes photos: one such request is handled at a time."""
    endpoint.celeb_basis_photos = True  # type: ignore[attr-defined]
    return endpoint


def works(endpoint: _Endpoint) -> _Endpoint:
    """Decorator for an endpoint of method GET that builds something, so that no page of another site may ask for it."""
    endpoint.celeb_basis_works = True  # type: ignore[attr-defined]
    return endpoint


class AnswerResponse(JSONResponse):
    """JSON of whatever an answer holds: a number that is none becomes null, half of a character a question mark."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json_text(content).encode("utf-8")


def json_text(content: Any) -> str:
    """One line of JSON that every reader takes and UTF-8 can hold."""
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(content), ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


class ErrorHandlingRoute(APIRoute):
    """A route that checks access, type and size before it reads a body, and answers errors as ``{"detail": sentence}``."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The usual handler, between the checks of the request and the conversion of errors."""
        handled: Callable[[Request], Awaitable[Response]] = super().get_route_handler()
        limit = int(getattr(self.endpoint, "celeb_basis_limit", DEFAULT_LIMIT))
        photos = bool(getattr(self.endpoint, "celeb_basis_photos", False))
        works = bool(getattr(self.endpoint, "celeb_basis_works", False))
        field = self.body_field
        form = field is not None and isinstance(field.field_info, Form)

        async def answer(request: Request, held: Callable[[int], None]) -> Response:
            length = declared_length(request.headers)
            if length > limit:
                raise too_large(limit)
            for text in (*request.path_params.values(), *request.query_params.values()):
                check_text(str(text))
            if field is not None:
                await _read(request, limit, held, form=form, empty=length == 0)
            if not photos:
                return await handled(request)
            async with _photos.taken():
                return await handled(request)

        async def guarded(request: Request) -> Response:
            access: Access | None = getattr(request.app.state, "celeb_basis_access", None)
            refusal = None if access is None else access.refusal(request.method, request.headers, works=works)
            if refusal is not None:
                return _error(refusal.status, refusal.detail, refusal.headers)
            with _held.count() as held:
                try:
                    return await answer(request, held)
                except BodyError as error:
                    return _error(error.status, str(error))
                except HTTPException as error:
                    return _error(error.status_code, str(error.detail), error.headers)
                except Exception as error:
                    return _error(*_status_and_sentence(error))

        return guarded


async def _read(request: Request, limit: int, held: Callable[[int], None], *, form: bool, empty: bool) -> None:
    """Read a request's body and leave its value where the handler looks for it, so that nothing reads it again."""
    content_type = request.headers.get("content-type", "")
    boundary = b""
    if form:
        boundary = form_boundary(content_type)
    elif not empty:
        check_json_type(content_type)
    body = await read_body(request.receive, limit, held)
    if form:
        request._form = await _in_thread(parsed_form, body, boundary)
    elif body:
        check_json_type(content_type)
        request._json = await _in_thread(parsed_json, body)
    # Of JSON, the handler only asks whether there is any.
    request._body = b"{}" if body and not form else b""


async def _in_thread(parse: Callable[..., Any], body: bytearray, *rest: Any) -> Any:
    if len(body) <= _SMALL:
        return parse(body, *rest)
    return await anyio.to_thread.run_sync(parse, body, *rest)


def _error(status: int, sentence: str, headers: Any = None) -> Response:
    extra = dict(headers or {})
    if status in (401, 403, 408, 413, 422, 429):
        extra["Connection"] = "close"  # the rest of the body may be on its way and will not be read
    if len(sentence) > _LONGEST:  # it repeats what was sent
        sentence = f"{sentence[: _LONGEST // 2]} ... {sentence[-_LONGEST // 2 :]}"
    return AnswerResponse({"detail": sentence}, status, extra)


def _status_and_sentence(error: Exception) -> tuple[int, str]:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "The body"
        return 422, f"{where[:200]}: {first['msg'][:500]}."
    if isinstance(error, (NoSuchPersonError, NoSuchJobError)):
        return 404, str(error)
    if isinstance(error, (BusyError, RunningError, NameTakenError, WrongModelError, HostError)):
        return 409, str(error)
    if isinstance(error, MissingPackageError):
        return 424, str(error)
    if isinstance(error, LicenseError):
        return 403, str(error)
    if isinstance(error, FileError):
        return HTTPStatus.INSUFFICIENT_STORAGE, str(error)
    if isinstance(error, CelebBasisError):
        return 400, str(error)
    _log.exception("a request failed", exc_info=error)
    return 500, error_message(error)
