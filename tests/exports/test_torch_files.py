"""The reader of ``.pt`` files: equal to torch's own on honest files, and never running anything in the others."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from celeb_basis.errors import ExportError, FileError
from celeb_basis.exports.torch_files import MAX_FILE_SIZE, read_torch_file, write_torch_file

DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


def same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, torch.Tensor):
        expected = theirs.detach().float() if theirs.dtype == torch.bfloat16 else theirs.detach()
        assert isinstance(ours, np.ndarray)
        assert ours.shape == tuple(expected.shape)
        assert ours.dtype == expected.numpy().dtype
        assert ours.tobytes() == expected.contiguous().numpy().tobytes()
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            same(our, their)
    else:
        assert ours == theirs
        assert type(ours) is type(theirs)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_equal_to_torch(zipped: bool, protocol: int, tmp_path: Path) -> None:
    base = torch.randn(6, 8)
    content = {
        "views": [base, base[2:4], base[:, 3], base.T, base[1, 2]],
        "types": [(torch.rand(2, 3) * 100).to(dtype) for dtype in DTYPES],
        "bfloat16": torch.randn(3, 4).bfloat16(),
        "bool": torch.tensor([True, False]),
        "gradient": torch.randn(2, requires_grad=True),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "computed": torch.randn(2, requires_grad=True) * 2,
        "state": torch.nn.Linear(2, 3).state_dict(),
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "plain": (
            None,
            True,
            False,
            0,
            255,
            70_000,
            -5,
            2**40,
            -(2**63),
            0.5,
            float("inf"),
            "ü☺",
            "x" * 400,
            (),
            [],
            {},
        ),
        "pairs": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    }
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    same(read_torch_file(tmp_path / "x.pt"), content)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = {"a": torch.randn(2, 768), "b": [1, None, "x"]}
    write_torch_file(tmp_path / "x.pt", content)
    same(read_torch_file(tmp_path / "x.pt"), content)
    same(read_torch_file(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=True))


class Calls:
    """Pickles into a call of ``function``: the ordinary attack."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(trace: Path) -> dict[str, Any]:
    touch = f"open({str(trace)!r}, 'w')"
    return {
        "os.system": Calls(os.system, f"touch {trace}"),
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "open": Calls(open, str(trace), "w"),
        "getattr": Calls(getattr, "text", "upper"),
        "torch.load": Calls(torch.load, str(trace)),
        "numpy": np.arange(3),
        "numpy number": np.float64(3),
        "frozenset": frozenset({1, 2}),
        "counter": collections.Counter("abc"),
        "complex": 1j,
        "bytearray": bytearray(b"abc"),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "generator": Calls(torch.Generator),
        "module": torch.nn.Linear(1, 1),
        "class": os.system,
        "defaultdict": collections.defaultdict(list),
        "ordered of a call": Calls(collections.OrderedDict, [("a", 1)]),
        "range": range(3),
        "quantized": Calls(torch._utils._rebuild_qtensor, 1, 2, 3, 4, 5, 6, 7),
        "sparse": torch.zeros(2, 2).to_sparse(),
        "complex tensor": torch.zeros(2, dtype=torch.complex64),
        "float8": torch.zeros(2).to(torch.float8_e4m3fn),
        "tuple keys": {(1, 2): 3},
    }


