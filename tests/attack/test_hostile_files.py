"""Files made to hurt are read or refused in words, each within bounded memory and time, and none runs code."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest
from support.bounded import MEGABYTES, SECONDS_OF_CPU, rows_of, write_corpus
from support.hostile_files import MARK, corpus
from support.people import person

from celeb_basis.errors import CelebBasisError
from celeb_basis.exports.textual_inversion import import_embedding
from celeb_basis.identities.library import Library


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_every_hostile_file_is_read_or_refused_in_words(tmp_path: Path, every: int) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    names = write_corpus(islice(corpus(), 0, None, every), folder)
    assert len(names) >= 230 // every
    rows = rows_of("support.hostile_files", folder, names, cwd=tmp_path)
    wrong = [row for row in rows if ": raised: " in row[1] or ": vague: " in row[1]]
    assert not wrong, wrong
    # Of the dearest of the ways in which each file is read.
    heavy = [row for row in rows if row[3] > MEGABYTES or row[4] > SECONDS_OF_CPU]
    assert not heavy, heavy
    assert not list(tmp_path.rglob(MARK))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_devices_and_loops_among_people_are_passed_over(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.safetensors").mkdir()
    assert library.names() == ("ada",)
    assert [(status.name, status.problem) for status in library.entries()] == [("ada", "")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".png"])
def test_a_pipe_is_no_embedding(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"pipe{suffix}"
    os.mkfifo(path)
    with pytest.raises(CelebBasisError, match="named pipe"):
        import_embedding(path)
