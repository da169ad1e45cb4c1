"""Reads the pickles inside ``.pt`` files by interpreting their opcodes, without Python's unpickler.

``torch.load(weights_only=True)`` does not do this safely: in torch 2.1.2, which the WebUI pins, a crafted file makes it
run code (CVE-2025-32434, fixed in torch 2.6) or corrupts memory (CVE-2026-24747, fixed in torch 2.10), and this package
cannot update the host's torch. Other restricted unpicklers import and call the globals on their allowlist, and have been
broken more than once.

The interpreter here imports nothing and calls nothing. A global is only its dotted name; the few that stand for data
(tensors, parameters, ordered dictionaries) are turned into plain values, and everything else is refused.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from celeb_basis.errors import ExportError

MAX_OPERATIONS = 200_000
"""Most opcodes that are interpreted, and most values that they make; the pickle of an embedding has a few hundred."""
MAX_BYTES = 8 << 20
"""Longest pickle that is read, in bytes."""
MAX_TEXT = 1 << 20
"""Longest string in a pickle, in bytes."""
MAX_DIMENSIONS = 8
"""Most dimensions of a tensor."""
_MAX_GLOBAL = 256

DAMAGED = "The file is damaged or incomplete: use another copy of it."
TOO_LARGE = "The file is far too large for an embedding: choose another file."
_UNSAFE = "reading it would mean running code or creating unknown objects. Use a .safetensors file instead."

# The opcodes that data needs, by their names in :mod:`pickletools`, with the formats of their arguments. Any other is refused.
_NUMBERS = {
    "BININT": "<i",
    "BININT1": "<B",
    "BININT2": "<H",
    "BINFLOAT": ">d",
    "PROTO": "<B",
    "FRAME": "<Q",
    "BINPUT": "<B",
    "LONG_BINPUT": "<I",
    "BINGET": "<B",
    "LONG_BINGET": "<I",
}
_TEXTS = {"BINUNICODE": "<I", "SHORT_BINUNICODE": "<B", "BINBYTES": "<I", "SHORT_BINBYTES": "<B", "LONG1": "<B"}
_PUSHES_ARGUMENT = frozenset(("BININT", "BININT1", "BININT2", "BINFLOAT", *_TEXTS))
_PUSHES_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
_NAMES = {info.code.encode("latin-1"): info.name for info in pickletools.opcodes}


@dataclass(frozen=True)
class Global:
    """A global that a pickle names. It is never imported."""

    name: str
    """Module and attribute, joined by a dot."""


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as a pickle describes it: a strided view of a storage."""

    storage: Any
    """Whatever ``resolve_storage`` returned."""
    offset: int
    """Index of the first element in the storage."""
    size: tuple[int, ...]
    stride: tuple[int, ...]
    """Steps along each dimension, in elements."""


@dataclass
class ParameterDictRecord:
    """A pickled ``torch.nn.ParameterDict``, which old textual inversion files contain."""

    state: dict[Any, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[Any, Any]:
        """The parameters by name."""
        found = self.state.get("_parameters")
        return found if isinstance(found, dict) else {}


class _Mark:
    """Marks the beginning of a group of values on the stack."""


def read_pickle(stream: BinaryIO, resolve_storage: Callable[[Any], Any] | None = None) -> Any:
    """Read one pickle from ``stream`` and leave the stream just after it.

    Args:
        stream: Bytes positioned at the beginning of a pickle.
        resolve_storage: Turns a persistent id, which is how a pickle refers to a tensor's numbers, into a storage. A
            pickle with persistent ids is refused without it.

    Returns:
        The pickled value, made of dictionaries, lists, tuples, numbers, strings, bytes, :class:`TensorRecord`,
        :class:`ParameterDictRecord`, and :class:`Global` for names that were never called.

    Raises:
        ExportError: The pickle is damaged, or holds anything else.
    """
    interpreter = _Interpreter(resolve_storage)
    try:
        for name, argument in _operations(stream):
            interpreter.step(name, argument)
    except ExportError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError, struct.error):
        raise ExportError(DAMAGED) from None
    if len(interpreter.stack) != 1 or isinstance(interpreter.stack[0], _Mark):
        raise ExportError(DAMAGED)
    return interpreter.stack[0]


