"""Pickles of plain values and arrays of bytes, read without the machinery of pickles.

A pickle is a program: it names functions and calls them. Restricted to a few names it still builds objects from what
the file says: a `numpy.dtype` with an odd state ends the interpreter. Nothing is called here. The opcodes that the
official archives consist of are interpreted on plain values, and an array of unsigned bytes is recognised by its form:
`_reconstruct(ndarray, …)` with the state (version, shape, dtype('u1'), is_fortran, bytes), of which shape, order and
bytes are used. Every other opcode, name and form is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_ARRAY, _TYPE = ("numpy", "ndarray"), ("numpy", "dtype")
_RECONSTRUCT = (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"))
_MARK = object()


class _Name(NamedTuple):
    module: str
    name: str


class _Bytes:
    """The type of unsigned bytes."""


class _Array:
    """An array whose state may still follow."""

    values: np.ndarray | None = None


_BYTES = _Bytes()
#: Opcode -> the value that it leaves, of its argument.
_VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), lambda a: a),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), lambda a: a),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda a: a.encode("latin-1")),  # as `pickletools` decoded it
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "MARK": lambda _: _MARK,
    "GLOBAL": lambda a: _Name(*a.split(" ", 1)),
}


def read_plain(content: bytes) -> Any:
    """Return what a pickle holds: dictionaries, lists, tuples, numbers, texts, bytes, and arrays of unsigned bytes.

    Raises:
        ValueError: anything else, or damage.
    """
    return _Reader().read(content)


class _Reader:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name in _VALUES:
                self.stack.append(_VALUES[name](argument))
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name == "STOP":
                break
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"it has the opcode {name}, which no data file needs")
        value = self.pop()
        return value.values if isinstance(value, _Array) else value

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("it takes a value where there is none")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        place = next((place for place in range(len(self.stack) - 1, -1, -1) if self.stack[place] is _MARK), None)
        if place is None:
            raise ValueError("it takes values up to a mark that is not there")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"it changes what is no {kind.__name__.strip('_').lower()}")
        return self.stack[-1]

    def put(self, place: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("it keeps a value where there is none")
        self.memo[place] = self.stack[-1]

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise ValueError("it asks for a value that it did not keep")
        self.stack.append(self.memo[place])

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(self.pop() for _ in range(count))[::-1])

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2 or not all(isinstance(key, (bytes, str)) for key in items[::2]):
            raise ValueError("it has a dictionary whose keys are no names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("it names something without a name")
        self.stack.append(_Name(module, name))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("it calls what is no function")
        if function in _RECONSTRUCT and arguments[:1] == (_ARRAY,):
            self.stack.append(_Array())
        elif function == _TYPE and arguments[:1] in (("u1",), (b"u1",)):
            self.stack.append(_BYTES)
        elif function == _TYPE:
            told = arguments[0] if arguments and isinstance(arguments[0], (str, bytes)) else ""
            raise ValueError(f"it has an array of type {told!r:.40}; expected unsigned bytes")
        else:
            raise ValueError(f"it asks for {function.module}.{function.name}, which no data file needs")

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if target is _BYTES:  # a byte has no byte order, and nothing else of its state is of use
            return
        if not isinstance(target, _Array) or not (isinstance(state, tuple) and len(state) == 5):
            raise ValueError("it sets a state that no array has")
        _, shape, kind, is_fortran, values = state
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 8
        if kind is not _BYTES or is_fortran is not False or not isinstance(values, bytes) or not sizes:
            raise ValueError("it has an array of another form than rows of unsigned bytes")
        if math.prod(shape) != len(values):
            raise ValueError(f"it has an array of {len(values)} bytes where its shape says {shape}")
        target.values = np.frombuffer(values, np.uint8).reshape(shape)


_STEPS: dict[str, Callable[[_Reader, Any], object]] = {
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Reader.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Reader.get),
    "MEMOIZE": lambda reader, _: reader.put(len(reader.memo)),
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "TUPLE": lambda reader, _: reader.stack.append(tuple(reader.pop_to_mark())),
    "APPEND": lambda reader, _: (lambda value: reader.top(list).append(value))(reader.pop()),
    "APPENDS": lambda reader, _: (lambda values: reader.top(list).extend(values))(reader.pop_to_mark()),
    "SETITEM": lambda reader, _: (lambda value, key: reader.set_items([key, value]))(reader.pop(), reader.pop()),
    "SETITEMS": lambda reader, _: reader.set_items(reader.pop_to_mark()),
    "STACK_GLOBAL": lambda reader, _: reader.stack_global(),
    "REDUCE": lambda reader, _: reader.reduce(),
    "BUILD": lambda reader, _: reader.build(),
}
