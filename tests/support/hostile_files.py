"""Files made to hurt what reads them: a generator of named files, and the bounded process that reads each in every way."""

from __future__ import annotations

import base64
import io
import itertools
import json
import pickle
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from support.bounded import SECONDS_OF_CPU, limit_cpu, memory_now, peak_since, seconds_of_cpu
from support.hostile_pictures import chunk, png

MARK = "CODE-WAS-RUN"
"""Name of the file that a payload makes where it is run."""


class Payload:
    """Runs a program when it is unpickled."""

    def __init__(self, module: str = "os", name: str = "system") -> None:
        self.module, self.name = module, name

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return getattr(__import__(self.module), self.name), (f"open({MARK!r}, 'w')",)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def zipped(content: bytes, *, others: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for name, data in (others or {}).items():
            archive.writestr(name, data)
    return file.getvalue()


def tensor_pickle(
    size: tuple[int, ...], stride: tuple[int, ...], *, offset: int = 0, count: int = 4, kind: str = "FloatStorage"
) -> bytes:
    """What torch writes for one tensor, by hand, with any sizes."""

    def number(value: int) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text("0") + text("cpu") + number(count) + b"tQ"
    )
    hooks = b"ccollections\nOrderedDict\n)R"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + numbers(size)
        + numbers(stride)
        + b"\x89"
        + hooks
        + b"tR"
    )
    return b"\x80\x02}" + text("string_to_param") + b"}" + text("*") + tensor + b"ss."


def pickles() -> Iterator[tuple[str, bytes]]:
    """Programs of the pickle machine."""
    for protocol in range(6):
        for module, name in (("os", "system"), ("builtins", "eval"), ("builtins", "exec"), ("subprocess", "getoutput")):
            yield f"code-{module}-{name}-{protocol}", pickle.dumps(Payload(module, name), protocol)
    for line in (
        b"cos\nsystem\n(S'touch x'\ntR.",
        b"(S'touch x'\nios\nsystem\n.",
        b"cbuiltins\ngetattr\n(cos\nS'system'\ntR.",
    ):
        yield "global", line
    for name in (
        "torch.load",
        "torch.hub.load",
        "numpy.load",
        "codecs.encode",
        "operator.attrgetter",
        "functools.partial",
        "torch.jit.load",
    ):
        module, attribute = name.rsplit(".", 1)
        yield (
            f"library-{attribute}",
            b"\x80\x02c" + module.encode() + b"\n" + attribute.encode() + b"\n(X\x01\0\0\0xtR.",
        )
    yield "stack-global", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R."
    yield "extension", b"\x80\x02\x82\x01."
    yield "persistent", b"Pevil\n."
    memo = b"\x80\x02X\x00\x00\x10\x00" + b"a" * (1 << 20) + b"q\0"
    yield "string-repeated-in-a-list", memo + b"](" + b"h\0" * 4_000_000 + b"e."
    yield "string-repeated-in-a-tuple", memo + b"(" + b"h\0" * 4_000_000 + b"t."
    yield "string-repeated-in-a-set", b"\x80\x04\x8c\x01a\x94\x8f(" + b"h\0" * 8_000_000 + b"\x90."
    yield "string-repeated-in-a-frozenset", b"\x80\x04\x8c\x01a\x94(" + b"h\0" * 8_000_000 + b"\x91."
    yield "string-repeated-in-a-dictionary", b"\x80\x02X\x01\0\0\0aq\0}(" + b"h\0" * 8_000_000 + b"u."
    yield "empty-lists", b"\x80\x02(" + b"]" * 8_000_000 + b"t."
    yield "empty-dictionaries", b"\x80\x02(" + b"}" * 8_000_000 + b"t."
    yield "marks", b"\x80\x02" + b"(" * 8_000_000 + b"."
    yield "duplicates", b"\x80\x02]" + b"2" * 8_000_000 + b"."
    yield "memo-put", b"\x80\x02N" + b"".join(b"r" + struct.pack("<I", n) for n in range(1_000_000)) + b"."
    yield "nested-tuples", b"\x80\x02N" + b"\x85" * 2_000_000 + b"."
    yield "nested-lists", b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"."
    doubling = b"\x80\x02]q\0"
    for place in range(60):
        doubling += b"](h" + bytes([place]) + b"h" + bytes([place]) + b"eq" + bytes([place + 1])
    yield "doubling-lists", doubling + b"."
    step = (1 << 61) - 1
    yield (
        "colliding-numbers",
        b"\x80\x02}(" + b"".join(pickle.dumps(n * step, 2)[2:-1] + b"K\1" for n in range(60_000)) + b"u.",
    )
    yield (
        "colliding-floats",
        b"\x80\x02}(" + b"".join(b"G" + struct.pack(">d", float(n) * 2.0**61) + b"K\1" for n in range(60_000)) + b"u.",
    )
    yield (
        "colliding-tuples",
        b"\x80\x02}("
        + b"".join(pickle.dumps((n * step,), 2)[2:-1].replace(b"q\0", b"") + b"K\1" for n in range(30_000))
        + b"u.",
    )
    yield "long-number", b"\x80\x02\x8b" + struct.pack("<i", 4_000_000) + b"\x7f" * 4_000_000 + b"."
    yield "long-number-in-text", b"I" + b"9" * 2_000_000 + b"\n."
    yield "long-line", b"S'" + b"a" * 20_000_000
    yield "long-escapes", b"S'" + b"\\x41" * 4_000_000 + b"'\n."
    for code, width in ((b"X", 4), (b"T", 4), (b"\x8d", 8), (b"\x8e", 8), (b"B", 4), (b"\x8b", 4), (b"\x96", 8)):
        for claimed in ((1 << (8 * width - 1)) - 1, (1 << (8 * width)) - 1):
            yield f"claims-{code.hex()}-{claimed:x}", b"\x80\x05" + code + claimed.to_bytes(width, "little") + b"abc."
    yield "no-end", b"\x80\x02" + b"N0" * 4_000_000
    yield "empty", b""
    yield "only-a-protocol", b"\x80\x02"
    yield "protocol-255", b"\x80\xff."
    yield "frames", b"\x80\x04" + b"\x95" + struct.pack("<Q", 1 << 62) + b"N."


