"""Size limits checked before a request's body is read, and errors of the service as responses with a status and a sentence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.types import Message

from celeb_basis.errors import (
    CelebBasisError,
    FileError,
    HostError,
    LicenseError,
    MissingPackageError,
    WrongModelError,
    error_message,
)
from celeb_basis.webui.schemas import BusyError, NameTakenError, NoSuchJobError, NoSuchPersonError

_log = logging.getLogger(__name__)

DEFAULT_LIMIT = 1 << 20
"""Bytes of a body without a file."""

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


def body_limit(size: int) -> Callable[[_Endpoint], _Endpoint]:
    """Decorator that lets an endpoint take bodies of up to ``size`` bytes."""

    def mark(endpoint: _Endpoint) -> _Endpoint:
        endpoint.celeb_basis_limit = size  # type: ignore[attr-defined]
        return endpoint

    return mark


class ErrorHandlingRoute(APIRoute):
    """A route that refuses a body that is too large without reading it, and answers errors as ``{"detail": sentence}``."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The usual handler, between the check of the size and the conversion of errors."""
        handle = super().get_route_handler()
        limit = int(getattr(self.endpoint, "celeb_basis_limit", DEFAULT_LIMIT))

        async def guarded(request: Request) -> Response:
            too_large = JSONResponse(
                {"detail": f"The upload is larger than {limit >> 20} MB: send smaller or fewer files."},
                413,
                # The rest of the body is still on its way and will not be read.
                {"Connection": "close"},
            )
            declared = request.headers.get("content-length", "")
            if declared.isdigit() and int(declared) > limit:
                return too_large
            count = 0

            async def counted() -> Message:
                nonlocal count
                message = await request.receive()
                count += len(message.get("body", b""))
                if count > limit:
                    raise HTTPException(413)
                return message

            try:
                response: Response = await handle(Request(request.scope, counted))
            except Exception as error:
                if count > limit:
                    return too_large
                if isinstance(error, HTTPException):
                    raise
                status, sentence = _status_and_sentence(error)
                return JSONResponse({"detail": sentence}, status)
            return response

        return guarded


def _status_and_sentence(error: Exception) -> tuple[int, str]:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "The body"
        return 422, f"{where}: {first['msg']}."
    if isinstance(error, (NoSuchPersonError, NoSuchJobError)):
        return 404, str(error)
    if isinstance(error, (BusyError, NameTakenError, WrongModelError, HostError)):
        return 409, str(error)
    if isinstance(error, MissingPackageError):
        return 424, str(error)
    if isinstance(error, LicenseError):
        return 403, str(error)
    if isinstance(error, FileError):
        return 507, str(error)
    if isinstance(error, CelebBasisError):
        return 400, str(error)
    _log.exception("a request failed", exc_info=error)
    return 500, error_message(error)
