"""The tree of a checkpoint: nested Python values as JSON, with the tensors beside it.

Every JSON object has one key, which says what it stands for; JSON's own null, true, numbers, strings and lists are
Python's. Numbers beyond the integers that a float holds exactly are written in base 16.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from minigrad import dtypes, ops
from minigrad.errors import DTypeError, describe, message
from minigrad.tensor import Tensor

__all__ = ["DEEPEST", "Record", "TreeError", "decode", "dump", "encode", "parse"]

Array = np.ndarray[Any, Any]

DEEPEST = 100  # containers inside one another
EXACT = 2**53  # beyond it other readers of JSON round
LONGEST_NUMBER = 32  # characters: the longest that is written has 24
CHUNK = 1 << 20
# a string, or what begins as one and does not end: it must not be tried again from each of its characters
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
KINDS = ("tensor", "array", "scalar")
SAVER = "save_checkpoint"


class TreeError(ValueError):
    """A text, or a tree, that `encode` does not make."""


class Record(NamedTuple):
    """A tensor of the tree.

    Parameters
    ----------
    name : str
        Where it stands first: a JSON pointer, such as ``/model/layers.0.weight``.
    array : numpy.ndarray
        Its values.
    """

    name: str
    array: Array


def encode(state: Any, limit: int | None = None) -> tuple[Any, list[Record]]:
    """What `json.dumps` takes, and the tensors by the numbers that it has for them.

    Parameters
    ----------
    state : object
        Nested dicts, lists and tuples.
    limit : int, optional
        The most characters of all names together; beyond it TreeError is raised.

    Raises
    ------
    TypeError
        If the state has something else than a checkpoint can hold, or a key of a dict that is no str.
    ValueError
        If it contains itself, is nested more than 100 deep, or has text that is no Unicode.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.io.state_tree import encode
    >>> w = mg.ones((2,))
    >>> node, records = encode({"step": 3, "loss": (float("nan"), 2**70), "w": [w, w]})
    >>> node["dict"]["loss"], node["dict"]["w"]
    ({'tuple': [{'float': 'nan'}, {'int': '0x400000000000000000'}]}, [{'tensor': 0}, {'tensor': 0}])
    >>> [record.name for record in records]
    ['/w/0']
    """
    encoder = _Encoder(limit)
    return encoder.node(state, ()), encoder.records


class _Encoder:
    """The tensors that were met, and the containers that are being walked."""

    def __init__(self, limit: int | None) -> None:
        self.records: list[Record] = []
        self.left = math.inf if limit is None else limit
        self.places: dict[Any, int] = {}
        self.above: list[Any] = []

    def node(self, value: Any, path: tuple[str, ...]) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -EXACT <= value <= EXACT else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if kind is str:
            return _checked(value, "state", path)
        if kind is list:
            return list(self.nodes(value, enumerate(value), path))
        if kind is tuple:
            return {"tuple": list(self.nodes(value, enumerate(value), path))}
        if kind is dict:
            for key in value:
                if type(key) is not str:
                    raise TypeError(message(SAVER, f"a key at {_text(path)}", describe(key), "a str"))
                _checked(key, "a key", path)
            return {"dict": dict(zip(value, self.nodes(value, value.items(), path), strict=True))}
        return self.leaf(value, path)

    def nodes(self, container: Any, items: Any, path: tuple[str, ...]) -> Iterator[Any]:
        """Those of a container's items, which are pairs of a key and a value."""
        if any(container is each for each in self.above):
            raise ValueError(message(SAVER, _text(path), "a container of itself", "a tree"))
        if len(self.above) == DEEPEST:
            raise ValueError(
                message(SAVER, _text(path), "nested deeper", f"at most {DEEPEST} containers in one another")
            )
        self.above.append(container)
        for key, value in items:
            yield self.node(value, (*path, str(key)))
        self.above.pop()

    def leaf(self, value: Any, path: tuple[str, ...]) -> dict[str, int]:
        """A tensor, an array or a scalar; one that was met before has its number."""
        if isinstance(value, Tensor):
            if not getattr(value, "is_initialized", True):
                raise TypeError(message(SAVER, _text(path), "a parameter without a shape", "one that is initialized"))
            kind, array = "tensor", value.detach().to(device="cpu").numpy()
        elif type(value) is np.ndarray:
            kind, array = "array", value
        elif isinstance(value, np.generic):
            kind, array = "scalar", np.asarray(value)
        else:
            hint = "Pass its state_dict()" if hasattr(value, "state_dict") else ""
            need = "None, bool, int, float, str, list, tuple, dict, or a tensor"
            raise TypeError(message(SAVER, _text(path), describe(value), need, hint))
        if array.dtype not in dtypes.ALL:
            need = f"one of {', '.join(sorted(map(str, dtypes.ALL)))}"
            raise DTypeError(message(SAVER, _text(path), f"of dtype {array.dtype!r}", need))
        if kind == "scalar":
            return {kind: self.add(path, array)}
        number = self.places.get(id(value))
        if number is None and array.size:  # others over the same memory are the same; empty ones have none
            key = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype)
            number = self.places.get(key)
            if number is None:
                number = self.places[key] = self.add(path, array)
        self.places[id(value)] = self.add(path, array) if number is None else number
        return {kind: self.places[id(value)]}

    def add(self, path: tuple[str, ...], array: Array) -> int:
        """The number of a further tensor, which stands first at a path."""
        name = _pointer(path, self.left)
        self.left -= len(name)
        self.records.append(Record(name, array))
        return len(self.records) - 1