def torch_files() -> Iterator[tuple[str, bytes]]:
    """Files of torch, zipped or not, whose sizes lie."""
    sizes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((1 << 40,), (1,)),
        ((1 << 40,), (0,)),
        ((1 << 62, 1 << 62), (1, 1)),
        ((2, 768), (1 << 62, 1)),
        ((2, 2), (-1, 1)),
        ((-1, 768), (768, 1)),
        ((2,) * 70, (0,) * 70),
        ((1,) * 100_000, (0,) * 100_000),
        ((0, 1 << 62), (1, 1)),
        ((50_000, 50_000), (0, 0)),
    ]
    for place, (size, stride) in enumerate(sizes):
        yield f"sizes-{place}.pt", zipped(tensor_pickle(size, stride), others={"archive/data/0": bytes(16)})
    for offset, count in ((1 << 62, 4), (-1, 4), (0, 1 << 60), (0, -4)):
        content = tensor_pickle((2, 2), (2, 1), offset=offset, count=count)
        yield f"storage-{offset}-{count}.pt", zipped(content, others={"archive/data/0": bytes(16)})
    for kind in ("DoubleStorage", "BoolStorage", "ComplexDoubleStorage", "UntypedStorage", "Nothing"):
        yield f"kind-{kind}.pt", zipped(tensor_pickle((2, 2), (2, 1), kind=kind), others={"archive/data/0": bytes(16)})
    good = zipped(tensor_pickle((2, 2), (2, 1)), others={"archive/data/0": bytes(16)})
    for share in range(1, 12):
        yield f"cut-{share}.pt", good[: len(good) * share // 12]
    yield "deflated-bomb.pt", zipped(b"\x80\x02" + b"N0" * 100_000_000 + b"N.", method=zipfile.ZIP_DEFLATED)
    bomb = zipped(
        tensor_pickle((2, 2), (2, 1)), others={"archive/data/0": bytes(500_000_000)}, method=zipfile.ZIP_DEFLATED
    )
    yield "deflated-storage.pt", bomb
    yield "many-entries.pt", zipped(b"N.", others={f"archive/data/{n}": b"" for n in range(60_000)})
    yield "paths.pt", zipped(b"N.", others={"../../evil": b"x", "/etc/evil": b"x"})
    yield "two-pickles.pt", zipped(b"N.", others={"other/data.pkl": pickle.dumps(Payload())})
    yield "no-directory.pt", b"PK\x03\x04" + bytes(100)
    for place, (name, content) in enumerate(itertools.islice(pickles(), 30)):
        yield f"old-{place}-{name}.pt", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + content


def safetensors_files() -> Iterator[tuple[str, bytes]]:
    """Headers that lie, and descriptions that are too large."""

    def entry(shape: object, offsets: object, dtype: object = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    for name, described in {
        "beyond": entry([4], [0, 1 << 40]),
        "negative": entry([4], [-16, 0]),
        "backward": entry([4], [16, 0]),
        "huge": entry([1 << 40, 1 << 40], [0, 16]),
        "many-dimensions": entry([1] * 100_000, [0, 4]),
        "text-shape": entry("4", [0, 16]),
        "float-shape": entry([4.0], [0, 16]),
        "true-shape": entry([True], [0, 4]),
        "dtype": entry([4], [0, 16], "X99"),
        "dtype-list": entry([4], [0, 16], ["F32"]),
        "three-offsets": entry([4], [0, 16, 16]),
        "null": None,
        "nothing": {},
    }.items():
        yield f"{name}.safetensors", safetensors({"t": described}, bytes(16))
    yield "overlap.safetensors", safetensors({"a": entry([4], [0, 16]), "b": entry([4], [8, 24])}, bytes(24))
    yield "gap.safetensors", safetensors({"a": entry([4], [8, 24])}, bytes(24))
    yield "many.safetensors", safetensors({f"t{n}": entry([0], [0, 0]) for n in range(200_000)})
    yield "deep.safetensors", safetensors(b'{"t":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    yield "number.safetensors", safetensors(b'{"t":' + b"9" * 900_000 + b"}")
    yield "nan.safetensors", safetensors(b'{"t": NaN}')
    yield "double-keys.safetensors", safetensors(b"{" + b",".join([b'"t": {}'] * 50_000) + b"}")
    for length in (0, 1, 1 << 31, 1 << 62, (1 << 64) - 1):
        yield f"length-{length}.safetensors", safetensors(b"{}", bytes(16), length)
    for size in (300_000, 3_000_000, 28_000_000):
        metadata = {"__metadata__": {"identity": json.dumps({"name": "ada", "notes": "x" * size})}}
        yield f"description-{size}.safetensors", safetensors(metadata | {"t": entry([4], [0, 16])}, bytes(16))
    yield "metadata-many.safetensors", safetensors({"__metadata__": {f"k{n}": "v" for n in range(300_000)}})
    yield "metadata-list.safetensors", safetensors({"__metadata__": [1, 2]})
    yield "metadata-number.safetensors", safetensors({"__metadata__": {"identity": 3}})
    for name, text in {
        "deep": "[" * 100_000,
        "number": '{"name": ' + "9" * 100_000 + "}",
        "surrogate": '{"name": "\\ud800"}',
        "list": "[]",
        "empty": "",
        "null": "null",
        "name": json.dumps({"name": "../../evil", "format_version": 1}),
        "version": json.dumps({"name": "ada", "format_version": 10**30}),
    }.items():
        for key in ("identity", "state", "celeb_basis", "basis"):
            held = {"__metadata__": {key: text}, "t": entry([4], [0, 16])}
            yield f"{key}-{name}.safetensors", safetensors(held, bytes(16))


def pictures_with_embeddings() -> Iterator[tuple[str, bytes]]:
    """PNG files whose text is read as an embedding."""

    def picture(*chunks: bytes) -> bytes:
        return png(8, 8, before=b"".join(chunks))

    key = b"sd-ti-embedding\0"
    for name, content in {
        "no-base64": b"!!!",
        "no-json": base64.b64encode(b"{"),
        "deep": base64.b64encode(b"[" * 100_000),
        "list": base64.b64encode(b"[]"),
        "ragged": base64.b64encode(json.dumps({"string_to_param": {"*": {"TORCHTENSOR": [[1], [1, 2]]}}}).encode()),
        "nested": base64.b64encode(json.dumps({"string_to_param": {"*": {"TORCHTENSOR": [[[[1.0]]]]}}}).encode()),
        "text": base64.b64encode(json.dumps({"string_to_param": {"*": {"TORCHTENSOR": "x"}}}).encode()),
        "numbers": base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": [[' + b"1e999," * 1000 + b"1]]}}}"),
        "large": base64.b64encode(b" " * 12_000_000),
    }.items():
        yield f"{name}.png", picture(chunk(b"tEXt", key + content))
    bomb = zlib.compress(b"A" * 300_000_000, 9)
    yield "bomb.png", picture(chunk(b"zTXt", key + b"\0" + bomb))
    yield "bomb-international.png", picture(chunk(b"iTXt", key + b"\1\0\0\0" + bomb))
    yield "many-texts.png", picture(*[chunk(b"tEXt", b"k%d\0v" % n) for n in range(100_000)])
    yield "claims.png", picture(struct.pack(">I", 0x7FFFFFFF) + b"tEXt" + key)


