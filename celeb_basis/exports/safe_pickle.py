"""Reading the pickles inside ``.pt`` files without unpickling: a small machine that knows data and nothing else.

Python's unpickler imports and calls whatever a file names, and restricted versions of it have been broken more than
once. This one imports nothing and calls nothing: a global is only its dotted name, and the few that stand for data
(tensors, ordered dictionaries) are turned into plain values by hand. Everything else is refused.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from celeb_basis.errors import ExportError

MAX_OPERATIONS = 1_000_000
"""A pickle of an embedding has some hundred."""

_UNSAFE = "it would have to run code or make unusual objects to be read: take the person's .safetensors file instead."


@dataclass(frozen=True)
class Global:
    """A name that a pickle mentions. It is never looked up."""

    name: str


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as a pickle describes it: a strided view of a storage, offsets and strides counted in elements."""

    storage: Any
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class ParameterDictRecord:
    """A pickled ``torch.nn.ParameterDict``, as old textual inversion files hold it."""

    state: dict[Any, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[Any, Any]:
        """Its parameters by name."""
        found = self.state.get("_parameters")
        return found if isinstance(found, dict) else {}


class _Mark:
    """Where a group of values begins on the stack."""


def read_pickle(stream: io.BytesIO, resolve_storage: Callable[[Any], Any] | None = None) -> Any:
    """The value of one pickle; ``stream`` is left just after it.

    Dictionaries, lists, tuples, numbers, texts, :class:`TensorRecord` and :class:`ParameterDictRecord` come out.
    ``resolve_storage`` turns a persistent id, which is how a pickle points at a tensor's numbers, into a storage.

    Raises: :class:`ExportError` for a damaged pickle or one that holds anything else.
    """
    machine = _Machine(resolve_storage)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OPERATIONS:
                raise ExportError("The file is far too large for an embedding: choose another one.")
            machine.step(opcode.name, argument)
    except ExportError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError, MemoryError):
        raise ExportError("The file is damaged or incomplete: take another copy of it.") from None
    if len(machine.stack) != 1 or isinstance(machine.stack[0], _Mark):
        raise ExportError("The file is damaged or incomplete: take another copy of it.")
    return machine.stack[0]


class _Machine:
    def __init__(self, resolve_storage: Callable[[Any], Any] | None) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.resolve_storage = resolve_storage

    def step(self, name: str, argument: Any) -> None:
        """Carry out one operation."""
        if name in _PUSHES_ARGUMENT:
            self.stack.append(argument)
        elif name in _PUSHES_CONSTANT:
            self.stack.append(_PUSHES_CONSTANT[name])
        elif name in _IGNORED:
            return
        elif name in _ACTIONS:
            getattr(self, f"_{name.lower()}")(argument)
        else:
            raise ExportError(f"The file holds the pickle operation {name}: {_UNSAFE}")

    # Each method is named after its operation; the argument is what follows the operation in the file.
    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _empty_tuple(self, _: Any) -> None:
        self.stack.append(())

    def _mark(self, _: Any) -> None:
        self.stack.append(_Mark())

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _tuple1(self, _: Any) -> None:
        self.stack[-1:] = [self._last(1)]

    def _tuple2(self, _: Any) -> None:
        self.stack[-2:] = [self._last(2)]

    def _tuple3(self, _: Any) -> None:
        self.stack[-3:] = [self._last(3)]

    def _append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def _setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict)[_checked_key(key)] = value

    def _setitems(self, _: Any) -> None:
        values = self._pop_to_mark()
        if len(values) % 2:
            raise ValueError
        self._top(dict).update({_checked_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)})

    def _binput(self, argument: Any) -> None:
        self.memo[argument] = self.stack[-1]

    def _long_binput(self, argument: Any) -> None:
        self.memo[argument] = self.stack[-1]

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _binget(self, argument: Any) -> None:
        self.stack.append(self.memo[argument])

    def _long_binget(self, argument: Any) -> None:
        self.stack.append(self.memo[argument])

    def _global(self, argument: Any) -> None:
        self.stack.append(Global(str(argument).replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError
        self.stack.append(Global(f"{module}.{name}"))

    def _binpersid(self, _: Any) -> None:
        if self.resolve_storage is None:
            raise ValueError
        self.stack.append(self.resolve_storage(self._pop()))

    def _newobj(self, _: Any) -> None:
        arguments, kind = self._pop(), self._pop()
        self.stack.append(_make(kind, arguments))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        self.stack.append(_make(function, arguments))

    def _build(self, _: Any) -> None:
        state = self._pop()
        if not self.stack or not isinstance(state, dict):
            raise ValueError
        target = self.stack[-1]
        if isinstance(target, ParameterDictRecord):
            target.state.update(state)
        elif not isinstance(target, dict):  # an ordered dictionary's attributes (a state dict's versions) are of no use
            raise ExportError(f"The file sets the state of an object: {_UNSAFE}")

    def _pop(self) -> Any:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise ValueError
        return value

    def _last(self, count: int) -> tuple[Any, ...]:
        values = tuple(self.stack[-count:])
        if len(values) != count or any(isinstance(value, _Mark) for value in values):
            raise ValueError
        return values

    def _pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while not isinstance(value := self.stack.pop(), _Mark):
            values.append(value)
        return values[::-1]

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError
        return self.stack[-1]


_PUSHES_ARGUMENT = frozenset(
    {
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINBYTES",
        "SHORT_BINBYTES",
    }
)
_PUSHES_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_ACTIONS = frozenset(
    {
        "EMPTY_DICT",
        "EMPTY_LIST",
        "EMPTY_TUPLE",
        "MARK",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "BINPUT",
        "LONG_BINPUT",
        "MEMOIZE",
        "BINGET",
        "LONG_BINGET",
        "GLOBAL",
        "STACK_GLOBAL",
        "BINPERSID",
        "NEWOBJ",
        "REDUCE",
        "BUILD",
    }
)


def _checked_key(key: Any) -> Hashable:
    if not isinstance(key, (str, int)):
        raise ExportError(f"The file holds a dictionary whose keys are no texts: {_UNSAFE}")
    return key


def _make(function: Any, arguments: Any) -> Any:
    """What calling ``function`` would give, for the handful of names that stand for plain data."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise ValueError
    if function.name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        storage, offset, size, stride = arguments[:4]
        return TensorRecord(storage, _index(offset), tuple(map(_index, size)), tuple(map(_index, stride)))
    if function.name == "torch._utils._rebuild_parameter" and isinstance(arguments[0], TensorRecord):
        return arguments[0]
    if function.name == "collections.OrderedDict":
        if arguments and arguments != ([],):
            raise ValueError
        return {}
    if function.name == "torch.nn.modules.container.ParameterDict" and not arguments:
        return ParameterDictRecord()
    if function.name in ("__builtin__.set", "builtins.set") and len(arguments) == 1:
        return tuple(arguments[0])  # inside the state of old parameter dictionaries
    if function.name == "torch.Size" and len(arguments) == 1:
        return tuple(map(_index, arguments[0]))
    raise ExportError(f"The file asks for {function.name[:80]!a}: {_UNSAFE}")


def _index(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise ValueError
    return value
