"""Lists of names made to take long are refused or read in time that grows with their size, each in a child process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from celeb_basis.names.lists import MAX_BYTES, MAX_LINES

ROOT = Path(__file__).resolve().parents[2]
READ = """
import sys
from pathlib import Path
from celeb_basis.errors import NamesError
from celeb_basis.names.lists import read_names
try:
    print(len(read_names(Path(sys.argv[1])).names))
except NamesError as error:
    print(error)
"""
LISTS: dict[str, tuple[bytes, str]] = {
    "spaces within a line": (b"Ada" + b" " * (MAX_BYTES - 9) + b"Bob", "Line 1 of .* characters"),
    "spaces within a comment": (b"# Ada" + b" " * (MAX_BYTES - 20) + b"Bob\nAda\n", "^1$"),
    "invisible characters": (b"Ada" + "\u200b".encode() * 9_000_000 + b"Bob", "Line 1 of .* characters"),
    "one endless line": (b"a" * MAX_BYTES, "Line 1 of .* characters"),
    "blank lines": (b"\n" * MAX_BYTES, "more than 1,200,000 lines"),
    "old line ends": (b"\r" * MAX_BYTES, "more than 1,200,000 lines"),
    "lines before bytes that are no text": (b"\n" * (MAX_BYTES - 1) + b"\xff", "more than 1,200,000 lines"),
    "Windows' line ends are one each": (b"\r\n" * (MAX_LINES - 1) + b"Ada", "^1$"),
    "quotes": (b'"' * MAX_BYTES, "Line 1 of .* characters"),
}


@pytest.mark.parametrize("kind", LISTS)
def test_the_time_of_a_list_grows_with_its_size(kind: str, tmp_path: Path) -> None:
    data, says = LISTS[kind]
    (tmp_path / "names.txt").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "names.txt")],
        capture_output=True,
        text=True,
        timeout=120,  # against hanging: with the square of the size it would be days
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert re.search(says, done.stdout.strip())