def texts() -> Iterator[tuple[str, bytes]]:
    """JSON and lists."""
    for name, content in {
        "deep": b"[" * 5_000_000,
        "number": b"9" * 5_000_000,
        "wide": b"[" + b"0," * 5_000_000 + b"0]",
        "strings": b"[" + b'"",' * 4_000_000 + b'""]',
        "keys": b"{" + b",".join(b'"%d":0' % n for n in range(1_000_000)) + b"}",
        "surrogate": b'{"files": [{"path": "\\ud800", "kind": "x", "people": ["a"], "sha256": ""}]}',
        "nan": b'{"files": NaN}',
        "zeros": bytes(20_000_000),
        "utf16": '{"files": []}'.encode("utf-16"),
        "marks": b"\xff\xfe" * 1000,
    }.items():
        yield f"{name}.json", content
    yield "endless-line.txt", b"a" * 60_000_000
    yield "many-lines.txt", b"a\n" * 20_000_000
    yield "zeros.txt", bytes(5_000_000)
    yield "no-text.txt", b"\xff\xfe\x00\xd8" * 1000


def corpus() -> Iterator[tuple[str, bytes]]:
    """Every file, with a name that says what it is."""
    for place, (name, content) in enumerate(pickles()):
        yield f"{place}-{name}.pt", content
        if len(content) < 1 << 16 and place % 2:
            yield f"{place}-{name}-zipped.pt", zipped(content)
    yield from torch_files()
    yield from safetensors_files()
    yield from pictures_with_embeddings()
    yield from texts()
    rng = random.Random(7)
    for place in range(20):
        yield f"noise-{place}.{('pt', 'safetensors', 'png', 'json')[place % 4]}", rng.randbytes(2000)


