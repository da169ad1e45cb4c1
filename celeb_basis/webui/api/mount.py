"""Putting the routes into the host's application."""

from __future__ import annotations

from secrets import compare_digest
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from celeb_basis.webui.api import PREFIX
from celeb_basis.webui.api.people import people_router
from celeb_basis.webui.api.work import work_router
from celeb_basis.webui.service import Service


def mount(app: FastAPI, service: Service, api_auth: str | None = None) -> None:
    """Add the API to ``app``, behind the same names and passwords as the host's own routes.

    Parameters: ``api_auth`` is the host's ``--api-auth``, ``name:password`` pairs with commas between them.
    """
    if getattr(app.state, "celeb_basis", False):
        return
    app.state.celeb_basis = True
    guards: list[Any] = [Depends(_guard(api_auth))] if api_auth else []
    for router in (people_router(service), work_router(service)):
        app.include_router(router, prefix=PREFIX, dependencies=guards)
    app.openapi_schema = None  # made anew, with these routes, when it is next asked for


def _guard(api_auth: str) -> Any:
    known = dict(pair.strip().split(":", 1) for pair in api_auth.split(",") if ":" in pair)

    def check(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> bool:  # noqa: B008 - fastapi's way
        password = known.get(credentials.username)
        if password is None or not compare_digest(credentials.password.encode(), password.encode()):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})
        return True

    return check