@pytest.mark.parametrize("kind", attacks(Path("x")))
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_executed(kind: str, zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "evil.pt"
    torch.save({"a": attacks(trace)[kind]}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ExportError, match=r"^evil\.pt cannot be read: .*\.$"):
        read_torch_file(path)
    assert not trace.exists()


@pytest.mark.parametrize("place", range(5))
def test_each_pickle_of_the_old_format_is_guarded(place: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, []]
    honest = b"".join(pickle.dumps(part, 2) for part in parts)
    (tmp_path / "x.pt").write_bytes(honest)
    assert read_torch_file(tmp_path / "x.pt") == {}
    evil = [*parts[:place], Calls(os.system, f"touch {trace}"), *parts[place + 1 :]]
    (tmp_path / "x.pt").write_bytes(b"".join(pickle.dumps(part, 2) for part in evil))
    with pytest.raises(ExportError):
        read_torch_file(tmp_path / "x.pt")
    assert not trace.exists()


# Hand-written pickles: operations that no honest torch file has, stack games, and globals built on the stack.
@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch TRACE'\ntR.",
        b"(S'touch TRACE'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch TRACE'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch TRACE\x85R.",
        b"\x80\x04\x8c\x05torch\x8c\x17_utils._rebuild_tensor_v2\x93)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00(tR.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n(K\x01tR.",
        b"\x80\x02ctorch.nn.modules.container\nParameterDict\n)\x81K\x01b.",
        b"\x80\x02ctorch.nn.modules.container\nParameterDict\n.",
        b"\x80\x02]K\x01b.",
        b"\x80\x02}cos\nsystem\nb.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02h\x00.",
        b"\x80\x02(.",
        b"\x80\x02.",
        b"\x80\x02K\x01K\x02.",
        b"\x80\x02(\x85.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02K\x01\x94a.",
        b"\x80\x02}]K\x01s.",
        b"\x80\x02K\x01Q.",
        b"P1\n.",
        b"0.",
        b"2.",
        b"1.",
        b"garbage",
        b"",
        b"\x80\x02" + b"]" * 100 + b"a" * 99 + b".",
        b"\x80\x02" + b"(" * 100_000 + b".",
    ],
)
def test_hand_written_pickles(code: bytes, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = code.replace(b"TRACE", str(trace).encode())
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", code)
    with pytest.raises(ExportError):
        read_torch_file(path)
    assert not trace.exists()


def _zip(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def _tensor_pickle(
    count: int = 4, offset: int = 0, size: str = "(I4\nt", stride: str = "(I1\nt", key: str = "0"
) -> bytes:
    """A pickle of one tensor, with any numbers; written with the small integers' textual form turned to binary."""

    def ints(text: str) -> bytes:
        values = [int(v) for v in text.replace("(", "").replace("t", "").replace("I", "").split()]
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    name = key.encode()
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX" + struct.pack("<I", len(name)) + name
    storage += b"X\x03\x00\x00\x00cpuJ" + struct.pack("<i", count) + b"tQ"
    rest = b"J" + struct.pack("<i", offset) + ints(size) + ints(stride) + b"\x89}tR."
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest


def test_tensors_that_claim_more_than_they_have(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    numbers = np.arange(4, dtype="<f4").tobytes()
    _zip(path, {"x/data.pkl": _tensor_pickle(), "x/data/0": numbers})
    assert read_torch_file(path).tolist() == [0, 1, 2, 3]
    bad = [
        {"size": "(I2000000000\nt", "stride": "(I0\nt"},
        {"size": "(I5\nt"},
        {"offset": 1},
        {"offset": -1},
        {"size": "(I-4\nt"},
        {"stride": "(I-1\nt"},
        {"stride": "(I2\nt"},
        {"size": "(I2\nI2\nt"},
        {"count": 5},
        {"count": -4},
        {"count": 2**31 - 1},
        {"key": "../data.pkl"},
        {"key": "1"},
    ]
    for changes in bad:
        _zip(path, {"x/data.pkl": _tensor_pickle(**changes), "x/data/0": numbers})  # type: ignore[arg-type]
        with pytest.raises(ExportError):
            read_torch_file(path)


def test_zip_archives_that_torch_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    code = _tensor_pickle()
    numbers = bytes(16)
    for entries, method in [
        ({"x/data.pkl": code, "x/data/0": numbers}, zipfile.ZIP_DEFLATED),
        ({"x/data.pkl": code, "y/data.pkl": code, "x/data/0": numbers}, zipfile.ZIP_STORED),
        ({"readme.txt": b"hello"}, zipfile.ZIP_STORED),
        ({"x/data.pkl": code, "x/data/0": numbers, "x/byteorder": b"big"}, zipfile.ZIP_STORED),
        ({"x/data.pkl": code}, zipfile.ZIP_STORED),
        ({}, zipfile.ZIP_STORED),
    ]:
        _zip(path, entries, method)
        with pytest.raises(ExportError):
            read_torch_file(path)


def test_a_bomb_of_shared_numbers(tmp_path: Path) -> None:
    """A thousand views of forty megabytes are forty gigabytes when copied: refused before memory is claimed."""
    whole = torch.zeros(10_000_000)
    torch.save([whole[i:] for i in range(1000)], tmp_path / "x.pt")
    with pytest.raises(ExportError, match="too large"):
        read_torch_file(tmp_path / "x.pt")


def test_a_bomb_of_shared_lists(tmp_path: Path) -> None:
    value: Any = ["x"]
    for _ in range(25):
        value = [value] * 10
    torch.save(value, tmp_path / "x.pt")
    assert len(read_torch_file(tmp_path / "x.pt")) == 10
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    torch.save(deep, tmp_path / "x.pt")
    with pytest.raises(ExportError, match="nested"):
        read_torch_file(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_anywhere(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.randn(2, 8)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for keep in range(0, len(data) - 1, 7):
        path.write_bytes(data[:keep])
        with pytest.raises(ExportError):
            read_torch_file(path)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans())
def test_flipped_bytes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, zipped: bool) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2, 4), "b": [1, "x"]}, buffer, _use_new_zipfile_serialization=zipped)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    path.write_bytes(bytes(content))
    with contextlib.suppress(ExportError):  # whatever else is raised fails the test
        read_torch_file(path)


def test_too_large_missing_and_folders(tmp_path: Path) -> None:
    with open(tmp_path / "big.pt", "wb") as file:
        file.truncate(MAX_FILE_SIZE + 1)
    with pytest.raises(ExportError, match="larger than 64 MB"):
        read_torch_file(tmp_path / "big.pt")
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(FileError):
            read_torch_file(path)
