"""Bodies of requests, read within limits of bytes, parts, depth and time, as JSON or as a form."""

from __future__ import annotations

import io
import json
import math
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import unquote

import anyio
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.types import Message

PATIENCE = 60.0
"""Seconds to wait for more of a body."""
IN_FLIGHT = 1 << 30
"""Bytes of all bodies together that are held at one time."""
MAX_PARTS = 20_000
"""Lists, objects and values of a JSON body."""
MAX_DEPTH = 64
"""Lists and objects within one another."""
MAX_DIGITS = 400
"""Characters of a number."""
MAX_FORM_PARTS = 200
MAX_FIELD = 1 << 20
"""Bytes of a form's field that is not a file."""
_MAX_PART_HEADER = 8192

_JSON_TYPE = re.compile(r"application/(?:[\w.+-]{1,80}\+)?json\s*(?:;[^,]{0,200})?", re.ASCII | re.IGNORECASE)
_FORM_TYPE = re.compile(r"multipart/form-data\s*(?:;[^,]*)?", re.ASCII | re.IGNORECASE)
_BOUNDARY = re.compile(
    r""";\s*boundary=(?:"([0-9a-z'()+_,\-./:=? ]{1,70})"|([0-9a-z'()+_\-./:=?]{1,70}))\s*(?:;|$)""",
    re.ASCII | re.IGNORECASE,
)
_CHARSET = re.compile(r""";\s*charset=\s*"?([^\s;"]{0,40})""", re.ASCII | re.IGNORECASE)
_PARAMETER = re.compile(r';\s*(name|filename|filename\*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.IGNORECASE)

JSON_TYPE_NEEDED = "The body's type is missing or is not JSON: send it with the header Content-Type: application/json."
FORM_TYPE_NEEDED = (
    "The body is not a form with files: send it as multipart/form-data with a boundary, as `curl -F` does."
)


class BodyError(Exception):
    """A body is refused; its text is a full sentence.

    Args:
        status: The answer's status.
        detail: The sentence.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Held:
    """Bytes that are held of all bodies together. Safe in threads.

    Args:
        limit: The most.
    """

    def __init__(self, limit: int = IN_FLIGHT) -> None:
        self._limit, self._bytes = limit, 0
        self._lock = threading.Lock()

    @contextmanager
    def count(self) -> Iterator[Callable[[int], None]]:
        """A function to report each piece of one body to, whose bytes are held until the block ends.

        It raises :class:`BodyError` when all bodies are too large together.
        """
        mine = 0

        def add(size: int) -> None:
            nonlocal mine
            with self._lock:
                if self._bytes + size > self._limit:
                    raise BodyError(429, "Too many large uploads are under way: try again in a moment.")
                self._bytes += size
                mine += size

        try:
            yield add
        finally:
            with self._lock:
                self._bytes -= mine


class Turn:
    """One at a time, without holding a thread while waiting. Works in whichever event loops there are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for the turn, and hold it until the block ends."""
        while not self._lock.acquire(blocking=False):
            await anyio.sleep(0.02)
        try:
            yield
        finally:
            self._lock.release()


def too_large(limit: int) -> BodyError:
    """The error for a body of more than ``limit`` bytes."""
    return BodyError(413, f"The upload is larger than {limit >> 20} MB: send smaller or fewer files.")


def declared_length(headers: Headers) -> int:
    """The body's length by its header; 0 if it has none.

    Raises:
        BodyError: The header is no number.
    """
    text = headers.get("content-length", "0").strip()
    if not (text.isascii() and text.isdecimal()):
        raise BodyError(400, "The header Content-Length is not a number: leave it to your HTTP client.")
    return int(text[:30])


async def read_body(receive: Callable[[], Any], limit: int, held: Callable[[int], None]) -> bytearray:
    """The whole body.

    Args:
        receive: The request's ASGI channel.
        limit: The most bytes.
        held: Takes the size of each piece; see :meth:`Held.count`.

    Raises:
        BodyError: It is too large, or does not arrive.
    """
    body = bytearray()
    while True:
        try:
            with anyio.fail_after(PATIENCE):
                message: Message = await receive()
        except TimeoutError:
            raise BodyError(
                408, f"Nothing more of the body arrived for {PATIENCE:.0f} seconds: send it again."
            ) from None
        if message["type"] != "http.request":  # the client has gone: nobody reads the answer
            raise BodyError(400, "The body ended before it was complete: send it again.")
        piece = message.get("body", b"")
        if len(body) + len(piece) > limit:
            raise too_large(limit)
        held(len(piece))
        body += piece
        if not message.get("more_body", False):
            return body


# JSON


def check_json_type(content_type: str) -> None:
    """Raise unless ``content_type`` is JSON's: a page of another site can send any other type without asking first.

    Raises:
        BodyError: It is not.
    """
    if _JSON_TYPE.fullmatch(content_type.strip()) is None:
        raise BodyError(422, JSON_TYPE_NEEDED)


def parsed_json(body: bytes | bytearray | str) -> Any:
    """The value of a JSON text, without anything that would break its use later.

    Raises:
        BodyError: It is no JSON, is nested too deep, has too many parts, or holds numbers or characters that do not exist.
    """
    try:
        text = body if isinstance(body, str) else body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BodyError(422, f"The body is not UTF-8 (byte {error.start}): encode its text as UTF-8.") from None
    if sum(map(text.count, ",[{")) > MAX_PARTS:
        raise BodyError(413, f"The JSON has more than {MAX_PARTS:,} parts: leave out what is not needed.")
    try:
        value = json.loads(text, parse_int=_whole, parse_float=_number, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise BodyError(
            422, f"The JSON cannot be read ({error.msg}, at character {error.pos + 1}): correct it there."
        ) from None
    except RecursionError:
        raise BodyError(422, _too_deep()) from None
    _check_value(value)
    return value


def _check_value(value: Any) -> None:
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, str):
            check_text(one)
        elif isinstance(one, (dict, list)):
            if depth >= MAX_DEPTH:
                raise BodyError(422, _too_deep())
            if isinstance(one, dict):
                waiting.extend((key, depth + 1) for key in one)
                one = one.values()
            waiting.extend((item, depth + 1) for item in one)


def check_text(text: str) -> None:
    r"""Raise for half of a character, such as JSON's ``"\ud800"``: no file and no answer can hold it.

    Raises:
        BodyError: There is one.
    """
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BodyError(
            422,
            f"A text contains half of a character (a lone surrogate, at character {error.start + 1}): correct the text.",
        ) from None


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise BodyError(422, f"A number has {len(digits):,} digits: use at most {MAX_DIGITS}.")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits) if len(digits) <= MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise BodyError(422, f"The number {digits[:20]!a} is too large or too long: use an ordinary one.")
    return value


def _constant(name: str) -> float:
    raise BodyError(422, f"{name} is not a number in JSON: use an ordinary one.")


def _too_deep() -> str:
    return f"The JSON is nested more than {MAX_DEPTH} levels deep: no request needs that."


# Forms


def form_boundary(content_type: str) -> bytes:
    """The boundary between the parts of a form.

    Raises:
        BodyError: It is no form with files, it has no boundary, or it is not in UTF-8.
    """
    boundary = _BOUNDARY.search(content_type) if len(content_type) <= 500 else None
    if boundary is None or _FORM_TYPE.fullmatch(content_type.strip()) is None:
        raise BodyError(422, FORM_TYPE_NEEDED)
    charset = _CHARSET.search(content_type)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii", ""):
        raise BodyError(422, f"The form is in {charset[1]!a}: send it as UTF-8.")
    return (boundary[1] or boundary[2]).encode("ascii")


def parsed_form(body: bytearray, boundary: bytes) -> FormData:
    """The fields and files of a multipart form.

    Raises:
        BodyError: It is broken, or has too many or too large fields.
    """
    delimiter = b"\r\n--" + boundary
    view = memoryview(body)
    items: list[tuple[str, UploadFile | str]] = []
    # The first boundary may stand at the very beginning, without the line break before it.
    position = len(delimiter) - 2 if body.startswith(delimiter[2:]) else _after(body, delimiter, 0)
    while body[position : position + 2] != b"--":
        if len(items) >= MAX_FORM_PARTS:
            raise BodyError(413, f"The form has more than {MAX_FORM_PARTS} fields and files: send fewer.")
        line = body.find(b"\r\n", position, position + 200)
        # A part without headers has its empty line at once.
        head_end = -1 if line < 0 else body.find(b"\r\n\r\n", line, line + _MAX_PART_HEADER)
        if head_end < 0 or body[position:line].strip(b" \t"):
            raise _broken_form()
        name, file_name, headers = _part_headers(bytes(body[line:head_end]))
        start = head_end + 4
        # The empty line's break may belong to the next boundary, when the part is empty.
        position = _after(body, delimiter, start - 2)
        end = max(start, position - len(delimiter))
        if file_name is not None:
            content = bytes(view[start:end])
            items.append(
                (name, UploadFile(io.BytesIO(content), size=len(content), filename=file_name, headers=headers))
            )
            continue
        if end - start > MAX_FIELD:
            raise BodyError(413, f"The field {name[:40]!a} is larger than {MAX_FIELD >> 20} MB: send it as a file.")
        try:
            items.append((name, bytes(view[start:end]).decode("utf-8")))
        except UnicodeDecodeError:
            raise BodyError(422, f"The field {name[:40]!a} is not UTF-8: encode its text as UTF-8.") from None
    view.release()
    return FormData(items)


def _after(body: bytearray, delimiter: bytes, start: int) -> int:
    found = body.find(delimiter, start)
    if found < 0:
        raise _broken_form()
    return found + len(delimiter)


def _part_headers(head: bytes) -> tuple[str, str | None, Headers]:
    """A part's field name, its file name if it is a file, and its headers."""
    raw = []
    for line in head.split(b"\r\n"):
        if line:
            key, colon, value = line.partition(b":")
            if not colon:
                raise _broken_form()
            raw.append((key.strip().lower(), value.strip()))
    disposition = dict(raw).get(b"content-disposition", b"").decode("utf-8", "replace")
    found: dict[str, str] = {}
    for key, quoted, plain in _PARAMETER.findall(disposition):
        found.setdefault(key.lower(), re.sub(r'\\(["\\])', r"\1", quoted) if quoted else plain)
    if not disposition.lower().startswith("form-data") or "name" not in found:
        raise BodyError(400, "A part of the form has no name: send it as `curl -F name=value` does.")
    encoded = found.get("filename*", "")
    if encoded.lower().startswith("utf-8''"):
        found.setdefault("filename", unquote(encoded[7:], errors="replace"))
    return found["name"], found.get("filename"), Headers(raw=raw)


def _broken_form() -> BodyError:
    return BodyError(
        400, "The form is broken: it does not end, or its parts do not follow its boundary. Send it again."
    )