def _operations(stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the opcodes up to ``STOP``. Nothing is read that exceeds a bound."""
    left = MAX_BYTES

    def read(count: int) -> bytes:
        nonlocal left
        left -= count
        if left < 0:
            raise ExportError(TOO_LARGE)
        data = stream.read(count)
        if len(data) < count:
            raise ExportError(DAMAGED)
        return data

    def number(layout: str) -> Any:
        return struct.unpack(layout, read(struct.calcsize(layout)))[0]

    name = ""
    while name != "STOP":
        name = _NAMES.get(read(1), "")
        argument: Any = None
        if name in _NUMBERS:
            argument = number(_NUMBERS[name])
        elif name in _TEXTS:
            length = number(_TEXTS[name])
            if length > MAX_TEXT:
                raise ExportError(TOO_LARGE)
            data = read(length)
            if name == "LONG1":
                argument = int.from_bytes(data, "little", signed=True)
            else:
                argument = data if name.endswith("BYTES") else data.decode("utf-8", "surrogatepass")
        elif name == "GLOBAL":
            lines = [stream.readline(_MAX_GLOBAL) for _ in range(2)]
            if not all(line.endswith(b"\n") for line in lines):
                raise ExportError(DAMAGED)
            argument = ".".join(line[:-1].decode("utf-8") for line in lines)
        elif not name:
            raise ExportError(DAMAGED)
        yield name, argument


class _Interpreter:
    """The pickle machine: a stack and a memo.

    A method ``_do_opcode`` carries out the opcode of that name; its parameter is the opcode's argument in the file.
    """

    def __init__(self, resolve_storage: Callable[[Any], Any] | None) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.resolve_storage = resolve_storage
        self._left = MAX_OPERATIONS
        self._actions = {name[4:].upper(): getattr(self, name) for name in dir(self) if name.startswith("_do_")}

    def spend(self, count: int) -> None:
        """Count ``count`` values that are made or copied, however few opcodes ask for them."""
        self._left -= count
        if self._left < 0:
            raise ExportError(TOO_LARGE)

    def step(self, name: str, argument: Any) -> None:
        """Carry out the opcode ``name``."""
        self.spend(1)
        if name in _PUSHES_ARGUMENT:
            self.stack.append(argument)
        elif name in _PUSHES_CONSTANT:
            self.stack.append(_PUSHES_CONSTANT[name])
        elif (action := self._actions.get(name)) is not None:
            action(argument)
        elif name not in _IGNORED:
            raise ExportError(f"The file contains the pickle operation {name}: {_UNSAFE}")

    def _do_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _do_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _do_empty_tuple(self, _: Any) -> None:
        self.stack.append(())

    def _do_mark(self, _: Any) -> None:
        self.stack.append(_Mark())

    def _do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _do_tuple1(self, _: Any) -> None:
        self.stack.append((self._pop(),))

    def _do_tuple2(self, _: Any) -> None:
        second, first = self._pop(), self._pop()
        self.stack.append((first, second))

    def _do_tuple3(self, _: Any) -> None:
        third, second, first = self._pop(), self._pop(), self._pop()
        self.stack.append((first, second, third))

    def _do_append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _do_appends(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def _do_setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict)[_checked_key(key)] = value

    def _do_setitems(self, _: Any) -> None:
        values = self._pop_to_mark()
        if len(values) % 2:
            raise ValueError
        self._top(dict).update({_checked_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)})

    def _do_binput(self, argument: Any) -> None:
        self.memo[argument] = self.stack[-1]

    def _do_long_binput(self, argument: Any) -> None:
        self.memo[argument] = self.stack[-1]

    def _do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _do_binget(self, argument: Any) -> None:
        self.stack.append(self.memo[argument])

    def _do_long_binget(self, argument: Any) -> None:
        self.stack.append(self.memo[argument])

    def _do_global(self, argument: Any) -> None:
        self.stack.append(Global(argument))

    def _do_stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError
        self.stack.append(Global(f"{module}.{name}"))

    def _do_binpersid(self, _: Any) -> None:
        if self.resolve_storage is None:
            raise ValueError
        self.stack.append(self.resolve_storage(self._pop()))

    def _do_newobj(self, _: Any) -> None:
        arguments, kind = self._pop(), self._pop()
        self.stack.append(self._make(kind, arguments))

    def _do_reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        self.stack.append(self._make(function, arguments))

    def _do_build(self, _: Any) -> None:
        state = self._pop()
        if not self.stack or not isinstance(state, dict):
            raise ValueError
        target = self.stack[-1]
        if isinstance(target, ParameterDictRecord):
            self.spend(len(state))
            target.state.update(state)
        elif not isinstance(target, dict):  # attributes of an ordered dictionary (a state dict's versions) are ignored
            raise ExportError(f"The file sets the state of an object: {_UNSAFE}")

    def _make(self, function: Any, arguments: Any) -> Any:
        """What calling ``function`` would give, for the handful of globals that stand for plain data."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError
        if function.name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            storage, offset, size, stride = arguments[:4]
            return TensorRecord(storage, _index(offset), _sizes(size), _sizes(stride))
        if function.name == "torch._utils._rebuild_parameter" and isinstance(arguments[0], TensorRecord):
            return arguments[0]
        if function.name == "collections.OrderedDict":
            if arguments and arguments != ([],):
                raise ValueError
            return {}
        if function.name == "torch.nn.modules.container.ParameterDict" and not arguments:
            return ParameterDictRecord()
        if function.name in ("__builtin__.set", "builtins.set") and len(arguments) == 1:
            if not isinstance(arguments[0], list):
                raise ValueError
            self.spend(len(arguments[0]))
            return tuple(arguments[0])  # inside the state of old parameter dictionaries
        if function.name == "torch.Size" and len(arguments) == 1:
            return _sizes(arguments[0])
        raise ExportError(f"The file refers to {function.name[:80]!a}: {_UNSAFE}")

    def _pop(self) -> Any:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise ValueError
        return value

    def _pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while not isinstance(value := self.stack.pop(), _Mark):
            values.append(value)
        return values[::-1]

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError
        return self.stack[-1]


def _checked_key(key: Any) -> Hashable:
    # The hashes of longer numbers can be made to collide, and a dictionary of such keys takes time that grows with its square.
    if not isinstance(key, (str, int)) or (isinstance(key, int) and not -(2**60) < key < 2**60):
        raise ExportError(f"The file contains a dictionary whose keys are not strings or small integers: {_UNSAFE}")
    return key


def _sizes(values: Any) -> tuple[int, ...]:
    """Check the sizes or strides of a tensor. They are counted before anything is computed of them."""
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise ValueError
    return tuple(map(_index, values))


def _index(value: Any) -> int:
    """Check a size, offset or stride of a tensor."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise ValueError
    return value