def read(path: Path) -> tuple[str, str, float, float]:
    """Read a file in every way in which a user's file is read.

    Returns:
        What was said or what went wrong, the most costly way, and the most megabytes and seconds of the processor of a way.
    """
    from celeb_basis.exports.celebbasis_repo import read_celebbasis_basis, read_celebbasis_file
    from celeb_basis.exports.textual_inversion import import_embedding
    from celeb_basis.identities.folder_lock import deleted_since
    from celeb_basis.identities.generated_files import GeneratedFiles
    from celeb_basis.identities.identity import load_identity
    from celeb_basis.names.lists import read_names
    from celeb_basis.training.state import read_summary

    ways: dict[str, Callable[[Path], object]] = {
        "embedding": import_embedding,
        "paper": read_celebbasis_file,
        "paper's basis": read_celebbasis_basis,
        "identity": load_identity,
        "state": read_summary,
        "names": read_names,
    }
    if path.suffix == ".json":
        for name in (".derived.json", ".deleted.json"):
            (path.parent / name).write_bytes(path.read_bytes())
        ways["record"] = lambda path: GeneratedFiles(path.parent).all()
        ways["marks"] = lambda path: deleted_since(path.parent, "ada", 0.0)
    said, costs = [], []
    for name, way in ways.items():
        before, began = memory_now(), seconds_of_cpu()
        limit_cpu(2 * SECONDS_OF_CPU)
        said.append(f"{name}: {_outcome(way, path)}")
        costs.append((seconds_of_cpu() - began, peak_since(before), name))
    wrong = [one for one in said if one.split(": ")[1] in ("vague", "raised")]
    most = max(costs)
    return (wrong or [", ".join(said)])[0], most[2], max(peak for _, peak, _ in costs), most[0]


def _outcome(way: Callable[[Path], object], path: Path) -> str:
    from celeb_basis.errors import CelebBasisError

    try:
        way(path)
    except CelebBasisError as error:
        text = str(error)
        return "refused" if text.rstrip().endswith((".", ")")) and len(text) <= 3000 else f"vague: {text[:200]}"
    except Exception as error:
        return f"raised: {type(error).__name__}: {str(error)[:200]}"
    return "read"


def main(folder: Path) -> None:
    """Read every file of a folder. A line each: name, outcome, dearest way, most megabytes, most seconds."""
    import celeb_basis.exports.celebbasis_repo
    import celeb_basis.exports.textual_inversion
    import celeb_basis.identities.deletion
    import celeb_basis.training.state  # noqa: F401

    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        outcome, way, megabytes, seconds = read(path)
        print(json.dumps([path.name, outcome, way, megabytes, round(seconds, 2)]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
