"""Downloading a file: with progress, resumed after an interruption, checked against a digest.

Written with the standard library alone, since resuming with a check that the server's file is still the same takes little
more than a hundred lines.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from celeb_basis import __version__
from celeb_basis.errors import DownloadError, FileError
from celeb_basis.files import explained_os_errors, flush_to_disk, replace_file, sha256_of_file

_log = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, "int | None"], None]
"""Called with the bytes that have arrived (resumed ones included) and the total, if it is known."""

_CHUNK = 1 << 18
_PAUSE = 1.0
"""Seconds before the second attempt; doubled before each further one."""

_NETWORK_FAULTS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class Opener(Protocol):
    """What opens an address: :func:`urllib.request.urlopen`, or a replacement in a test."""

    def __call__(self, request: urllib.request.Request, /, *, timeout: float) -> Any:
        """Open the request."""


class _CutOffError(Exception):
    """The connection ended before the file did."""


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    opener: Opener = urllib.request.urlopen,
    attempts: int = 4,
    timeout: float = 30.0,
) -> Path:
    """Download ``url`` to ``target``.

    While it runs, the bytes are in ``target`` with ``.part`` added, which the next call resumes if the server still offers
    the same file (by its ETag or date). A ``target`` that already has the right digest is left as it is.

    Args:
        url: The address.
        target: The file to write.
        sha256: Hex digest that the file must have.
        progress: Called before each chunk.
        opener: Opens the address.
        attempts: Number of connections before giving up.
        timeout: Seconds without data after which a connection counts as lost.

    Raises:
        DownloadError: If the network or the server failed, or the digest differs.
        FileError: If the file cannot be written.
    """
    target = Path(target)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url!r} is not a web address: give one that starts with https://.")
    if sha256 and target.is_file() and sha256_of_file(target) == sha256.lower():
        return target
    part = _Part(target)
    with explained_os_errors(target, "write"):
        target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, attempts + 1):
        resumed = part.size > 0
        try:
            _attempt(url, part, opener, timeout, progress)
        except (*_NETWORK_FAULTS, _CutOffError) as error:
            if attempt == attempts or not _worth_repeating(error):
                raise DownloadError(_explanation(url, error, part.size)) from error
            _log.info("Attempt %d at %s failed (%s): trying again.", attempt, url, error)
            time.sleep(_PAUSE * 2 ** (attempt - 1))
            continue
        if not sha256 or sha256_of_file(part.path) == sha256.lower():
            part.finish(target)
            return target
        part.discard()
        # Bytes from an earlier call may be at fault; a file that came in one go will not change.
        if not resumed:
            break
    raise DownloadError(
        f"The file from {url} is not the expected one (its SHA-256 differs), so it was deleted: try again later or from "
        "another network, and check the address and the checksum."
    )


class _Part:
    """The unfinished file, and the version of the server's file that it is the beginning of."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._version = target.with_name(target.name + ".part-version")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def version(self) -> str:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._version.read_text("latin-1").strip()
        return ""

    def start(self, version: str) -> None:
        self.discard()
        if version:
            self._version.write_text(version, "latin-1")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        with explained_os_errors(target, "write"):
            flush_to_disk(self.path)
            replace_file(self.path, target)
            self._version.unlink(missing_ok=True)


def _attempt(url: str, part: _Part, opener: Opener, timeout: float, progress: Progress | None) -> None:
    """Connect once and read to the end. Raises the network's errors, :class:`_CutOffError` or :class:`FileError`."""
    headers = {"User-Agent": f"celeb-basis/{__version__}", "Accept-Encoding": "identity"}
    have, version = part.size, part.version
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        response = opener(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416:
                raise
            # The server has nothing beyond our bytes: either they are complete, or they are not from this file.
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return
        part.discard()
        raise _CutOffError("the server has no such range") from error
    with response:
        resuming = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not resuming:
            part.discard()
            raise _CutOffError("the server sent another range")
        length = response.headers.get("Content-Length")
        done = have if resuming else 0
        total = done + int(length) if length and length.isdigit() else None
        with _disk(part):
            if not resuming:
                part.start(_version_of(response.headers))
            file = open(part.path, "ab")  # noqa: SIM115  (closed below, inside the guard for the disk's errors)
        try:
            while True:
                if progress:
                    progress(done, total)
                chunk = response.read(_CHUNK)
                if not chunk:
                    break
                with _disk(part):
                    file.write(chunk)
                done += len(chunk)
        finally:
            with _disk(part):
                file.close()
    if total is not None and done != total:
        raise _CutOffError(f"{done} of {total} bytes arrived")


@contextlib.contextmanager
def _disk(part: _Part) -> Any:
    """Turn the disk's errors into a :class:`FileError`, and free the space that the unfinished file takes."""
    try:
        with explained_os_errors(part.path, "write"):
            yield
    except FileError:
        with contextlib.suppress(OSError):
            part.discard()
        raise


def _version_of(headers: Any) -> str:
    """A strong ETag, else the date: what ``If-Range`` accepts."""
    etag = headers.get("ETag") or ""
    return etag if etag.startswith('"') else (headers.get("Last-Modified") or "")


def _worth_repeating(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 425, 429) or error.code >= 500
    reason = getattr(error, "reason", error)
    return isinstance(reason, (_CutOffError, http.client.HTTPException, ConnectionResetError, ConnectionAbortedError))


def _explanation(url: str, error: Exception, have: int) -> str:
    if isinstance(error, urllib.error.HTTPError):
        advice = "check the address" if error.code in (400, 401, 403, 404, 410) else "try again later"
        return f"{url} answered {error.code} {error.reason}: {advice}."
    host = urllib.parse.urlsplit(url).netloc
    if have:
        return (
            f"The download from {host} was interrupted after {have:,} bytes: check the internet connection and try again; "
            "it will be resumed."
        )
    reason = getattr(error, "reason", error)
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    if isinstance(reason, ssl.SSLCertVerificationError):
        advice = (
            f"check this machine's clock; where a proxy or virus scanner replaces certificates ({reason.verify_message}), set "
            "SSL_CERT_FILE to a file with its certificate"
        )
    elif proxy := urllib.request.getproxies().get(urllib.parse.urlsplit(url).scheme):
        shown = urllib.parse.urlsplit(proxy).hostname or "it"
        advice = f"check the internet connection and the proxy of the system's settings or HTTPS_PROXY ({shown})"
    else:
        advice = "check the internet connection"
    return f"{host} could not be reached ({text}): {advice}."
