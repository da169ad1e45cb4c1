"""The identity file: exact round trips, and every kind of file that is not one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from support.people import PNG, person

from celeb_basis.errors import FileError, IdentityError
from celeb_basis.identities.identity import (
    FORMAT_VERSION,
    MAX_FILE_SIZE,
    READERS,
    Identity,
    identity_from_bytes,
    identity_to_bytes,
    load_identity,
    save_identity,
)


def full_person(family: str = "sdxl") -> Identity:
    return person(
        "Zoë Ångström 2",
        family,
        face_model="buffalo_l",
        steps=400,
        settings={"mode": "head", "learning_rate": 0.01, "shared": False, "nested": {"a": [1, None, "ü"]}},
        consent="agreed on paper, 2026-01-02",
        notes="two lines\nand a tab\t☺",
        thumbnail=PNG,
    )


def header_of(data: bytes) -> dict[str, str]:
    header: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return header


def changed(change: Callable[[dict[str, Any], dict[str, str], dict[str, Any]], None]) -> bytes:
    """The file of an identity after ``change(tensors, header, description)``."""
    data = identity_to_bytes(full_person())
    tensors, header = dict(load(data)), header_of(data)
    description = json.loads(header["identity"])
    change(tensors, header, description)
    if "identity" in header:
        header["identity"] = json.dumps(description)
    return bytes(save(tensors, header))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_round_trip_is_exact(family: str, tmp_path: Path) -> None:
    identity = full_person(family)
    save_identity(identity, tmp_path / "x.safetensors")
    again = load_identity(tmp_path / "x.safetensors")
    assert (again.name, again.encoders) == (identity.name, identity.encoders)
    assert asdict(again.metadata) == asdict(identity.metadata)
    for ours, theirs in zip(identity.coefficients + identity.vectors, again.coefficients + again.vectors, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert again.content_hash == identity.content_hash
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_any_float_survives() -> None:
    odd = np.array([[1e-45, -0.0, 3.4e38, 1.1754944e-38], [0.1, -1, 2, 3]], np.float32)
    again = identity_from_bytes(identity_to_bytes(Identity("a", ("clip_l",), (odd,), (odd,))))
    assert again.vectors[0].tobytes() == odd.tobytes()


def test_other_programs_can_read_the_tensors() -> None:
    identity = full_person()
    tensors = load(identity_to_bytes(identity))
    assert set(tensors) == {
        "thumbnail", "coefficients.clip_l", "coefficients.clip_g", "vectors.clip_l", "vectors.clip_g"
    }  # fmt: skip
    assert tensors["thumbnail"].tobytes() == PNG


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 1000, -1, -4])
def test_truncated(keep: int, tmp_path: Path) -> None:
    data = identity_to_bytes(full_person())
    (tmp_path / "ada.safetensors").write_bytes(data[:keep])
    with pytest.raises(IdentityError, match=r"ada\.safetensors cannot be used: .*another copy"):
        load_identity(tmp_path / "ada.safetensors")


@pytest.mark.parametrize(
    "data",
    [b"hello, I am a text\n" * 9, b"PK\x03\x04" + bytes(99), PNG, b"\xff" * 64, b"\x02" + bytes(7) + b"{}", bytes(64)],
)
def test_foreign_files(data: bytes) -> None:
    with pytest.raises(IdentityError):
        identity_from_bytes(data)


def test_another_safetensors_file() -> None:
    with pytest.raises(IdentityError, match="not an identity"):
        identity_from_bytes(save({"emb_params": np.zeros((2, 768), np.float32)}))


def test_too_large_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.truncate(MAX_FILE_SIZE + 1)
    with pytest.raises(IdentityError, match="larger than 64 MB"):
        load_identity(path)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("2", "update"),
        ("999999999", "update"),
        ("0", "never existed"),
        *((text, "version") for text in ("", "x", "-1", "1.0", "٣", "9" * 5000)),
    ],
)
def test_versions(version: str, says: str) -> None:
    data = changed(lambda _t, header, _d: header.update(format_version=version))
    with pytest.raises(IdentityError, match=says):
        identity_from_bytes(data)


def test_every_version_up_to_the_present_has_a_reader() -> None:
    assert set(READERS) == set(range(1, FORMAT_VERSION + 1))


BROKEN: dict[str, Callable[[Any, Any, Any], Any]] = {
    "NaN": lambda t, _h, _d: t.update({"vectors.clip_g": np.full((2, 1280), np.nan, np.float32)}),
    "other dtype": lambda t, _h, _d: t.update({"vectors.clip_g": np.zeros((2, 1280), np.float64)}),
    "integers": lambda t, _h, _d: t.update({"coefficients.clip_l": np.zeros((2, 6), np.int32)}),
    "missing tensor": lambda t, _h, _d: t.pop("coefficients.clip_l"),
    "other E": lambda t, _h, _d: t.update({"vectors.clip_g": np.zeros((3, 1280), np.float32)}),
    "float thumbnail": lambda t, _h, _d: t.update(thumbnail=np.zeros(9, np.float32)),
    "foreign thumbnail": lambda t, _h, _d: t.update(thumbnail=np.zeros(9, np.uint8)),
    "no description": lambda _t, h, _d: h.pop("identity"),
    "name with a path": lambda _t, _h, d: d.update(name="../../etc/passwd"),
    "name is a number": lambda _t, _h, d: d.update(name=3),
    "encoders are a text": lambda _t, _h, d: d.update(encoders="clip_l"),
    "encoders are numbers": lambda _t, _h, d: d.update(encoders=[1, 2]),
    "encoder twice": lambda _t, _h, d: d.update(encoders=["clip_l", "clip_l"]),
    "no encoders": lambda _t, _h, d: d.update(encoders=[]),
    "steps are a text": lambda _t, _h, d: d.update(steps="400"),
    "notes are a list": lambda _t, _h, d: d.update(notes=["a"]),
    "settings are a list": lambda _t, _h, d: d.update(settings=[]),
    "settings hold NaN": lambda _t, _h, d: d.update(settings={"a": float("nan")}),
    "settings hold infinity": lambda _t, _h, d: d.update(settings={"a": float("inf")}),
    "hashes are a text": lambda _t, _h, d: d.update(basis_sha256="ab"),
    "hash is no hash": lambda _t, _h, d: d.update(basis_sha256=["ab", "<script>"]),
    "too few hashes": lambda _t, _h, d: d.update(basis_sha256=["ab"]),
    "field missing": lambda _t, _h, d: d.pop("consent"),
    "field too many": lambda _t, _h, d: d.update(format_version=7),
    "date is a number": lambda _t, _h, d: d.update(created=3),
    "source unknown": lambda _t, _h, d: d.update(source={}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_a_file_says_is_not_believed(kind: str) -> None:
    data = changed(BROKEN[kind])
    with pytest.raises(IdentityError) as caught:
        identity_from_bytes(data)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"name": ' * 50_000])
def test_descriptions_that_are_no_objects(text: str) -> None:
    def change(_t: Any, header: dict[str, str], _d: Any) -> None:
        header["identity"] = text

    data = identity_to_bytes(full_person())
    header = header_of(data)
    change(None, header, None)
    with pytest.raises(IdentityError):
        identity_from_bytes(bytes(save(load(data), header)))


WHOLE = identity_to_bytes(person())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bytes_never_end_in_anything_but_a_sentence(data: st.DataObject) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 2500) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(IdentityError):  # whatever else is raised fails the test
        identity_from_bytes(bytes(content))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nobody.safetensors", tmp_path):
        with pytest.raises(FileError):
            load_identity(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ada.safetensors"
    save_identity(person("ada"), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match="disk is full"):
        save_identity(person("ada", seed=5), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["ada.safetensors"]
