"""This checkout's repository, served on 127.0.0.1 by git itself, as the address of the extension."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.webui import ROOT

_AUTHOR = ("-c", "user.name=A tester", "-c", "user.email=tester@example.org")


@dataclass(frozen=True)
class Repository:
    """A bare repository with an address."""

    url: str
    work: Path
    """A clone in which the next version is made."""

    def publish(self, version: str) -> str:
        """Commit another version of the package and push it; answers the commit."""
        package = self.work / "celeb_basis" / "__init__.py"
        text = package.read_text("utf-8")
        package.write_text(text[: text.index("__version__")] + f'__version__ = "{version}"\n', "utf-8")
        git(self.work, *_AUTHOR, "commit", "--quiet", "--all", "--message", f"Version {version}")
        git(self.work, "push", "--quiet", "origin", "HEAD:main")
        return git(self.work, "rev-parse", "HEAD")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Repository]:
    """The committed state of this checkout at an address; the test is skipped where that cannot be."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git, and a checkout of the repository")
    bare = folder / "site" / "celeb-basis.git"
    bare.parent.mkdir(parents=True)
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git(ROOT, "push", "--quiet", str(bare), "HEAD:refs/heads/main")
    git(bare, "config", "uploadpack.allowFilter", "true")  # as the large hosts of repositories do
    work = folder / "work"
    git(folder, "clone", "--quiet", str(bare), str(work))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", f"--port={port}"]
    daemon = subprocess.Popen([*command, f"--base-path={bare.parent}", str(bare.parent)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, daemon)
        yield Repository(f"git://127.0.0.1:{port}/celeb-basis.git", work)
    finally:
        daemon.terminate()
        daemon.wait()


def _wait_for(port: int, daemon: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        if daemon.poll() is not None:
            pytest.skip("needs 'git daemon'")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("git daemon does not answer")
