"""Machines as people have them: shares that refuse, no home folder, unusual paths, proxies, Pythons without pip."""

from __future__ import annotations

import errno
import os
import re
import runpy
import shutil
import ssl
import stat
import subprocess
import sys
import types
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command_line import MOMENT, PHOTO

from celeb_basis import files
from celeb_basis.download import fetch
from celeb_basis.errors import DownloadError, FileError
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import SHIPPED_PACKS
from celeb_basis.files import expanded, write_text
from celeb_basis.miniature import MODEL
from celeb_basis.photos import open_photo

ROOT = Path(__file__).resolve().parents[2]
PACK = SHIPPED_PACKS / "miniature"

# Shares: SMB, VirtualBox, WSL, sshfs, FAT.


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_share_that_cannot_flush_a_folder_is_written(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "x")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_share_that_cannot_flush_at_all_is_written(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(number))
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_did_not_reach_the_disk_is_reported(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises(FileError):
        write_text(tmp_path / "a.txt", "x")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.EACCES, errno.ENOSYS])
def test_a_share_without_permissions_is_written(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chmod", refusing(number))
    write_text(tmp_path / "a.txt", "x")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM])
def test_a_share_that_cannot_rename_over_a_file_is_written(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        if Path(target).exists():
            raise OSError(number, os.strerror(number))
        real(source, target)

    monkeypatch.setattr(os, "replace", rename)
    monkeypatch.setattr(os, "rename", rename)
    for text in ("one", "two", "three"):
        write_text(tmp_path / "a.txt", text)
        assert [path.read_text() for path in tmp_path.iterdir()] == [text]


def test_where_nothing_can_be_renamed_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("old")
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        if Path(source).read_text() != "old":  # the old one can be moved, the new one cannot
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        real(source, target)

    monkeypatch.setattr(os, "replace", rename)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(FileError, match="permission is denied"):
        write_text(tmp_path / "a.txt", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


# No home folder: a container that runs under any number.

VARIABLES = ("HOME", "CELEB_BASIS_CACHE", "CELEB_BASIS_LIBRARY", "CELEB_BASIS_FACES", "XDG_CACHE_HOME", "XDG_DATA_HOME")


def homeless(*words: object, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line of a user who has no home folder; the system's list of users does not know the number."""
    script = (
        "import pwd, sys\n"
        "def nobody(*_): raise KeyError('uid not found')\n"
        "pwd.getpwuid = pwd.getpwnam = nobody\n"
        "from celeb_basis.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    environment |= {"PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(folder / "matplotlib")}
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


needs_posix = pytest.mark.skipif(os.name == "nt", reason="Windows always has a home folder")


@needs_posix
@pytest.mark.parametrize(
    "words", [("info", "nobody.safetensors"), ("--version",), ("learn", "--help"), ("export", "--help")]
)
def test_without_a_home_folder_what_needs_none_works(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = homeless(*words, folder=tmp_path)
    assert done.returncode == (2 if words[0] == "info" else 0), done.stderr
    assert "HOME" not in done.stderr
    assert "nobody.safetensors" in done.stderr or words[0] != "info"


@needs_posix
@pytest.mark.parametrize(
    "words",
    [
        ("learn", PHOTO, "--name", "ada", "--model", "miniature", *MOMENT),
        ("info", "ada"),
        ("info",),
        ("delete", "ada", "--yes"),
        ("runs",),
        ("basis", "--model", "miniature"),
    ],
)
def test_without_a_home_folder_the_variable_is_named(tmp_path: Path, words: tuple[object, ...]) -> None:
    done = homeless(*words, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "HOME" in done.stderr
    assert "CELEB_BASIS_LIBRARY" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "~").exists()


@needs_posix
def test_without_a_home_folder_nothing_is_written_below_a_folder_called_tilde(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: dict[str, object]()["uid not found"])
    with pytest.raises(FileError, match="set HOME to a folder"):
        write_text(Path("~/.local/share/celeb-basis/identities/.derived.json"), "{}")
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "~" / "a.txt", "a folder of that name, where there is one")


@needs_posix
def test_without_a_home_folder_the_variables_are_enough(tmp_path: Path) -> None:
    places = {"CELEB_BASIS_CACHE": str(tmp_path / "cache"), "CELEB_BASIS_LIBRARY": str(tmp_path / "people")}
    words = ("learn", PHOTO, "--name", "ada", "--model", "miniature", *MOMENT, "--quiet")
    done = homeless(*words, folder=tmp_path, **places)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "people" / "ada.safetensors").is_file()
    assert not (tmp_path / "~").exists()


@needs_posix
def test_a_home_folder_of_nobody() -> None:
    with pytest.raises(FileError, match="no user nobody-has-this-name"):
        expanded("~nobody-has-this-name/photos")


# Unusual paths.

PLACES = ("AI [SD]", "100% {of} me", "\u00e9\u4f60 \u30e2\u30c7\u30eb", "what? *all*", 'a\'b "c" $HOME', "[!a-z] #1")


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow these characters")
def test_a_pack_below_any_folder(tmp_path: Path, name: str) -> None:
    shutil.copytree(PACK, tmp_path / name / "pack")
    network = InsightFaceNetwork(tmp_path / name / "pack")
    assert len(network.detect(open_photo(PHOTO))) == 1


@pytest.mark.parametrize("name", [pytest.param("AI [SD]", marks=pytest.mark.slow), "100% {of} me \u00e9 #1 ~x"])
@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow these characters")
def test_everything_below_any_folder(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    shutil.copytree(MODEL, home / "model [v1]")
    shutil.copytree(PACK, home / "packs" / "mine")
    names = home / "names [all].txt"
    shutil.copy(MODEL / "names.txt", names)
    photo = home / "photo [1].png"
    shutil.copy(PHOTO, photo)
    places = {"HOME": str(home), "CELEB_BASIS_FACES": str(home / "packs"), "TMPDIR": str(home)}
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES} | places
    environment["PYTHONPATH"] = str(ROOT)

    def run(*words: object) -> str:
        command = [sys.executable, "-m", "celeb_basis", *map(str, words)]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    model = ("--model", home / "model [v1]", "--names", names)
    run(
        "learn",
        photo,
        "--name",
        "ada",
        *model,
        "--faces",
        "mine",
        "--components",
        100,
        *MOMENT,
        "--report",
        home / "r [1].html",
    )
    run("generate", "<ada>", *model, "--steps", 1, "--output", home / "images [1]")
    run("evaluate", home / "images [1]", "--reference", photo, "--faces", "mine", "--sheet", home / "s [1].png")
    run("export", "ada", "--layout", "webui", "--output", home / "out [1]")
    assert "ada" in run("info")
    run("delete", "ada", "--yes")
    assert not list((home / "images [1]").glob("*.png")), "generated images are found in such a folder, and deleted"


def test_nothing_of_ours_looks_for_files_by_a_pattern_with_the_users_text() -> None:
    """``glob.glob`` and ``fnmatch`` read brackets in a path as a pattern; a folder's own ``glob`` does not."""
    found = [
        f"{path.name}:{number}"
        for path in sorted((ROOT / "celeb_basis").rglob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(r"\bglob\\.i?glob\(|\bfnmatch\b", line)
    ]
    assert found == []


def test_a_path_that_is_too_long_for_windows_is_named_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows claims that the file does not exist."""
    monkeypatch.setattr(files, "os", types.SimpleNamespace(name="nt"))
    gone = FileNotFoundError(errno.ENOENT, "No such file or directory")
    far = tmp_path / ("x" * 250) / "a.txt"
    with pytest.raises(FileError, match=r"\d+ characters, and Windows takes 259 .* nearer to the drive's root"):
        fail(far, gone)
    with pytest.raises(FileError, match="it does not exist"):
        fail(Path("/a.txt"), gone)


def fail(path: Path, error: OSError) -> None:
    with files.explained_os_errors(path, "write"):
        raise error


# Networks with a proxy, and Pythons without pip or venv.


def test_a_download_behind_a_proxy_names_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.example:3128")

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError(OSError("Tunnel connection failed: 407 Proxy Authentication Required"))

    with pytest.raises(DownloadError, match=r"407.*HTTPS_PROXY \(proxy\.example\)") as caught:
        fetch("https://example.com/pack.zip", tmp_path / "pack.zip", opener=refuse)
    assert "secret" not in str(caught.value)


def test_a_download_whose_certificate_is_not_trusted(tmp_path: Path) -> None:
    reason = ssl.SSLCertVerificationError(1, "certificate verify failed")
    reason.verify_message = "self-signed certificate in certificate chain"

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError(reason)

    with pytest.raises(DownloadError, match=r"clock.*self-signed certificate in certificate chain.*SSL_CERT_FILE"):
        fetch("https://example.com/pack.zip", tmp_path / "pack.zip", opener=refuse)


def test_setting_up_with_a_python_that_cannot_make_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian and Ubuntu ship that in a package of its own."""
    setup = runpy.run_path(str(ROOT / "bootstrap.py"), run_name="bootstrap")
    missing = types.SimpleNamespace(util=types.SimpleNamespace(find_spec=lambda _: None))
    monkeypatch.setitem(setup["make_environment"].__globals__, "importlib", missing)
    with pytest.raises(SystemExit, match=r"apt-get install python3\.\d+-venv"):
        setup["make_environment"](tmp_path / "venv", "run")
    assert not (tmp_path / "venv").exists()


def test_setting_up_in_an_environment_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As uv makes it, or as an interruption leaves it; in a folder with spaces, brackets and percent signs."""
    folder = tmp_path / "my [100%] venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    setup = runpy.run_path(str(ROOT / "bootstrap.py"), run_name="bootstrap")
    calls: list[list[str]] = []
    fake = types.SimpleNamespace(
        call=lambda command, **_: 1 if command[1] == "-c" else 0,
        check_call=lambda command, **_: calls.append(command),
        DEVNULL=None,
    )
    monkeypatch.setitem(setup["make_environment"].__globals__, "subprocess", fake)
    python = setup["make_environment"](folder, "run")
    assert calls[0] == [python, "-m", "ensurepip"]
    assert all(command[:3] == [python, "-m", "pip"] for command in calls[1:])
    assert len(calls) == 4
