"""Downloads from a real HTTP server on this machine that can misbehave on demand."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celeb_basis import download
from celeb_basis.download import fetch
from celeb_basis.errors import DownloadError, FileError

CONTENT = np.random.default_rng(0).bytes(1_500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does; changed by tests."""

    content: bytes = CONTENT
    etag: str | None = '"first"'
    ranges: bool = True
    status: int = 200
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the next connections are closed, one entry each."""
    asked: list[tuple[str | None, int]] = field(default_factory=list)
    """Range header and answered status of every request."""


@dataclass
class Server:
    url: str
    behaviour: Behaviour


@pytest.fixture
def server() -> Iterator[Server]:
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            start, status = 0, behaviour.status
            fresh = self.headers.get("If-Range") in (None, behaviour.etag)
            if asked and behaviour.ranges and fresh:
                start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            total = len(behaviour.content)
            if status == 206 and start >= total:
                status = 416
            behaviour.asked.append((asked, status))
            body = b"" if status >= 400 else behaviour.content[start:]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if status == 416:
                self.send_header("Content-Range", f"bytes */{total}")
            if behaviour.etag:
                self.send_header("ETag", behaviour.etag)
            self.end_headers()
            self.wfile.write(body[: behaviour.cuts.pop(0)] if behaviour.cuts else body)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield Server(f"http://127.0.0.1:{http.server_port}/pack.zip", behaviour)
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.0)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_plain_download_with_progress(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "pack.zip"
    seen: list[tuple[int, int | None]] = []
    assert fetch(server.url, target, sha256=SHA256, progress=lambda done, total: seen.append((done, total))) == target
    assert target.read_bytes() == CONTENT
    assert left_over(target.parent) == ["pack.zip"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_complete_file_is_not_requested_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "pack.zip"
    target.write_bytes(CONTENT)
    fetch(server.url, target, sha256=SHA256)
    assert server.behaviour.asked == []


def test_cut_connections_are_resumed_in_one_call(server: Server, tmp_path: Path) -> None:
    server.behaviour.cuts = [400_000, 300_000]
    seen: list[int] = []
    fetch(server.url, tmp_path / "pack.zip", sha256=SHA256, progress=lambda done, _: seen.append(done))
    assert (tmp_path / "pack.zip").read_bytes() == CONTENT
    assert server.behaviour.asked == [(None, 200), ("bytes=400000-", 206), ("bytes=700000-", 206)]
    assert 400_000 in seen
    assert 700_000 in seen


def test_a_later_call_resumes_an_interrupted_one(server: Server, tmp_path: Path) -> None:
    server.behaviour.cuts = [600_000]
    with pytest.raises(DownloadError, match="was interrupted after 600,000 bytes"):
        fetch(server.url, tmp_path / "pack.zip", sha256=SHA256, attempts=1)
    assert not (tmp_path / "pack.zip").exists()
    fetch(server.url, tmp_path / "pack.zip", sha256=SHA256)
    assert (tmp_path / "pack.zip").read_bytes() == CONTENT
    assert server.behaviour.asked[-1] == ("bytes=600000-", 206)
    assert left_over(tmp_path) == ["pack.zip"]


@pytest.mark.parametrize("change", ["ranges ignored", "another file", "no etag"])
def test_if_it_cannot_be_resumed_it_starts_again(server: Server, tmp_path: Path, change: str) -> None:
    server.behaviour.cuts = [600_000]
    if change == "no etag":
        server.behaviour.etag = None
    with pytest.raises(DownloadError):
        fetch(server.url, tmp_path / "pack.zip", attempts=1)
    if change == "ranges ignored":
        server.behaviour.ranges = False
    if change == "another file":
        server.behaviour.content, server.behaviour.etag = CONTENT[::-1], '"second"'
    fetch(server.url, tmp_path / "pack.zip")
    assert (tmp_path / "pack.zip").read_bytes() == server.behaviour.content
    assert server.behaviour.asked[-1][1] == 200


def test_a_part_that_is_already_complete(server: Server, tmp_path: Path) -> None:
    (tmp_path / "pack.zip.part").write_bytes(CONTENT)
    (tmp_path / "pack.zip.part-version").write_text('"first"')
    fetch(server.url, tmp_path / "pack.zip", sha256=SHA256)
    assert server.behaviour.asked == [(f"bytes={len(CONTENT)}-", 416)]
    assert (tmp_path / "pack.zip").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_discarded(server: Server, tmp_path: Path) -> None:
    (tmp_path / "pack.zip.part").write_bytes(CONTENT + b"more")
    (tmp_path / "pack.zip.part-version").write_text('"first"')
    fetch(server.url, tmp_path / "pack.zip", sha256=SHA256)
    assert (tmp_path / "pack.zip").read_bytes() == CONTENT


def test_a_damaged_part_is_noticed_and_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "pack.zip.part").write_bytes(bytes(500_000))
    (tmp_path / "pack.zip.part-version").write_text('"first"')
    fetch(server.url, tmp_path / "pack.zip", sha256=SHA256)
    assert (tmp_path / "pack.zip").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"not the expected one.*SHA-256"):
        fetch(server.url, tmp_path / "pack.zip", sha256="0" * 64)
    assert left_over(tmp_path) == []
    assert len(server.behaviour.asked) == 1


@pytest.mark.parametrize(("status", "times", "advice"), [(404, 1, "check the address"), (503, 3, "try again later")])
def test_refusals(server: Server, tmp_path: Path, status: int, times: int, advice: str) -> None:
    server.behaviour.status = status
    with pytest.raises(DownloadError, match=f"answered {status} .*: {advice}"):
        fetch(server.url, tmp_path / "pack.zip", attempts=3)
    assert len(server.behaviour.asked) == times
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/pack.zip", "http://no-such-host.invalid/pack.zip"])
def test_unreachable_hosts(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DownloadError, match=r"could not be reached \(.+\): check the internet connection"):
        fetch(url, tmp_path / "pack.zip")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "pack.zip", "ftp://example.org/pack.zip"])
def test_only_web_addresses_are_accepted(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="is not a web address"):
        fetch(url, tmp_path / "pack.zip")


class FullDisk:
    """A file that takes some bytes and then none."""

    def __init__(self, path: Path, mode: str, room: int = 500_000) -> None:
        self._file = open(path, mode)  # noqa: SIM115
        self._room = room

    def write(self, piece: bytes) -> int:
        self._room -= len(piece)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(piece)

    def close(self) -> None:
        self._file.close()


def test_a_full_disk_is_an_error_and_its_space_is_freed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "open", FullDisk, raising=False)
    with pytest.raises(FileError, match="the disk is full"):
        fetch(server.url, tmp_path / "pack.zip", sha256=SHA256)
    assert left_over(tmp_path) == []


def test_a_file_where_the_folder_should_be(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError):
        fetch(server.url, tmp_path / "file" / "pack.zip")
