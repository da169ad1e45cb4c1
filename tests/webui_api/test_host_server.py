"""The end of the host's server: its limit, its log, and how an open stream learns of it."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from celeb_basis.webui.host_server import GRACE, ending, limit_shutdown


def demo_with(**config: Any) -> Any:
    return SimpleNamespace(server=SimpleNamespace(config=SimpleNamespace(**config)))


@pytest.mark.parametrize(("before", "after"), [(None, GRACE), (30, 30)])
def test_the_shutdown_is_limited_unless_somebody_has_limited_it(before: int | None, after: int) -> None:
    demo = demo_with(timeout_graceful_shutdown=before)
    limit_shutdown(demo)
    assert demo.server.config.timeout_graceful_shutdown == after


@pytest.mark.parametrize("demo", [None, SimpleNamespace(), demo_with(), SimpleNamespace(server=None)])
def test_a_host_without_the_setting_is_left_alone(demo: Any) -> None:
    limit_shutdown(demo)
    if hasattr(demo, "server") and demo.server is not None:
        assert not vars(demo.server.config)


def test_only_cancellations_are_kept_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    limit_shutdown(demo_with(timeout_graceful_shutdown=None))
    limit_shutdown(demo_with(timeout_graceful_shutdown=None))
    logger = logging.getLogger("uvicorn.error")
    for error in (asyncio.CancelledError(), ZeroDivisionError()):
        try:
            raise error
        except BaseException:
            logger.exception("Exception in ASGI application")
    logger.error("Cancel %s running task(s), timeout graceful shutdown exceeded", 2)
    logger.error("[Errno 98] address already in use")
    assert [record.getMessage() for record in caplog.records] == [
        "Exception in ASGI application",
        "[Errno 98] address already in use",
    ]
    assert isinstance(caplog.records[0].exc_info[1], ZeroDivisionError)  # type: ignore[index]


class Server:
    """Like the server of a host: its method is the main task of its event loop."""

    should_exit = False
    server_state = None

    async def serve(self) -> list[bool]:
        return await asyncio.create_task(self.answer())

    async def answer(self) -> list[bool]:
        ends = ending()
        before = ends()
        self.should_exit = True
        return [before, ends()]


def test_a_stream_learns_that_its_server_is_to_end() -> None:
    assert asyncio.run(Server().serve()) == [False, True]


def test_without_a_known_server_a_stream_goes_on() -> None:
    async def answer() -> bool:
        return ending()()

    assert not asyncio.run(answer())
