"""What a listing reads of the identity files: each byte once, and only those that it needs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from safetensors.numpy import save
from support.people import PNG, person

from celeb_basis.identities.blending import blends_of
from celeb_basis.identities.identity import load_without_thumbnail
from celeb_basis.identities.library import Library
from celeb_basis.reading import read_header, read_tensors

PEOPLE = 40
THUMBNAIL = PNG + bytes(20_000)
BUFFER = 4096
"""Bytes that version 0.1.0 read of a header, which is shorter."""


class Counted(io.FileIO):
    """A file that counts the bytes that are read of it."""

    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size)
        Counted.total += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        Counted.total += count
        return count

    def readall(self) -> bytes:
        data = super().readall()
        Counted.total += len(data)
        return data


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    def opened(path: Path, *, buffered: bool = True) -> BinaryIO:
        raw = Counted(path)
        return io.BufferedReader(raw) if buffered else raw

    for module in ("reading", "identities.identity"):
        monkeypatch.setattr(f"celeb_basis.{module}.open_regular", opened)
    Counted.total = 0
    return Counted


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path)
    for number in range(PEOPLE):
        one = person(f"person {number}", seed=number)
        library.add(replace(one, metadata=replace(one.metadata, thumbnail=THUMBNAIL)))
    return library


def test_a_listing_reads_each_byte_once(library: Library, count: type[Counted]) -> None:
    size = sum(path.stat().st_size for _, path in library.files())
    assert all(entry.identity is not None for entry in library.entries())
    assert count.total <= size


def test_a_listing_without_thumbnails_reads_none(library: Library, count: type[Counted]) -> None:
    size = sum(path.stat().st_size - len(THUMBNAIL) for _, path in library.files())
    for name, path in library.files():
        identity, has_thumbnail = load_without_thumbnail(path)
        assert (identity.name, has_thumbnail, identity.metadata.thumbnail) == (name, True, None)
    assert count.total <= size


def test_blends_are_found_by_headers_alone(library: Library, count: type[Counted]) -> None:
    assert blends_of(library, ["person 0"]) == ()
    assert count.total <= PEOPLE * BUFFER


def test_names_are_listed_without_reading(library: Library, count: type[Counted]) -> None:
    assert len(library.names()) == PEOPLE
    assert count.total == 0


@pytest.mark.parametrize("rows", [1, 40, 700, 3000])
@pytest.mark.parametrize("skipped", [(), ("b",), ("a", "c"), ("d",)])
def test_the_same_numbers_are_read(rows: int, skipped: tuple[str, ...]) -> None:
    """Tensors that end before, in and behind the first bytes, empty ones, and neighbors that are not wanted."""
    generator = np.random.default_rng(0)
    given = {name: generator.normal(size=(rows, 3)).astype(np.float32) for name in "abc"}
    given |= {"d": np.zeros((0, 3), np.float32), "e": np.arange(rows, dtype=np.uint8)}
    file = io.BytesIO(save(given, {"text": "x" * rows}))
    header = read_header(file)
    found = read_tensors(file, header, skip=skipped)
    assert set(found) == set(given) - set(skipped)
    assert all(np.array_equal(found[name], given[name]) for name in found)
    last = read_tensors(file, header, first_row=rows // 2)
    assert all(
        np.array_equal(last[name], given[name][rows // 2 :] if given[name].ndim == 2 and rows > 1 else given[name])
        for name in "abc"
    )