def decode(node: Any, arrays: Sequence[Array]) -> Any:
    """The state that a tree of JSON and its tensors stand for; what shares a number shares memory.

    Raises
    ------
    TreeError
        If there is no such state.

    Examples
    --------
    >>> from minigrad.io.state_tree import decode
    >>> decode({"dict": {"a": {"tuple": [1, {"int": "0x20000000000001"}, {"float": "-inf"}]}}}, [])
    {'a': (1, 9007199254740993, -inf)}
    """
    return _Decoder(arrays).value(node)


class _Decoder:
    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        self.tensors: dict[int, Tensor] = {}

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.value(n) for n in node]
        if not isinstance(node, dict):
            return node
        if len(node) != 1:
            raise TreeError(f"an object with {len(node)} keys in the tree")
        ((tag, inner),) = node.items()
        if tag == "dict" and isinstance(inner, dict):
            return {key: self.value(n) for key, n in inner.items()}
        if tag == "tuple" and isinstance(inner, list):
            return tuple([self.value(n) for n in inner])
        if tag == "int" and isinstance(inner, str):
            return int(inner, 16)
        if tag == "float" and inner in ("nan", "inf", "-inf"):
            return float(inner)
        if tag in KINDS and type(inner) is int and 0 <= inner < len(self.arrays):
            return self.leaf(tag, inner)
        raise TreeError(f"an object {str(tag)[:20]!r} in the tree that stands for nothing")

    def leaf(self, kind: str, number: int) -> Any:
        array = self.arrays[number]
        if kind == "array":
            return array
        if kind == "tensor":
            if number not in self.tensors:
                self.tensors[number] = ops.asarray(array)
            return self.tensors[number]
        if array.ndim:
            raise TreeError("a scalar with axes")
        return array[()]


def dump(node: Any) -> str:
    """A tree as text."""
    return json.dumps(node, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def parse(text: bytes) -> Any:
    """What a text of JSON says; more is refused than JSON does.

    Raises
    ------
    ValueError
        If it is no JSON in UTF-8, nested so deeply that the parser's stack might not suffice, has a key twice in an
        object, a number that `dump` does not write, or text that is no Unicode.

    Examples
    --------
    >>> from minigrad.io.state_tree import parse
    >>> parse(b'{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> parse(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    minigrad.io.state_tree.TreeError: the key 'a' twice in an object
    """
    if _depth(text) > 2 * DEEPEST + 4:
        raise TreeError("JSON nested too deeply")
    return json.loads(
        text.decode(), object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=_refused
    )


def _depth(text: bytes) -> int:
    """How many brackets are open at most; a parser that recurses must not find it out."""
    outside = STRING.sub(b"", text)
    level = deepest = 0
    for start in range(0, len(outside), CHUNK):
        part = np.frombuffer(outside[start : start + CHUNK], np.uint8)
        opened = (part == ord("[")) | (part == ord("{"))
        closed = (part == ord("]")) | (part == ord("}"))
        levels = level + np.cumsum(opened.astype(np.int32) - closed)
        deepest, level = max(deepest, int(levels.max())), int(levels[-1])
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise TreeError(f"the key {key[:20]!r} twice in an object")
        found[key] = value
    return found


def _integer(digits: str) -> int:
    return int(_short(digits))


def _finite(digits: str) -> float:
    found = float(_short(digits))
    if not math.isfinite(found):
        raise TreeError(f"the number {digits}")
    return found


def _short(digits: str) -> str:
    """Digits, unless they are so many that reading them takes long."""
    if len(digits) > LONGEST_NUMBER:
        raise TreeError(f"a number of {len(digits)} digits")
    return digits


def _refused(name: str) -> NoReturn:
    raise TreeError(f"the number {name}")


def _checked(text: str, what: str, path: tuple[str, ...]) -> str:
    """Text that UTF-8 can write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        where = f"{what} at {_text(path)}"
        raise ValueError(message(SAVER, where, repr(text), "Unicode, without lone surrogates")) from None
    return text


def _pointer(path: tuple[str, ...], most: float = math.inf) -> str:
    """A path as a JSON pointer: P. Bryan, K. Zyp, M. Nottingham, "JavaScript Object Notation (JSON) Pointer", 2013."""
    if sum(map(len, path)) > most:  # many tensors below a long key would need much more memory than the file
        raise TreeError("names longer than the header")
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def _text(path: tuple[str, ...]) -> str:
    """A path for an error."""
    try:
        name = _pointer(path)
        name.encode()
    except UnicodeEncodeError:
        name = ascii(name)
    return f"state{name if len(name) <= 200 else name[:200] + '...'}"
